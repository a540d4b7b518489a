"""`binas binarizers`: list the binarizers, or check one of your own."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

from binas.cli.arguments import Arguments, plugins
from binas.cli.session import Overrides
from binas.errors import UserError
from binas.plugins import load_plugin, load_plugins
from binas.registries import REGISTRIES

DESCRIPTION = "binas binarizers check my_binarizers.py tests the contract."


def add_arguments(arguments: Arguments) -> None:
    """What the command takes."""
    arguments.add("action", nargs="?", choices=("list", "check"), default="list")
    arguments.add(
        "target", nargs="?", metavar="NAME", help="what to check: a name, your file, or your file:name"
    )
    arguments.add("--json", action="store_true", help="print JSON, with all variants")
    plugins(arguments)


def run(options: Namespace, overrides: Overrides) -> int:
    """binas binarizers"""
    from binas.binarize.binarizer_check import check_binarizer
    from binas.binarize.catalogue import rows, to_line

    load_plugins(options.plugins, REGISTRIES)
    if options.action == "check":
        if not options.target:
            raise UserError("binarizers check: what? Give a name, or your file: my_binarizers.py")
        for kind, name in _check_binarizers(options.target):
            for line in check_binarizer(kind, name):
                print(f"ok  {line}")
            print(f"{name} keeps the contract of a binarizer ({kind})")
        return 0
    table = list(rows())
    print(json.dumps(table) if options.json else "\n".join(map(to_line, table)))
    return 0


def _check_binarizers(target: str) -> list[tuple[str, str]]:
    """Kind and name of what is to be checked: a registered name, FILE:NAME, or all that a file registers."""
    from binas.binarize.catalogue import kinds_of

    file, _, name = target.rpartition(":")
    if not file and target.endswith(".py"):
        file, name = target, ""
    names = [name]
    known: list[str] = []
    if file:
        known = list(filter(kinds_of, load_plugin(Path(file), REGISTRIES)[1].operations))
        names = [name] if name else known
    found = [(kind, name) for name in names for kind in kinds_of(name)]
    if not found or (file and name and name not in known):
        raise UserError(
            f"{target}: no such binarizer; "
            + (f"{file} registers {', '.join(known) or 'none'}" if file else "binas binarizers lists all")
            + "; register yours with @ACTIVATION_BINARIZERS.register(NAME) or WEIGHT_BINARIZERS"
        )
    return found
