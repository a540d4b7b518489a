"""`binas profile`: from a genotype or checkpoint and sizes to tables, JSON, CSV and a chart."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from binas.arch.genotype import Genotype, read_genotype
from binas.arch.network import Network, genotype_space
from binas.arch.space import NetworkSettings
from binas.binarize import binary_convolutions
from binas.config import build, find_file, merged, with_override
from binas.errors import UserError
from binas.models import MODELS, ModelChoice, Task, build_model
from binas.ops import OPS
from binas.plugins import PluginRecord, require_plugins
from binas.profile.closed_form import profile_genotype
from binas.profile.cost import Profile
from binas.profile.executed import profile_module
from binas.profile.table import to_csv, to_table
from binas.run.files import write_atomic

if TYPE_CHECKING:
    from binas.train.stage import StageConfig

DEFAULT_SIZES = {"in_channels": 3, "image_size": (32, 32), "num_classes": 10}
"""Sizes of CIFAR-10, for a genotype that no recipe goes with."""


def profile_file(
    options: Namespace, plugins: tuple[PluginRecord, ...], overrides: Mapping[str, Any] | None = None
) -> int:
    """Prints and writes what the options ask for; see `binas profile --help`.

    Args:
        overrides: options of a published network, `model.KEY` and their values.
    """
    profile, title = _profile(options, plugins, dict(overrides or {}))
    if options.json == "-":
        print(json.dumps(profile.to_json()))
    elif options.csv == "-":
        print(to_csv(profile), end="")
    else:
        print(f"{title}\n{to_table(profile, options.layers)}")
    if options.json and options.json != "-":
        write_atomic(options.json, json.dumps(profile.to_json(), indent=1) + "\n")
    if options.csv and options.csv != "-":
        write_atomic(options.csv, to_csv(profile))
    if options.chart:
        from binas.profile.chart import save_chart

        save_chart(profile, Path(options.chart))
    return 0


def _profile(
    options: Namespace, plugins: tuple[PluginRecord, ...], overrides: dict[str, Any]
) -> tuple[Profile, str]:
    if options.file in MODELS and not Path(options.file).is_file():
        return _published(options, overrides)
    if overrides:
        raise UserError(f"--{next(iter(overrides))}: profile takes model.KEY with the name of a model only")
    path = find_file(options.file, "genotypes")
    sizes: dict[str, Any] = dict(DEFAULT_SIZES)
    stage: dict[str, Any] = {}
    if path.suffix == ".pt":
        from binas.train.model_file import load_model

        _, structure, _ = load_model(path, plugins)
        if structure.model is not None:
            sizes = _sizes(options, {key: getattr(structure, key) for key in sizes})
            changed = structure.model_copy(update=sizes)
            title = f"{path}: {structure.model.words()}"
            return _counted(changed.build_network, title, sizes, _stage_of(structure.stage))
        genotype, settings = structure.read_genotype(), structure.settings
        assert settings is not None
        sizes |= {key: getattr(structure, key) for key in sizes}
        stage = _stage_of(structure.stage)
    else:
        genotype = read_genotype(path, OPS)
        require_plugins(genotype.plugins, plugins, str(path))
        sizes |= {key: value for key, value in _own_sizes(genotype).items() if key in sizes}
        settings = _own_settings(genotype)
    sizes = _sizes(options, sizes)
    changes = {key: getattr(options, key) for key in ("num_cells", "init_channels")}
    given = {key: value for key, value in changes.items() if value is not None}
    settings = build(NetworkSettings, {**settings.model_dump(), **given}, "profile")
    title = (
        f"{path}: genotype {genotype.hash()}, {settings.num_cells} cells from {settings.init_channels}"
        f" channels, {_size_words(sizes)}"
    )
    profile = profile_genotype(
        genotype, sizes["in_channels"], sizes["image_size"], sizes["num_classes"], settings, **stage
    )
    return profile, title


def _published(options: Namespace, overrides: dict[str, Any]) -> tuple[Profile, str]:
    for key in overrides:
        if not key.startswith("model."):
            raise UserError(f"--{key}: profile takes options of the model only, --model.KEY")
    value: Any = {"name": options.file}
    for key, change in overrides.items():
        value = with_override(value, key.removeprefix("model."), change)
    choice, sizes = build(ModelChoice, value, "profile: model"), _sizes(options, dict(DEFAULT_SIZES))

    def network() -> nn.Module:
        return build_model(choice, Task(**sizes, binarizations=()))

    stage = {"binarization": choice.model.binarization, "layers": choice.model.layers}
    return _counted(network, choice.words(), sizes, stage)


def _counted(
    network: Callable[[], nn.Module], what: str, sizes: dict[str, Any], stage: dict[str, Any]
) -> tuple[Profile, str]:
    """The count of a published network: in closed form where it is that of a genotype, else as executed."""
    title = f"{what}, {_size_words(sizes)}"
    in_channels, image_size = sizes["in_channels"], sizes["image_size"]
    try:
        with torch.device("meta"):
            built = network()
            if type(built) is Network and any(binary_convolutions(built)):
                classes, settings = sizes["num_classes"], built.settings
                closed = profile_genotype(built.genotype, in_channels, image_size, classes, settings, **stage)
                return closed, title
            return profile_module(built, in_channels, image_size), title
    except UserError:
        raise
    except Exception:  # some binarizers read numbers, which the meta device does not have
        return profile_module(network(), in_channels, image_size), title


def _stage_of(stage: StageConfig) -> dict[str, Any]:
    """What of a stage decides the count."""
    keys = ("binarization", "binarize_activations", "binarize_weights", "layers")
    return {key: getattr(stage, key) for key in keys}


def _sizes(options: Namespace, sizes: dict[str, Any]) -> dict[str, Any]:
    given = {key: _given(options, key) for key in sizes}
    return {**sizes, **{key: value for key, value in given.items() if value is not None}}


def _size_words(sizes: dict[str, Any]) -> str:
    height, width = sizes["image_size"]
    return f"images {sizes['in_channels']} × {height} × {width}, {sizes['num_classes']} classes"


def _own_sizes(genotype: Genotype) -> dict[str, Any]:
    images = genotype.provenance.get("images")
    found = dict(images) if isinstance(images, dict) else {}
    if "image_size" in found:
        found["image_size"] = tuple(found["image_size"])
    return found


def _own_settings(genotype: Genotype) -> NetworkSettings:
    settings = genotype_space(genotype).network.model_dump()
    recipe = genotype.provenance.get("recipe")
    changes = recipe.get("retrain", {}).get("network", {}) if isinstance(recipe, dict) else {}
    return build(NetworkSettings, merged(settings, changes), "genotype: retrain.network")


def _given(options: Namespace, key: str) -> Any:
    value = getattr(options, key)
    if key != "image_size" or value is None:
        return value
    if len(value) > 2 or min(value) < 1:
        raise UserError(f"--image-size {value}: one side, or height and width, in pixels")
    return (value[0], value[-1])
