"""`binas profile`: from a genotype or checkpoint and sizes to tables, JSON, CSV and a chart."""

from __future__ import annotations

import json
from argparse import BooleanOptionalAction, Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from binas.arch.genotype import AnyGenotype, Genotype, read_genotype
from binas.arch.kinds import genotype_network
from binas.arch.network import genotype_space
from binas.arch.space import NetworkSettings
from binas.cli.arguments import Arguments, plugins
from binas.cli.session import Overrides
from binas.config import build, find_file, merged, with_override
from binas.errors import UserError
from binas.models import MODELS, ModelChoice, Task, build_model
from binas.ops import OPS
from binas.plugins import PluginRecord, load_plugins, require_plugins
from binas.profile.cost import Profile
from binas.profile.count import count, count_built
from binas.profile.table import to_csv, to_table
from binas.registries import REGISTRIES
from binas.run.files import write_atomic
from binas.run.folder import read_manifest

if TYPE_CHECKING:
    from binas.deploy.footprint import Footprint
    from binas.train.model_file import ModelStructure
    from binas.train.stage import StageConfig

DEFAULT_SIZES = {"in_channels": 3, "image_size": (32, 32), "num_classes": 10}
"""Sizes of CIFAR-10, for a genotype that no recipe goes with."""


DESCRIPTION = """\
Sizes that are not given are those of the genotype's own recipe; --model.KEY VALUE changes an
option of a published network."""
KEYS = "model"


def add_arguments(arguments: Arguments) -> None:
    """What the command takes."""
    arguments.add(
        "file", help="a genotype (file or shipped name), the name of a published network, or checkpoint.pt"
    )
    arguments.add(
        "--image-size", type=int, nargs="+", metavar="N", help="side, or height and width, in pixels"
    )
    arguments.add("--in-channels", type=int, metavar="N", help="channels of the images")
    arguments.add("--num-classes", type=int, metavar="N", help="classes")
    arguments.add("--num-cells", type=int, metavar="N", help="cells of the final network")
    arguments.add("--init-channels", type=int, metavar="N", help="channels of its first cell")
    arguments.add("--layers", action="store_true", help="a row for every layer")
    arguments.add("--json", metavar="FILE", help="write JSON; - prints it")
    arguments.add("--csv", metavar="FILE", help="write a row for every layer; - prints it")
    arguments.add(
        "--export",
        action=BooleanOptionalAction,
        help="bytes of the exported 1-bit program, and the memory in which it computes; some seconds"
        " (default: of files, not of published networks by name)",
    )
    arguments.add("--chart", metavar="FILE", help="draw a bar chart (png, svg or pdf)")
    plugins(arguments)


def run(options: Namespace, overrides: Overrides) -> int:
    """binas profile"""
    return profile_file(options, load_plugins(options.plugins, REGISTRIES), overrides)


def profile_file(
    options: Namespace, plugins: tuple[PluginRecord, ...], overrides: Mapping[str, Any] | None = None
) -> int:
    """Prints and writes what the options ask for; see `binas profile --help`.

    Args:
        overrides: options of a published network, `model.KEY` and their values.
    """
    counted = _counted(options, plugins, dict(overrides or {}))
    profile = counted.profile
    if options.csv == "-" and options.json != "-":
        print(to_csv(profile), end="")
    else:
        is_file = options.file not in MODELS or Path(options.file).is_file()
        wanted = is_file if options.export is None else options.export
        exported = counted.exported() if wanted else None
        if options.json == "-":
            print(json.dumps(_to_json(profile, exported)))
        else:
            print(f"{counted.title}\n{to_table(profile, options.layers)}\n{_in_words(exported)}")
        if options.json and options.json != "-":
            write_atomic(options.json, json.dumps(_to_json(profile, exported), indent=1) + "\n")
    if options.csv and options.csv != "-":
        write_atomic(options.csv, to_csv(profile))
    if options.chart:
        from binas.profile.chart import save_chart

        save_chart(profile, Path(options.chart))
    return 0


@dataclass(frozen=True)
class _Counted:
    """A profile, what it is of, and the network itself.

    Args:
        build: gives it.
        fresh: whether it was not trained.
    """

    profile: Profile
    title: str
    build: Callable[[], nn.Module]
    in_channels: int
    image_size: tuple[int, int]
    fresh: bool = True

    def exported(self) -> Footprint | UserError:
        """What it takes as a 1-bit program; or why it cannot be one."""
        from binas.deploy.footprint import footprint

        try:
            return footprint(self.build(), (self.in_channels, *self.image_size), fresh=self.fresh)
        except UserError as error:
            return error


def _to_json(profile: Profile, exported: Footprint | UserError | None) -> dict[str, Any]:
    found = profile.to_json()
    if exported is None:
        return found
    if isinstance(exported, UserError):
        found["storage"] |= {"export_bytes": None, "why_not_exported": str(exported)}
    else:
        from binas.deploy.footprint import RULE

        found["storage"] |= exported.to_json()
        found["conventions"] += " " + RULE.replace("\n", " ")
    return found


def _in_words(exported: Footprint | UserError | None) -> str:
    if exported is None:
        return "exported: not counted; --export does"
    if isinstance(exported, UserError):
        return f"not exported: {exported}"
    from binas.deploy.footprint import RULE

    return f"{exported}\n\n{RULE}"


