"""What the files of all kinds of genotypes have in common: version, space, plug-ins, where it comes from."""

from __future__ import annotations

import json
from typing import Any, Literal

from binas.config import Config
from binas.plugins import PluginRecord

FORMAT = "binas-genotype"
VERSION = 2
"""That is written; version 1, which knew cells without choices only, is read for ever."""
LAST_KEYS = ("plugins", "provenance")


class GenotypeFile(Config):
    """Base of genotypes: a frozen value that never builds a model, and its JSON."""

    format: Literal["binas-genotype"] = "binas-genotype"
    version: Literal[2] = 2
    kind: str
    """What it describes: `cell` or `macro`."""
    space: dict[str, Any] = {}
    """The search space, whole, so that the next command needs only this file."""
    plugins: tuple[PluginRecord, ...] = ()
    provenance: dict[str, Any] = {}
    """Where it comes from: config, seed, versions, data splits; not part of its identity."""

    def hash(self) -> str:
        """A name of what is computed; provenance, plug-in hashes and settings of the space are left out."""
        raise TypeError(f"{type(self).__name__} defines no hash")

    def to_json(self) -> str:
        """JSON with one choice per line, so that differences read well."""
        fields = self.model_dump(mode="json")
        keys = [*(key for key in fields if key not in LAST_KEYS), *LAST_KEYS]
        lines = [f'  "{key}": {self._written(key, fields[key])}' for key in keys]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def _written(self, key: str, value: Any) -> str:
        """The JSON of one key."""
        return json.dumps(value, indent=2).replace("\n", "\n  ")
