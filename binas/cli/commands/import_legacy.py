"""`binas import`: turn a legacy Genotype(...) text into a genotype file."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from binas.cli.arguments import Arguments
from binas.cli.session import (
    Overrides,
)

DESCRIPTION = "Nothing in it is executed."


def add_arguments(arguments: Arguments) -> None:
    """What the command takes."""
    arguments.add("file", help="a text file that holds Genotype(normal=[...], ...)")
    arguments.add(
        "--names", required=True, metavar="SOURCE", help="whose names of operations: darts, bnas or bats"
    )
    arguments.add("--space", metavar="SPACE", help="its search space (default: darts_binary, bnas or bats)")
    arguments.add("-o", "--output", default="genotype.json", metavar="FILE", help="default: genotype.json")


def run(options: Namespace, overrides: Overrides) -> int:
    """binas import"""
    from binas.arch.legacy import import_genotype
    from binas.arch.space import load_space
    from binas.config import read_text
    from binas.run.files import write_atomic

    default = {"darts": "darts_binary", "bnas": "bnas", "bats": "bats"}.get(options.names, "binas")
    space = load_space(options.space or default)
    path = Path(options.file)
    genotype = import_genotype(read_text(path), options.names, str(path), space.model_dump(mode="json"))
    write_atomic(Path(options.output), genotype.to_json())
    print(f"{options.output}: genotype {genotype.hash()} of space '{space.name}'")
    return 0