def _counted(options: Namespace, plugins: tuple[PluginRecord, ...], overrides: dict[str, Any]) -> _Counted:
    if options.file in MODELS and not Path(options.file).is_file():
        return _published(options, overrides)
    if overrides:
        raise UserError(f"--{next(iter(overrides))}: profile takes model.KEY with the name of a model only")
    given = Path(options.file)
    path = _file_in(given) if given.is_dir() else find_file(given, "genotypes")
    sizes: dict[str, Any] = dict(DEFAULT_SIZES)
    stage: dict[str, Any] = {}
    trained: ModelStructure | None = None
    network: nn.Module = nn.Identity()
    if path.suffix == ".pt":
        from binas.train.model_file import load_model

        network, structure, _ = load_model(path, plugins)
        if structure.model is not None:
            sizes = _sizes(options, {key: getattr(structure, key) for key in sizes})
            changed = structure.model_copy(update=sizes)
            title = f"{path}: {structure.model.summary()}, {_format_sizes(sizes)}"
            task = Task(**sizes, binarizations=())
            profile = count_built(changed.build_network, task, **_stage_of(structure.stage))
            own = (sizes["in_channels"], sizes["image_size"])
            if all(sizes[key] == getattr(structure, key) for key in sizes):
                return _Counted(profile, title, lambda: network, *own, fresh=False)
            return _Counted(profile, title, changed.build_network, *own)
        genotype, settings = structure.read_genotype(), structure.settings
        sizes |= {key: getattr(structure, key) for key in sizes}
        stage, trained = _stage_of(structure.stage), structure
    else:
        genotype = read_genotype(path, OPS)
        require_plugins(genotype.plugins, plugins, str(path))
        sizes |= {key: value for key, value in _own_sizes(genotype).items() if key in sizes}
        settings = _own_settings(genotype) if isinstance(genotype, Genotype) else None
    sizes = _sizes(options, sizes)

    def built(settings: NetworkSettings | None = None) -> _Counted:
        own = (sizes["in_channels"], sizes["image_size"])
        profile = count(genotype, **sizes, settings=settings, **stage)
        if trained is None:
            classes = sizes["num_classes"]
            return _Counted(
                profile, title, lambda: genotype_network(genotype, own[0], classes, settings=settings), *own
            )
        changes = {**sizes, "settings": settings}
        if all(changes[key] == getattr(trained, key) for key in changes):
            return _Counted(profile, title, lambda: network, *own, fresh=False)
        return _Counted(profile, title, trained.model_copy(update=changes).build_network, *own)

    changes = {key: getattr(options, key) for key in ("num_cells", "init_channels")}
    changes = {key: value for key, value in changes.items() if value is not None}
    if not isinstance(genotype, Genotype) or settings is None:
        for key in changes:
            raise UserError(
                f"profile: {key}: changes networks of cells; a macro genotype says it by its stages"
            )
        title = f"{path}: macro genotype {genotype.hash()}, {_format_sizes(sizes)}"
        return built()
    settings = build(NetworkSettings, {**settings.model_dump(), **changes}, "profile")
    title = (
        f"{path}: genotype {genotype.hash()}, {settings.num_cells} cells from {settings.init_channels}"
        f" channels, {_format_sizes(sizes)}"
    )
    return built(settings)


def _file_in(folder: Path) -> Path:
    """What a run has to show: a retraining its trained network, a search its genotype."""
    is_search = read_manifest(folder).get("kind") == "search"
    file = folder / ("genotype.json" if is_search else "checkpoint.pt")
    if not file.is_file():
        what = "a search writes it when it ends" if is_search else "a retraining writes it after an epoch"
        raise UserError(f"{folder}: holds no {file.name}; {what}: go on with --resume {folder}")
    return file


def _published(options: Namespace, overrides: dict[str, Any]) -> _Counted:
    for key in overrides:
        if not key.startswith("model."):
            raise UserError(f"--{key}: profile takes options of the model only, --model.KEY")
    value: Any = {"name": options.file}
    for key, change in overrides.items():
        value = with_override(value, key.removeprefix("model."), change)
    choice, sizes = build(ModelChoice, value, "profile: model"), _sizes(options, dict(DEFAULT_SIZES))
    title = f"{choice.summary()}, {_format_sizes(sizes)}"
    task = Task(**sizes, binarizations=())
    own = (sizes["in_channels"], sizes["image_size"])
    return _Counted(count(choice, **sizes), title, lambda: build_model(choice, task), *own)


def _stage_of(stage: StageConfig) -> dict[str, Any]:
    """What of a stage decides the count."""
    keys = ("binarization", "binarize_activations", "binarize_weights", "layers")
    return {key: getattr(stage, key) for key in keys}


def _sizes(options: Namespace, sizes: dict[str, Any]) -> dict[str, Any]:
    given = {key: _given(options, key) for key in sizes}
    return {**sizes, **{key: value for key, value in given.items() if value is not None}}


def _format_sizes(sizes: dict[str, Any]) -> str:
    height, width = sizes["image_size"]
    return f"images {sizes['in_channels']} × {height} × {width}, {sizes['num_classes']} classes"


def _own_sizes(genotype: AnyGenotype) -> dict[str, Any]:
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
