"""`binas ops`: list the operations, or check one of your own."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from binas.cli.arguments import Arguments, plugins
from binas.cli.session import Overrides
from binas.errors import UserError
from binas.ops import OPS
from binas.plugins import load_plugin, load_plugins
from binas.registries import REGISTRIES

DESCRIPTION = "binas ops check my_ops.py:my_op tests the contract."


def add_arguments(arguments: Arguments) -> None:
    """What the command takes."""
    arguments.add("action", nargs="?", choices=("list", "check"), default="list")
    arguments.add(
        "target", nargs="?", metavar="FILE:NAME", help="what to check: your file and a name in it, or a name"
    )
    arguments.add("--json", action="store_true", help="print JSON")
    plugins(arguments)


def run(options: Namespace, overrides: Overrides) -> int:
    """binas ops"""
    from binas.ops.contract import describe_op
    from binas.ops.op_check import check_op

    load_plugins(options.plugins, REGISTRIES)
    if options.action == "check":
        if not options.target:
            raise UserError("ops check: what? Give your file and the name in it: my_ops.py:my_op")
        target, op = _check_target(options.target)
        for line in check_op(op):
            print(f"ok  {line}")
        print(f"{target} keeps the contract of an operation")
        return 0
    rows = [{"name": name, "summary": describe_op(name), "from": Path(OPS.origin(name)).name} for name in OPS]
    if options.json:
        print(json.dumps(rows))
        return 0
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        origin = f" [{row['from']}]" if row["from"] else ""
        print(f"{row['name']:<{width}}  {row['summary']}{origin}")
    return 0


def _check_target(target: str) -> tuple[str, Any]:
    file, _, name = target.rpartition(":")
    if not file:
        return name, name if name in OPS else OPS[name]
    module, record = load_plugin(Path(file), REGISTRIES)
    if name in record.operations:
        return name, name
    if not hasattr(module, name):
        known = ", ".join(record.operations) or "nothing"
        raise UserError(f"{file}: defines no '{name}'; it registers {known}")
    return name, getattr(module, name)
