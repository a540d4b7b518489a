"""`binas data`: show the images of a recipe."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from binas.cli.arguments import Arguments, plugins
from binas.cli.session import (
    Overrides,
    loaded_plugins,
)
from binas.recipe import load_recipe

DESCRIPTION = "Class counts, sizes, mean, std, split hashes, and a grid picture."
KEYS = "recipe"


def add_arguments(arguments: Arguments) -> None:
    """What the command takes."""
    arguments.add("recipe", nargs="?", metavar="CONFIG", help="the same as --config")
    arguments.add("--config", metavar="CONFIG", help="a recipe: a YAML file, or the name of a shipped one")
    arguments.add(
        "-o", "--output", default="data.png", metavar="FILE", help="the grid picture (default: data.png)"
    )
    plugins(arguments)


def run(options: Namespace, overrides: Overrides) -> int:
    """binas data"""
    from binas.data.open_data import open_data
    from binas.data.sheet import save_grid, summarize

    recipe = load_recipe(options.config or options.recipe, overrides, plugins=options.plugins)
    loaded_plugins(options, recipe)
    data = open_data(recipe.data)
    print(summarize(data))
    save_grid(data, Path(options.output))
    print(f"grid of training images: {options.output}")
    return 0
