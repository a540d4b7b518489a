"""`binas latency`: measure the layers of a recipe's candidates for an evolution's table."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from binas.cli.arguments import Arguments, plugins
from binas.cli.commands.evolve import read_known_genotype, topology_of
from binas.cli.session import Overrides, loaded_plugins
from binas.errors import UserError
from binas.recipe import Recipe, load_recipe
from binas.run.progress import say

DESCRIPTION = """\
Every convolution and linear layer runs alone on this CPU, in evaluation mode, for one image; codes of k bits
are simulated in floating point. What the table has already is kept: run it again with more --genomes, another
--seed, or the --genome that an evolution names, and only what is missing is measured."""
KEYS = "recipe"


def add_arguments(arguments: Arguments) -> None:
    """What the command takes."""
    arguments.add("recipe", nargs="?", metavar="CONFIG", help="of binas evolve; the same as --config")
    arguments.add("--config", metavar="CONFIG", help="a recipe: a YAML file, or the name of a shipped one")
    arguments.add("--genotype", metavar="FILE", help="the genotype that is evolved, if it is one")
    arguments.add(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="YAML, or JSON if it ends in .json (default: the recipe's table, or NAME_latency.yaml)",
    )
    arguments.add("--genomes", type=int, default=500, help="networks drawn at random (default: 500)")
    arguments.add("--seed", type=int, default=0, help="of these (default: 0)")
    arguments.add(
        "--genome", action="append", default=[], metavar="VALUES", help="one more: its genes, with commas"
    )
    arguments.add("--runs", type=int, default=30, help="of a layer; the median counts (default: 30)")
    arguments.add("--threads", type=int, default=1, help="CPU threads (default: 1)")
    plugins(arguments)


def run(options: Namespace, overrides: Overrides) -> int:
    """binas latency"""
    from binas.data.open_data import open_data
    from binas.evolve.latency import fill_table
    from binas.evolve.problems.open_problem import open_problem

    config = options.config or options.recipe
    if config is None:
        raise UserError("latency: whose candidates? Give the recipe of an evolution")
    recipe = load_recipe(config, overrides, plugins=options.plugins)
    records = loaded_plugins(options, recipe)
    genotype = None if options.genotype is None else read_known_genotype(options.genotype, records)
    what, data = topology_of(recipe, genotype), open_data(recipe.data)
    problem = open_problem(recipe.evolve, what, recipe.retrain.network, data, plugins=records)
    out = options.output or _own_table(recipe) or Path(f"{recipe.name}_latency.yaml")
    fill_table(
        out,
        problem,
        num_random=options.genomes,
        seed=options.seed,
        named=options.genome,
        runs=options.runs,
        threads=options.threads,
    )
    say(f"written: {out}; binas evolve takes it by --limits.latency_ms.table {out}")
    return 0


def _own_table(recipe: Recipe) -> Path | None:
    """The table that the recipe names."""
    entry = recipe.limits.entries.get("latency_ms")
    return Path(entry["table"]) if isinstance(entry, dict) else None
