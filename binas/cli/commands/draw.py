"""`binas draw`: draw a genotype: its cells, or its stages of blocks."""

from __future__ import annotations

from argparse import Namespace

from binas.arch.genotype import read_genotype
from binas.cli.arguments import Arguments, plugins
from binas.cli.session import Overrides
from binas.config import find_file
from binas.ops import OPS
from binas.plugins import load_plugins
from binas.registries import REGISTRIES

DESCRIPTION = "No window opens."


def add_arguments(arguments: Arguments) -> None:
    """What the command takes."""
    arguments.add("genotype", help="a genotype: a JSON file, or the name of a shipped one")
    arguments.add(
        "-o",
        "--output",
        default="cells.svg",
        metavar="FILE",
        help="svg, png, pdf or dot (default: cells.svg)",
    )
    plugins(arguments)


def run(options: Namespace, overrides: Overrides) -> int:
    """binas draw"""
    from binas.draw.render import draw

    load_plugins(options.plugins, REGISTRIES)
    genotype = read_genotype(find_file(options.genotype, "genotypes"), OPS)
    print(draw(genotype, options.output))
    return 0
