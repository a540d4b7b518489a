"""`binas latency`: times of a space's or a network's steps as exported programs, or of a recipe's layers."""

from __future__ import annotations

import itertools
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from binas.cli.arguments import Arguments, plugins
from binas.cli.commands.evolve import read_known_genotype, topology_of
from binas.cli.session import Overrides, loaded_plugins
from binas.config import find_file, read_mapping
from binas.errors import UserError
from binas.models import MODELS
from binas.plugins import PluginRecord, load_plugins
from binas.recipe import Recipe, load_recipe
from binas.registries import REGISTRIES
from binas.run.progress import Stopwatch, eta, say

if TYPE_CHECKING:
    from binas.deploy.model_file import Model

DESCRIPTION = """\
SPACE (a search space), a genotype, or MODEL (a checkpoint, a run folder, a .binas file, a published network's
name): networks are exported, and each step of their C programs is timed inside them, on this machine; for
--limits.program_ms.table. Of a space, random genotypes are taken until they bring nothing new.
CONFIG (the recipe of an evolution): every convolution and linear layer of its candidates runs alone in torch,
codes of k bits simulated in floating point; for --limits.latency_ms.table.
What a table has already is kept, and only what is missing is measured."""
KEYS = "recipe"
SIZES = {"image_size": 32, "in_channels": 3, "num_classes": 10}


def add_arguments(arguments: Arguments) -> None:
    """What the command takes."""
    arguments.add(
        "recipe",
        nargs="?",
        metavar="SPACE|MODEL|CONFIG",
        help="a space, a genotype, a network, or a recipe of binas evolve (the same as --config)",
    )
    arguments.add("--config", metavar="CONFIG", help="a recipe: a YAML file, or the name of a shipped one")
    arguments.add("--genotype", metavar="FILE", help="the genotype that is evolved, if it is one")
    arguments.add(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="YAML, or JSON if it ends in .json (default: the recipe's table, or NAME_latency.yaml)",
    )
    arguments.add(
        "--genomes",
        type=int,
        help="networks drawn at random (default: 500 of a recipe; of a space at most 100, fewer if 5 in a row"
        " bring nothing new)",
    )
    arguments.add("--image-size", type=int, metavar="N", help="of a space or genotype: side (default: 32)")
    arguments.add("--in-channels", type=int, metavar="N", help="of a space or genotype (default: 3)")
    arguments.add("--num-classes", type=int, metavar="N", help="of a space or genotype (default: 10)")
    arguments.add("--seed", type=int, default=0, help="of these (default: 0)")
    arguments.add(
        "--genome", action="append", default=[], metavar="VALUES", help="one more: its genes, with commas"
    )
    arguments.add(
        "--runs", type=int, default=30, help="of a layer of a recipe; the median counts (default: 30)"
    )
    arguments.add("--threads", type=int, default=1, help="CPU threads (default: 1)")
    plugins(arguments)


def run(options: Namespace, overrides: Overrides) -> int:
    """binas latency"""
    from binas.data.open_data import open_data
    from binas.evolve.latency import fill_table
    from binas.evolve.problems.open_problem import open_problem

    config = options.config or options.recipe
    if config is None:
        raise UserError("latency: of what? Give a search space, a network, or the recipe of an evolution")
    if options.config is None and (named := _program_of(str(config))):
        if overrides:
            raise UserError(f"--{next(iter(overrides))}: latency takes keys with an evolution's recipe only")
        return _steps(str(config), named, options)
    for key in SIZES:
        if getattr(options, key) is not None:
            raise UserError(
                f"--{key.replace('_', '-')}: is for spaces and genotypes; a recipe has its own images"
            )
    recipe = load_recipe(config, overrides, plugins=options.plugins)
    records = loaded_plugins(options, recipe)
    genotype = None if options.genotype is None else read_known_genotype(options.genotype, records)
    what, data = topology_of(recipe, genotype), open_data(recipe.data)
    problem = open_problem(recipe.evolve, what, recipe.retrain.network, data, plugins=records)
    out = options.output or _own_table(recipe) or Path(f"{recipe.name}_latency.yaml")
    fill_table(
        out,
        problem,
        num_random=500 if options.genomes is None else options.genomes,
        seed=options.seed,
        named=options.genome,
        runs=options.runs,
        threads=options.threads,
    )
    say(f"written: {out}; binas evolve takes it by --limits.latency_ms.table {out}")
    return 0


