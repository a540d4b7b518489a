"""What a run of a command begins with: its recipe, its plug-ins, its device, and its run folder."""

from __future__ import annotations

import functools
import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from binas.arch.genotype import AnyGenotype
from binas.config import describe, shipped_names
from binas.errors import UserError
from binas.plugins import PluginRecord, load_plugins, require_plugins
from binas.recipe import Recipe, load_recipe, recorded_recipe
from binas.registries import REGISTRIES
from binas.run.device import pick_device
from binas.run.distributed import (
    check_same,
    first_on_its_machine,
    is_first_rank,
    joined_ranks,
    num_ranks,
    number_of_ranks,
    wait_for_all,
)
from binas.run.folder import RunFolder
from binas.run.progress import say
from binas.run.seeds import set_deterministic
from binas.search.config import SearchConfig
from binas.train.stage import RetrainConfig

if TYPE_CHECKING:
    from binas.data.open_data import Data

Overrides = dict[str, Any]
Command = Callable[[Namespace, Overrides], int]
Batched = TypeVar("Batched", SearchConfig, RetrainConfig)


def recipe_keys() -> str:
    """Every key of a recipe, for the help."""
    lines = ["keys of a recipe, each also as --key VALUE (a number picks one of a list):"]
    for key, default, text in describe(Recipe):
        shown = f" (default: {default})" if default else ""
        lines.append(f"  --{key}{shown}" + (f"\n        {text}" if text else ""))
    lines.append(f"\nshipped recipes: {', '.join(shipped_names('configs'))}")
    lines.append(f"shipped search spaces: {', '.join(shipped_names('search_spaces'))}")
    return "\n".join(lines)


def on_all_ranks(command: Command) -> Command:
    """A command that several processes may run together, started by a launcher such as torchrun."""

    @functools.wraps(command)
    def run(options: Namespace, overrides: Overrides) -> int:
        with joined_ranks():
            return command(options, overrides)

    return run


def of_all_ranks(config: Batched, resumed: RunFolder | None) -> Batched:
    """Settings with the batch of all ranks together, where a recipe says that of each.

    A resumed run keeps the batch of a step that it was started with, on any number of ranks.
    """
    started = num_ranks() if resumed is None else int(resumed.read_manifest().get("ranks", 1))
    whole = config.batch_size * started
    if started == num_ranks() == 1:
        return config
    before = (
        "" if started == num_ranks() else f", as when it was started on {started} rank{'s' * (started > 1)}"
    )
    each = f", {whole // num_ranks()} of them on each of {num_ranks()} ranks" if num_ranks() > 1 else ""
    say(f"a step takes {whole} images{before}{each}")
    return config.model_copy(update={"batch_size": whole})


def open_run(
    kind: str,
    options: Namespace,
    overrides: Overrides,
    config: str | None,
    *,
    start: Any = None,
    complete: Callable[[Recipe], Recipe] = lambda recipe: recipe,
) -> tuple[Recipe, RunFolder | None]:
    """The recipe, and the folder of a run that is resumed; a new folder is made only when all is well.

    Args:
        complete: checks and completes a recipe that a run is begun with.
    """
    if options.resume is None or options.print_config:
        recipe = complete(load_recipe(config, overrides, start=start, plugins=options.plugins))
        if not options.print_config and is_first_rank():
            RunFolder.check_free(recipe.runs / recipe.name, overwrite=options.overwrite)
        return recipe, None
    if options.overwrite:
        raise UserError("--resume and --overwrite exclude each other")
    if options.resume and (overrides or config):
        raise UserError(
            f"--resume {options.resume}: goes on with its own recipe; leave out CONFIG and --key VALUE"
        )
    asked = (
        None
        if options.resume
        else complete(load_recipe(config, overrides, start=start, plugins=options.plugins))
    )
    path = Path(options.resume) if asked is None else asked.runs / asked.name
    # rank 0 holds the lock, the others only read
    folder = RunFolder.resume(path, kind) if is_first_rank() else RunFolder.follow(path, kind, resumed=True)
    if not folder.config.exists():  # killed before it had begun
        folder.close()
        raise UserError(f"{path}: was stopped before it began; start it again with --overwrite")
    recipe = recorded_recipe(folder.config, options.plugins)
    same = {"space"} if kind == "retrain" else set()
    if asked is not None and asked.model_dump(exclude=same) != recipe.model_dump(exclude=same):
        folder.close()
        raise UserError(f"{path}: was started with another recipe; go on with its own by --resume {path}")
    return recipe, folder


def begin_run(
    kind: str,
    recipe: Recipe,
    resumed: RunFolder | None,
    options: Namespace,
    device: torch.device,
    hashes: dict[str, str],
    plugins: tuple[PluginRecord, ...],
    *,
    genotype: AnyGenotype | None = None,
) -> RunFolder:
    """The run folder, with everything in it that a resumed run needs; the config comes last."""
    check_same(json.dumps(hashes).encode(), "the images", "give every machine the same ones")
    if resumed is not None:
        if resumed.read_manifest().get("splits", hashes) != hashes:
            raise UserError(f"{resumed.path}: the images are not those that the run was started with")
        return resumed
    if not is_first_rank():
        wait_for_all()
        return RunFolder.follow(recipe.runs / recipe.name, kind)
    folder = RunFolder.begin(
        recipe.runs / recipe.name,
        kind,
        recipe,
        seed=recipe.seed,
        device=device,
        splits=hashes,
        # of files that were named; an installed package may be another one when the run goes on
        plugins=[plugin.model_dump(mode="json") for plugin in plugins[: len(plugin_files(options, recipe))]],
        genotype=None if genotype is None else genotype.to_json(),
        overwrite=options.overwrite,
        **number_of_ranks(),
    )
    wait_for_all()
    return folder


def device_of(recipe: Recipe) -> torch.device:
    """The device of a recipe, with its threads and repeatable algorithms set."""
    if recipe.num_threads is not None:
        torch.set_num_threads(recipe.num_threads)
    device = pick_device(recipe.device)
    set_deterministic(device)
    return device


def device_and_data(recipe: Recipe) -> tuple[torch.device, Data]:
    """The device of a recipe, and its images; of ranks on one machine one opens them before the others."""
    from binas.data.open_data import open_data

    device = device_of(recipe)
    with first_on_its_machine():
        return device, open_data(recipe.data)


def plugin_files(options: Namespace, recipe: Recipe) -> list[str]:
    """The plug-in files that recipe and command line name."""
    return list(dict.fromkeys([*recipe.plugins, *options.plugins]))


def plugin_flags(options: Namespace, recipe: Recipe) -> list[str]:
    """The flags that name the same plug-in files again."""
    return [word for file in plugin_files(options, recipe) for word in ("--plugins", file)]


def loaded_plugins(
    options: Namespace, recipe: Recipe, resumed: RunFolder | None = None
) -> tuple[PluginRecord, ...]:
    """The records of all plug-ins, loaded; a resumed run needs those that it was started with."""
    plugins = load_plugins(plugin_files(options, recipe), REGISTRIES)
    if resumed is not None:
        recorded = [PluginRecord(**plugin) for plugin in resumed.read_manifest().get("plugins", [])]
        require_plugins(recorded, plugins, str(resumed.path))
    return plugins
