"""`binas search`: search a space for a genotype."""

from __future__ import annotations

import shlex
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binas.arch.genotype import AnyGenotype
from binas.arch.macro_space import MacroSpace
from binas.cli.arguments import Arguments, run_options
from binas.cli.session import (
    Overrides,
    begin_run,
    device_and_data,
    loaded_plugins,
    of_all_ranks,
    on_all_ranks,
    open_run,
    plugin_flags,
)
from binas.config import dump, find_file, read_mapping
from binas.errors import UserError
from binas.ops import OPS
from binas.recipe import Recipe, provenance
from binas.run.distributed import is_first_rank
from binas.run.progress import say

if TYPE_CHECKING:
    from binas.search.decisions.base import Front
    from binas.search.limits import CostLimits

DESCRIPTION = """\
Trains a supernet whose edges mix all candidate operations, and writes one
recommended genotype. The weights are thrown away: retrain trains the genotype from scratch."""
KEYS = "recipe"


def add_arguments(arguments: Arguments) -> None:
    """What the command takes."""
    arguments.add("recipe", nargs="?", metavar="CONFIG", help="the same as --config")
    run_options(arguments)
    arguments.add(
        "--strategy",
        metavar="NAME",
        help="a strategy of binas methods, in place of the recipe's; keys that it does not use are left out",
    )
    arguments.add(
        "--method",
        metavar="NAME",
        help="how to search, laid over the recipe: a strategy, or a recipe whose search section is taken",
    )
    arguments.add("--preset", metavar="SIZE", help="small, medium or large: how much the strategy tries")
    arguments.add(
        "--budget", metavar="TIME", help="plan the search into 90s, 20m or 2h, from a step measured first"
    )


@on_all_ranks
def run(options: Namespace, overrides: Overrides) -> int:
    """binas search"""
    from binas.search.measured.plan import format_plan, seconds_of
    from binas.search.parts import STRATEGIES
    from binas.search.search import Search
    from binas.search.strategies.base import check_settings, check_space, with_preset, without_unused

    if options.strategy and options.method:
        raise UserError("--strategy and --method say the same; leave one out")
    if options.budget and options.preset:
        raise UserError("--budget and --preset both say how much is tried; leave one out")
    budget = seconds_of(options.budget) if options.budget else None
    if options.method and options.method not in STRATEGIES:
        overrides["search"] = _search_section(options.method)
    elif options.strategy or options.method:
        overrides["search.strategy"] = options.strategy or options.method
    if options.micro_batch:
        overrides["search.micro_batch"] = options.micro_batch
    lays_over = "search.strategy" in overrides

    def complete(recipe: Recipe) -> Recipe:
        config, unused = without_unused(recipe.search) if lays_over else (recipe.search, [])
        config = with_preset(config, options.preset) if options.preset else config
        check_settings(config)
        check_space(config, recipe.space)
        if unused and not options.print_config:
            left_out = ", ".join(f"search.{key}" for key in unused)
            say(f"strategy {config.strategy.name}: leaves out {left_out}, which it does not use")
        return recipe.model_copy(update={"search": config})

    config = options.config or options.recipe
    recipe, resumed = open_run("search", options, overrides, config, complete=complete)
    if recipe.model is not None:
        raise UserError(f"model: {recipe.model.name}: is for binas retrain; leave it out to search")
    if options.print_config:
        say(dump(recipe).rstrip("\n"))
        return 0
    plugins = loaded_plugins(options, recipe, resumed)
    _check_own_operations(recipe)
    device, data = device_and_data(recipe)

    def built(recipe: Recipe) -> Search:
        return Search(
            recipe.space,
            of_all_ranks(recipe.search, resumed),
            data,
            seed=recipe.seed,
            device=device,
            plugins=plugins,
            provenance=provenance(recipe, data, plugins),
            tensorboard=recipe.tensorboard,
            distributed=recipe.distributed,
            limits=recipe.limits,
        )

    search = built(recipe)
    if budget and resumed is None:
        recipe = recipe.model_copy(update={"search": search.planned(budget)})
        search = built(recipe)
    if resumed is None and (parts := search.predicted()):
        say(format_plan(parts, recipe.search.strategy.options))
    with begin_run("search", recipe, resumed, options, device, data.split_hashes, plugins) as folder:
        genotype = search.run(folder)
        if not is_first_rank():
            return 0
        file = folder.path / "genotype.json"
        drawing = _draw_beside(genotype, folder.path)
        rule = search.front.rule
        told = {"random": "drawn at random", "last": "last epoch", "best_validation": "best_validation epoch"}
        if search.strategy.evaluation == "alone":
            _say_front(search.front, search.limits, folder.path)
            cost = search.config.strategy.options.get("cost", "ops")
            say(f"drawn: {_draw_front(search.front, str(cost), folder.path)}")
        say(f"recommended genotype {genotype.hash()} ({told.get(rule, rule)}): {file}\ndrawn: {drawing}")
        words = ["binas", "retrain", "--config", str(folder.config), "--genotype", str(file)]
        name = ["--name", f"{recipe.name}_retrain"]
        say(f"next: {shlex.join([*words, *name, *plugin_flags(options, recipe)])}")
    return 0


