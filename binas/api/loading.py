"""Spaces, genotypes, recipes, images and trained networks, from names, files or objects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import as_file
from pathlib import Path
from typing import Any

from torch import nn

from binas.api.preprocess import Preprocess
from binas.arch.genotype import AnyGenotype, parse_genotype, read_genotype
from binas.arch.kinds import AnySpace, load_any_space
from binas.config import build, find_file, shipped_folder
from binas.data.config import DataConfig
from binas.data.in_memory import data_from
from binas.data.open_data import Data
from binas.data.open_data import open_data as _open_data
from binas.errors import UserError
from binas.ops import OPS
from binas.plugins import PluginRecord, load_plugins
from binas.plugins import load_plugin as _load_plugin
from binas.recipe import Recipe
from binas.recipe import load_recipe as _load_recipe
from binas.registries import REGISTRIES
from binas.run.device import pick_device
from binas.search.measured.table import TrainedTable, read_table


def load_plugin(file: str | Path) -> list[str]:
    """Runs a file of your own that registers names; gives the names.

    Raises:
        UserError: it is missing, or raises while it is loaded.
    """
    return list(_load_plugin(Path(file), REGISTRIES)[1].operations)


def load_space(what: str | Path | Mapping[str, Any] | AnySpace = "binas") -> AnySpace:
    """A search space: a shipped name, a file, or a mapping (of changes to a `base`).

    Raises:
        UserError: it is missing, or a key is wrong.

    Example:
        >>> import binas
        >>> binas.load_space({"base": "binas", "num_nodes": 2}).num_nodes
        2
    """
    if isinstance(what, AnySpace):
        return what
    return load_any_space(str(what) if isinstance(what, Path) else what)


def load_table() -> TrainedTable:
    """Random genotypes of `binas_macro_small` that were trained alone, with costs and supernets' scores.

    Each was trained with two seeds on 10,000 images of Fashion-MNIST at 14×14 (`docs/table.md`).

    Example:
        >>> import binas
        >>> table = binas.load_table()
        >>> 0.4 < table.kendall_tau(lambda entry: entry.parameters) < 0.9
        True
    """
    folder = shipped_folder("benchmarks") / "table"
    with as_file(folder / "rows.jsonl") as rows, as_file(folder / "scores.jsonl") as scores:
        return read_table(rows, scores)


def load_genotype(what: str | Path | Mapping[str, Any] | AnyGenotype) -> AnyGenotype:
    """A genotype: a shipped name, a JSON file, a run folder, or what `json.load` gave.

    Raises:
        UserError: it is missing, damaged, or of operations that nobody registered.
    """
    if isinstance(what, AnyGenotype):
        return what
    if isinstance(what, Mapping):
        return parse_genotype(json.dumps(what), "genotype")
    path = Path(what)
    if path.is_dir():
        path = path / "genotype.json"
    return read_genotype(find_file(path, "genotypes"), OPS)


def load_recipe(what: str | Path | None = None, **overrides: Any) -> Recipe:
    """All settings of a run: a shipped name or a file, and dotted keys laid over it.

    Args:
        what: None: the defaults.
        overrides: `**{"search.batch_size": 64}`.

    Example:
        >>> import binas
        >>> binas.load_recipe("demo_digits", **{"search.batch_size": 64}).search.batch_size
        64
    """
    return _load_recipe(None if what is None else str(what), overrides)


def open_data(
    name: Any = "digits", *, test: Any = None, class_names: Sequence[str] | None = None, **settings: Any
) -> Data:
    """Images, split and measured.

    Args:
        name: a registered set ("digits", "fashion_mnist", "cifar10", …), a folder with a folder of images for
            each class, a pair (images, labels) of tensors or arrays, or a dataset of such pairs: torch's, or
            one of Hugging Face with the columns `image` and `label`. Images: uint8, or floats from 0 to 1.
        test: the test images of a pair or a dataset; None: a part is held out.
        class_names: of a pair or a dataset.
        settings: keys of `data` in a recipe: image_size, channels, augmentation, subset, …
    Raises:
        UserError: there is no such set, or the images are unfit to be split.

    Example:
        >>> import torch, binas
        >>> pixels = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
        >>> binas.open_data((pixels, torch.arange(40) % 2), class_names=("no", "yes")).num_classes
        2
    """
    if isinstance(name, Data):
        return name
    if isinstance(name, DataConfig):
        return _open_data(name)
    if isinstance(name, str | Path):
        if test is not None or class_names is not None:
            raise UserError("data: test and class_names are for images that are given, not for a name")
        if Path(name).is_dir():
            settings = {"root": str(name), **settings}
            name = "folder"
        return _open_data(build(DataConfig, {"name": str(name), **settings}, "data"))
    return data_from(name, test, class_names=class_names, config=build(DataConfig, settings, "data"))


def load_network(what: str | Path, *, device: str = "cpu") -> nn.Module:
    """The trained network of a checkpoint or of a run folder, in evaluation mode.

    It has `class_names`, and `preprocess`, which turns pictures into what it was trained on.

    Raises:
        UserError: the file is missing, damaged, or needs a plug-in that was not loaded.
    """
    from binas.train.model_file import load_model, trained_file

    network, structure, _ = load_model(trained_file(what), loaded_plugins())
    network.structure = structure  # type: ignore[assignment]
    network.class_names = structure.class_names  # type: ignore[assignment]
    network.preprocess = Preprocess(  # type: ignore[assignment]
        structure.image_size, structure.in_channels, structure.mean, structure.std
    )
    return network.to(pick_device(device))


def loaded_plugins() -> tuple[PluginRecord, ...]:
    """The records of the plug-in files that were loaded in this process, and of installed ones."""
    origins = {registry.origin(name) for registry in REGISTRIES for name in registry} - {""}
    return load_plugins([origin for origin in sorted(origins) if Path(origin).is_file()], REGISTRIES)
