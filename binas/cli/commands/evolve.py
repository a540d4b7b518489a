"""`binas evolve`: from a recipe, or from one and a genotype, to a Pareto front and its winners."""

from __future__ import annotations

import os
import platform
import re
import shlex
from argparse import Namespace
from pathlib import Path

from binas.arch.genotype import Genotype, cells_only, read_genotype
from binas.cli.arguments import Arguments, run_options
from binas.cli.session import (
    Overrides,
    begin_run,
    device_of,
    loaded_plugins,
    open_run,
    plugin_flags,
)
from binas.config import dump, find_file
from binas.data.open_data import open_data
from binas.errors import UserError
from binas.evolve.config import Operators
from binas.evolve.evolution import Evolution
from binas.evolve.problems.open_problem import open_problem
from binas.evolve.problems.problem import Variant
from binas.ops import OPS
from binas.plugins import PluginRecord, require_plugins
from binas.recipe import Recipe, as_spelled_now, study_identity
from binas.run.folder import RunFolder
from binas.run.progress import say

DESCRIPTION = """\
Writes a Pareto front of accuracy and operations; its networks are files for retrain.
With --storage any number of workers, on any machines, share one population."""
KEYS = "recipe"


def add_arguments(arguments: Arguments) -> None:
    """What the command takes."""
    arguments.add("recipe", nargs="?", metavar="CONFIG", help="the same as --config")
    arguments.add(
        "--genotype", metavar="FILE", help="a genotype whose cells are widened, in place of a model"
    )
    arguments.add("--random", action="store_true", help="short for --evolve.strategy random: the control")
    arguments.add(
        "--storage",
        metavar="FILE|URL",
        help="what workers share: a file, or postgresql://user:…@host/database",
    )
    arguments.add("--study", metavar="NAME", help="which population of the storage")
    run_options(arguments)


def run(options: Namespace, overrides: Overrides) -> int:
    """binas evolve"""
    config = options.config or options.recipe
    if options.storage is not None and "name" not in overrides and options.resume is None:
        overrides["name"] = _worker_name(options, config)
    complete = {"complete": _control} if options.random else {}
    recipe, resumed = open_run("evolve", options, overrides, config, **complete)
    if options.print_config:
        print(dump(recipe), end="")
        return 0
    if resumed is not None and options.storage is not None:
        raise UserError(
            "--resume is for a run with a storage of its own; with --storage start another worker"
        )
    plugins = loaded_plugins(options, recipe, resumed)
    file = options.genotype if resumed is None else _own_genotype(resumed)
    genotype = None if file is None else read_known_genotype(file, plugins)
    what = topology_of(recipe, genotype)
    device, data = device_of(recipe), open_data(recipe.data)
    if recipe.evolve.search == "joint":
        for place, stage in enumerate(recipe.retrain.stages):
            if stage.layers is not None:
                raise UserError(f"retrain.stages.{place}.layers: would undo the winners' bits; leave it out")
    problem = open_problem(recipe.evolve, what, recipe.retrain.network, data, plugins=plugins)
    problem.measure(recipe.limits)
    with begin_run(
        "evolve", recipe, resumed, options, device, data.split_hashes, plugins, genotype=genotype
    ) as folder:
        document = Evolution(
            recipe.evolve,
            problem,
            what,
            data,
            device,
            folder.path,
            seed=recipe.seed,
            recipe=recipe.model_dump(mode="json"),
            identity=study_identity(recipe),
            storage=options.storage,
            study=options.study,
            read=as_spelled_now,
            tensorboard=recipe.tensorboard,
        ).run()
        folder.add_to_manifest(
            results={"hypervolume": document["hypervolume"], "front": len(document["front"])}
        )
        words = plugin_flags(options, recipe)
        winner = next(iter(sorted((folder.path / "winners").glob("1.*"))), None)
        if winner is not None:
            say(f"next: {shlex.join([*_retrain_command(winner), *words])}")
    return 0


def _control(recipe: Recipe) -> Recipe:
    """The same search at random: what says how parents have children is left out."""
    evolve = recipe.evolve
    operators = Operators(draws=evolve.operators.draws)
    if operators != evolve.operators:
        say("--random: leaves out evolve.operators, which a random search does not use")
    changes = {"strategy": "random", "operators": operators}
    return recipe.model_copy(update={"evolve": evolve.model_copy(update=changes)})


def topology_of(recipe: Recipe, genotype: Genotype | None) -> Variant:
    """What is evolved: the genotype, or the network that the recipe names."""
    if genotype is not None and recipe.model is not None:
        raise UserError(f"evolve: --genotype and model: {recipe.model.name} are two networks; leave one out")
    found = genotype or recipe.model
    if found is None:
        raise UserError(
            "evolve: which network? Set model: NAME in the recipe (binas models lists them), or give"
            " --genotype FILE or the name of a shipped one"
        )
    return found


def read_known_genotype(file: str | Path, plugins: tuple[PluginRecord, ...]) -> Genotype:
    """A genotype by file or shipped name, whose plug-ins are loaded."""
    path = find_file(file, "genotypes")
    genotype = cells_only(
        read_genotype(path, OPS),
        str(path),
        "evolve.search: width varies the cells of a genotype; widths of a macro genotype are choices of its"
        " space, which binas search RECIPE --method binas evolves",
    )
    require_plugins(genotype.plugins, plugins, str(path))
    return genotype


def _own_genotype(folder: RunFolder) -> Path | None:
    file = folder.path / "genotype.json"
    return file if file.is_file() else None


def _worker_name(options: Namespace, config: str | None) -> str:
    """A run folder of its own for each worker of a shared study."""
    study = options.study or (Path(config).stem if config else "evolve")
    words = f"{study}_{platform.node() or 'host'}_{os.getpid()}"
    return re.sub(r"[^\w.-]", "_", words)


def _retrain_command(winner: Path) -> list[str]:
    flag = ["--config"] if winner.suffix == ".yaml" else []
    return ["binas", "retrain", *flag, str(winner)]
