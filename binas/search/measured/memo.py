"""What a search has measured, one row each: a search that goes on asks again, and is told what it knew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from binas.errors import UserError
from binas.run.files import AppendedFile


class Memo:
    """Measured values by key, in memory and, with a file, on the disk: a JSON line for each.

    Args:
        file: read at once; a last line that is not whole is cut off. None: memory only.
    Raises:
        UserError: a line before the last one is damaged, or the file cannot be written.
    """

    def __init__(self, file: Path | None) -> None:
        self.values: dict[str, Any] = {}
        self._file: AppendedFile | None = None
        if file is None:
            return
        if file.exists():
            self._read(file)
        self._file = AppendedFile(file)

    def _read(self, file: Path) -> None:
        whole, newline, _ = file.read_bytes().rpartition(b"\n")
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                row = json.loads(line)
                self.values[row["key"]] = row["value"]
            except (ValueError, KeyError, TypeError):
                raise UserError(
                    f"{file}: line {number} is damaged; remove the line, it is measured again"
                ) from None
        with open(file, "r+b") as opened:
            opened.truncate(len(whole) + len(newline))

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def put(self, key: str, value: Mapping[str, Any]) -> None:
        """Keeps plain values; what is kept once is not written again."""
        if key in self.values:
            return
        self.values[key] = dict(value)
        if self._file is not None:
            self._file.append(json.dumps({"key": key, "value": dict(value)}).encode() + b"\n")
            self._file.sync()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