def _search_section(name: str) -> dict[str, Any]:
    """The search section of a recipe, by its file or the name of a shipped one."""
    file = find_file(name, "configs")
    section = read_mapping(file).get("search")
    if not isinstance(section, dict):
        raise UserError(f"{file}: has no search section to take as a method")
    return section


def _say_front(front: Front, limits: CostLimits, folder: Path) -> None:
    """The front as a table, with the file of each genotype, which binas retrain --genotype takes."""
    say("front, by accuracy on the search-validation images after training alone:")
    for place, candidate in enumerate(front.candidates):
        costs = limits.costs(candidate.genotype)
        kilobytes = costs["bits"] / 8000
        say(
            f"  {candidate.accuracy or 0:.4f}  {costs['ops'] / 1e6:8.3f} MOPs  {kilobytes:8.1f} kB"
            f"  {folder / 'front' / f'{place:02d}.json'}{'  (recommended)' if place == 0 else ''}"
        )


def _draw_front(front: Front, cost: str, folder: Path) -> Path:
    """All that was trained alone, and the front, as a picture."""
    from binas.draw.front import Series, draw_front
    from binas.profile.pareto import Point

    rows = front.measured["trained"]
    last = max(row["epochs"] for row in rows)
    series = []
    for label, whose in (("chosen by the supernet", "ranking"), ("drawn at random", "random")):
        own = [row for row in rows if row["chosen_by"] == whose]
        points = {row["genotype"]: Point(row["accuracy"], row[cost]) for row in own}
        ended = [points[row["genotype"]] for row in own if row["epochs"] == last]
        early = [points[row["genotype"]] for row in own if row["epochs"] < last]
        if own:
            chosen = points.get(front.recommended.genotype.hash())
            series.append(Series(f"{label} ({len(own)})", ended, early, chosen))
    words = f"search-validation accuracy, {last} epochs alone (small: fewer)"
    return draw_front(series, folder / "front.png", cost="OPs" if cost == "ops" else cost, accuracy=words)


def _check_own_operations(recipe: Recipe) -> None:
    """Stops before any training where a user's own operation gives a wrong shape."""
    from binas.ops.op_check import check_shape

    if isinstance(recipe.space, MacroSpace):
        return  # its blocks are ours
    for name in recipe.space.operations:
        if name in OPS and OPS.origin(name):
            try:
                check_shape(name, recipe.space.supernet.init_channels)
            except UserError as error:
                raise UserError(
                    f"operation '{name}' of {Path(OPS.origin(name)).name}: {error}"
                    "; binas ops check tells more",
                    hint=error.hint,
                ) from error


def _draw_beside(genotype: AnyGenotype, folder: Path) -> Path:
    from binas.draw.render import draw

    return draw(genotype, folder / ("cells.svg" if genotype.kind == "cell" else "stages.svg"))
