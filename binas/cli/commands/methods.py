"""`binas methods`: list what a search is composed of, and what may be registered beside it."""

from __future__ import annotations

import inspect
import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import binas
from binas.cli.arguments import Arguments, plugins
from binas.cli.session import Overrides
from binas.config import option_parameters
from binas.plugins import load_plugins
from binas.registries import REGISTRIES
from binas.registry import Registry

DESCRIPTION = """\
Strategies, relaxations, regularizers, decisions, measures, stage parts and activations by name, each with its
options and the file it stands in; a recipe takes a name, or a mapping: {name: single_path, option: value}."""


def add_arguments(arguments: Arguments) -> None:
    """What the command takes."""
    arguments.add("--json", action="store_true", help="print JSON")
    plugins(arguments)


def run(options: Namespace, overrides: Overrides) -> int:
    """binas methods"""
    load_plugins(options.plugins, REGISTRIES)
    table = list(rows())
    if options.json:
        print(json.dumps(table))
        return 0
    width = max(len(row["name"]) for row in table)
    for kind in dict.fromkeys(row["kind"] for row in table):
        print(f"{kind}:")
        for row in table:
            if row["kind"] != kind:
                continue
            said = ", ".join(f"{name}: {text}" for name, text in row["options"].items())
            print(f"  {row['name']:<{width}}  {row['summary']} [{row['from']}]")
            if said:
                print(f"  {'':<{width}}  options: {said}")
    return 0


def registries() -> list[tuple[Registry[Any], int]]:
    """Each registry with the number of arguments that stand before the options."""
    import binas.search.strategies  # noqa: F401 (its files register them)
    from binas.ops import NONLINEARITIES
    from binas.profile import MEASURES
    from binas.search.parts import DECISIONS, REGULARIZERS, RELAXATIONS, STRATEGIES
    from binas.train.parts.base import STAGE_PARTS

    return [
        (STRATEGIES, 1),
        (RELAXATIONS, 0),
        (REGULARIZERS, 0),
        (DECISIONS, 0),
        (MEASURES, 0),
        (STAGE_PARTS, 0),
        (NONLINEARITIES, 1),
    ]


def rows() -> Iterator[dict[str, Any]]:
    """Kind, name, first sentence, file and options of every entry."""
    for registry, arguments in registries():
        for name in registry:
            entry = registry[name]
            yield {
                "kind": registry.kind,
                "name": name,
                "summary": (inspect.getdoc(entry) or "").partition("\n\n")[0].replace("\n", " "),
                "from": _file(registry.origin(name), entry),
                "options": {
                    option: _words(parameter)
                    for option, parameter in option_parameters(entry, arguments).items()
                },
            }


def _words(parameter: inspect.Parameter) -> str:
    annotation = getattr(parameter.annotation, "__name__", str(parameter.annotation))
    return annotation if parameter.default is parameter.empty else f"{annotation} = {parameter.default!r}"


def _file(origin: str, entry: Any) -> str:
    """The file in the package, or the name of a user's own or of an installed package's entry point."""
    file = Path(inspect.getsourcefile(entry) or "")
    package = Path(binas.__file__).parent
    if file.is_relative_to(package):
        return str(Path("binas") / file.relative_to(package))
    return Path(origin).name or file.name
