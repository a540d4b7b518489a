"""What there is to tell about published networks: paper, summary, binarization, every option."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from binas.config import describe
from binas.models.model_registry import MODELS


def model_rows(names: Sequence[str]) -> list[dict[str, Any]]:
    """Name, paper, summary, binarization and options of each network, for JSON."""
    rows = []
    for name in names:
        model = MODELS[name]
        defaults = model.options.model_dump(mode="json")
        rows.append(
            {
                "name": name,
                "paper": model.paper,
                "from": Path(MODELS.origin(name)).name,
                "summary": " ".join((model.build.__doc__ or "").split("\n\n")[0].split()),
                "binarization": model.binarization.model_dump(mode="json"),
                "options": {
                    key: {"default": defaults.get(key, inside), "help": text}
                    for key, inside, text in describe(type(model.options))
                },
            }
        )
    return rows
