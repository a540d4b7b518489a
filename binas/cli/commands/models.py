"""`binas models`: list the published networks, or the options of one."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from binas.cli.arguments import Arguments, plugins
from binas.cli.session import Overrides
from binas.models import MODELS
from binas.plugins import load_plugins
from binas.registries import REGISTRIES

DESCRIPTION = "binas retrain --model NAME trains one; --model.KEY VALUE changes an option."


def add_arguments(arguments: Arguments) -> None:
    """What the command takes."""
    arguments.add("name", nargs="?", metavar="NAME", help="of one of them: its options too")
    arguments.add("--json", action="store_true", help="print JSON")
    plugins(arguments)


def run(options: Namespace, overrides: Overrides) -> int:
    """binas models"""
    from binas.models.listing import model_rows

    load_plugins(options.plugins, REGISTRIES)
    names = [options.name] if options.name else list(MODELS)
    rows = model_rows(names)
    print(json.dumps(rows) if options.json else "\n".join(model_lines(rows)))
    return 0


def model_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each network; for a single one also its summary, binarization and options."""
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
