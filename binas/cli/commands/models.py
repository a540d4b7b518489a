"""`binas models`: list the published networks, or the options of one."""

from __future__ import annotations

import json
from argparse import Namespace

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
    from binas.models.listing import model_lines, model_rows

    load_plugins(options.plugins, REGISTRIES)
    names = [options.name] if options.name else list(MODELS)
    print(json.dumps(model_rows(names)) if options.json else "\n".join(model_lines(names)))
    return 0
