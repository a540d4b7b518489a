"""What `binas models` tells: a line for each published network, and all options of a single one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from binas.config import describe
from binas.models.registry import MODELS


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


def model_lines(names: Sequence[str]) -> list[str]:
    """A line for each network; for a single one also its summary, binarization and options."""
    rows = model_rows(names)
    width = max(len(row["name"]) for row in rows)
    if len(rows) > 1:
        return [f"{row['name']:<{width}}  {row['paper']}{_origin(row)}" for row in rows]
    (row,) = rows
    parts = (f"{part} {row['binarization'][part]['name']}" for part in ("activation", "weight"))
    options = [
        f"  --model.{key}{_default(option['default'])}\n        {option['help']}".rstrip()
        for key, option in row["options"].items()
    ]
    return [
        f"{row['name']}: {row['paper']}{_origin(row)}",
        row["summary"],
        f"binarization: {', '.join(parts)}",
        *options,
    ]


def _origin(row: Mapping[str, Any]) -> str:
    return f" [{row['from']}]" if row["from"] else ""


def _default(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f" (default: {len(value)} of them, told by --json)"
    return "" if value == "" else f" (default: {value})"
