"""What a run of a command begins with: its recipe, its plug-ins, its device, and its run folder."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from binas.arch.genotype import Genotype
from binas.binarize import ACTIVATION_BINARIZERS, GRADIENT_QUANTIZERS, WEIGHT_BINARIZERS
from binas.config import load
from binas.data.datasets import DATASETS
from binas.errors import UserError
from binas.ops import NONLINEARITIES, OPS
from binas.plugins import PluginRecord, load_plugins, require_plugins
from binas.recipe import Recipe, load_recipe
from binas.run.device import pick_device
from binas.run.folder import RunFolder
from binas.run.seeds import set_deterministic

if TYPE_CHECKING:
    from binas.data.opening import Data

REGISTRIES = (
    OPS, NONLINEARITIES, ACTIVATION_BINARIZERS, WEIGHT_BINARIZERS, GRADIENT_QUANTIZERS, DATASETS,
)  # fmt: skip
"""What a plug-in may register names in."""
Overrides = dict[str, Any]


def open_run(
    kind: str, options: Namespace, overrides: Overrides, config: str | None, start: Any = None
) -> tuple[Recipe, RunFolder | None]:
    """The recipe, and the folder of a run that is resumed; a new folder is made only when all is well."""
    if options.resume is None or options.print_config:
        recipe = load_recipe(config, overrides, start)
        if not options.print_config:
            RunFolder.check_free(recipe.runs / recipe.name, overwrite=options.overwrite)
        return recipe, None
    if options.overwrite:
        raise UserError("--resume and --overwrite exclude each other")
    if options.resume and (overrides or config):
        raise UserError(
            f"--resume {options.resume}: goes on with its own recipe; leave out CONFIG and --key VALUE"
        )
    asked = None if options.resume else load_recipe(config, overrides, start)
    path = Path(options.resume) if asked is None else asked.runs / asked.name
    folder = RunFolder.resume(path, kind)
    if not folder.config.exists():  # killed before it had begun
        folder.close()
        raise UserError(f"{path}: was stopped before it began; start it again with --overwrite")
    recipe = load(Recipe, folder.config)
    same = {"space"} if kind == "retrain" else set()
    if asked is not None and asked.model_dump(exclude=same) != recipe.model_dump(exclude=same):
        folder.close()
        raise UserError(f"{path}: was started with another recipe; go on with its own by --resume {path}")
    return recipe, folder


def begin_run(
    kind: str, recipe: Recipe, resumed: RunFolder | None, options: Namespace, device: torch.device,
    hashes: dict[str, str], genotype: Genotype | None = None,
) -> RunFolder:  # fmt: skip
    """The run folder, with everything in it that a resumed run needs; the config comes last."""
    from binas.run.files import write_atomic

    if resumed is not None:
        if resumed.read_manifest().get("splits", hashes) != hashes:
            raise UserError(f"{resumed.path}: the images are not those that the run was started with")
        return resumed
    folder = RunFolder.create(recipe.runs / recipe.name, kind, overwrite=options.overwrite)
    if genotype is not None:
        write_atomic(folder.path / "genotype.json", genotype.to_json())
    folder.write_manifest(
        seed=recipe.seed, device=device, splits=hashes, plugins=plugin_files(options, recipe)
    )
    folder.write_config(recipe)
    return folder


def provenance(recipe: Recipe, data: Data) -> dict[str, Any]:
    """Where a genotype comes from: the recipe, the hashes of the splits, the sizes of the images."""
    return {
        "recipe": recipe.model_dump(mode="json", exclude={"space", "runs"}),
        "split_hashes": data.split_hashes,
        "images": {
            "in_channels": data.channels,
            "image_size": list(data.image_size),
            "num_classes": data.num_classes,
        },
    }


def device_of(recipe: Recipe) -> torch.device:
    """The device of a recipe, with its threads and repeatable algorithms set."""
    if recipe.num_threads is not None:
        torch.set_num_threads(recipe.num_threads)
    device = pick_device(recipe.device)
    set_deterministic(device)
    return device


def plugin_files(options: Namespace, recipe: Recipe) -> list[str]:
    """The plug-in files that recipe and command line name."""
    return list(dict.fromkeys([*recipe.plugins, *options.plugins]))


def plugin_words(options: Namespace, recipe: Recipe) -> list[str]:
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