def _program_of(what: str) -> str:
    """Whether it is a space, a genotype or a model; empty for anything else, a recipe."""
    path = Path(what)
    if path.is_dir() or path.suffix in (".binas", ".pt") or (what in MODELS and not path.exists()):
        return "model"
    for folder, kind in (("search_spaces", "space"), ("genotypes", "genotype")):
        try:
            found = read_mapping(find_file(what, folder))
        except UserError:
            continue
        is_space = "operations" in found or ("stages" in found and "stem" in found) or "base" in found
        is_genotype = "genotype" in str(found.get("format", ""))
        if (kind == "genotype" and is_genotype) or (kind == "space" and is_space and not is_genotype):
            return kind
    return ""


def _steps(what: str, kind: str, options: Namespace) -> int:
    """Measures steps of programs into a table."""
    from binas.deploy.runtime import Loaded
    from binas.deploy.step_times import StepTimes, fill, signatures
    from binas.run.machine import machine_words

    sizes = {key: getattr(options, key) for key in SIZES}
    if kind == "model" and what not in MODELS:
        for key, value in sizes.items():
            if value is not None:
                flag = key.replace("_", "-")
                raise UserError(f"--{flag}: is for spaces and names; a trained network has its own")
    sizes = {key: SIZES[key] if value is None else value for key, value in sizes.items()}
    if min(options.threads, 1 if options.genomes is None else options.genomes, *sizes.values()) < 1:
        raise UserError("latency: threads, genomes and sizes are numbers from 1 on")
    records = load_plugins(options.plugins, REGISTRIES)
    most = 100 if options.genomes is None else options.genomes
    models = _models(what, kind, sizes, most, options.seed, records)
    first = next(models)()
    out = options.output or Path(f"{Path(what).stem or Path(what).name}_steps.yaml")
    times = StepTimes(out, f"{machine_words()}, {Loaded(first).runs_on}, {options.threads} thread(s)")
    say(f"{len(times.times)} steps are there; of {times.device}")
    watch = Stopwatch()

    def told(done: int, new: int, known: int) -> None:
        watch.add()
        left = ""
        if kind == "space" and done < most:
            left = f", at most {eta(watch.remaining(most - done))} left"
        say(f"network {done}: {new} new steps, {known} in the table{left}")

    count = fill(times, itertools.chain([lambda: first], models), threads=options.threads, told=told)
    say(f"written: {out}, from {count} networks; a search takes it by --limits.program_ms.table {out}")
    if kind != "space":
        say(f"predicted for {what}: {times.predicted(signatures(first.graph)):.4f} ms")
    return 0


def _models(
    what: str, kind: str, sizes: dict[str, int], most: int, seed: int, records: tuple[PluginRecord, ...]
) -> Iterator[Callable[[], Model]]:
    """The one network, or random ones of a space, as programs."""
    import random

    import torch

    from binas.arch.genotype import AnyGenotype, read_genotype
    from binas.arch.kinds import genotype_network, load_any_space
    from binas.arch.sample import random_genotype
    from binas.deploy.export import export_module
    from binas.deploy.footprint import as_if_trained
    from binas.deploy.opening import open_model
    from binas.ops import OPS
    from binas.plugins import require_plugins

    def exported(genotype: AnyGenotype) -> Callable[[], Model]:
        side, channels, classes = sizes["image_size"], sizes["in_channels"], sizes["num_classes"]

        def make() -> Model:
            network = genotype_network(genotype, channels, classes)
            return export_module(as_if_trained(network), torch.zeros(1, channels, side, side))

        return make

    if kind == "model":
        named = {key: sizes[key] for key in ("image_size", "num_classes")} if what in MODELS else {}
        yield lambda: open_model(what, records, **named).model
    elif kind == "genotype":
        path = find_file(what, "genotypes")
        genotype = read_genotype(path, OPS)
        require_plugins(genotype.plugins, records, str(path))
        yield exported(genotype)
    else:
        space = load_any_space(what)
        generator = random.Random(seed)
        for _ in range(most):
            yield exported(random_genotype(space, generator, records))


def _own_table(recipe: Recipe) -> Path | None:
    """The table that the recipe names."""
    entry = recipe.limits.entries.get("latency_ms")
    return Path(entry["table"]) if isinstance(entry, dict) else None
