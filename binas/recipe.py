"""The recipe: one YAML file with all settings of a run, from data to the last stage of retraining."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from binas.arch.kinds import SpaceField
from binas.arch.space import SearchSpace, space_mapping
from binas.config import Config, build, check_used, find_file, option_parameters, read_mapping, with_override
from binas.data.config import DataConfig
from binas.data.open_data import Data, unused_by_set
from binas.errors import UserError
from binas.evolve.config import EvolveConfig
from binas.models import ModelChoice
from binas.plugins import PluginRecord, load_plugins, records_for
from binas.profile.measures import MEASURES, Limits
from binas.registries import REGISTRIES
from binas.run.distributed import Distributed
from binas.run.progress import warn
from binas.search.config import SearchConfig
from binas.train.stage import RetrainConfig

DEFAULT_SPACE = "binas"
OF_A_STUDY = ("seed", "data", "model", "evolve", "limits", "retrain")
"""Keys in which all workers of a study agree."""
OLD_LIMITS = {
    "search.limits": "limits",
    "evolve.max_ops": "limits.ops",
    "evolve.max_bits": "limits.bits",
    "evolve.max_latency": "limits.latency_ms.at_most",
    "evolve.latency_table": "limits.latency_ms.table",
}
"""Where limits stood before, and where they stand now."""


class Expected(Config):
    """What the recipe is expected to reach; never read by a run."""

    measured: Literal["by us", "not run by us"] = "not run by us"
    """Whether the figures are our own."""
    test_accuracy_mean: float | None = None
    """Mean over n runs."""
    test_accuracy_std: float | None = None
    """Standard deviation over n runs."""
    n: int | None = None
    """Number of runs, each with its own seed."""
    seconds: float | None = None
    """Wall time of one run."""
    machine: str | None = None
    """Where it was run."""
    note: str | None = None
    """Published figures with their source, checkpoints on the way, anything else."""


class Recipe(Config):
    """All settings of a run; every key has a default, and a dotted name by which it can be overridden."""

    name: str = Field("run", pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$")
    """Name of the run; its folder is <runs>/<name>."""
    runs: Path = Path("runs")
    """The folder of run folders."""
    seed: int = Field(0, ge=0)
    """Of everything random: the same seed gives the same result on the same machine."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    num_threads: int | None = Field(None, ge=1)
    """CPU threads; null: torch's own choice."""
    tensorboard: bool = True
    """Whether to write TensorBoard data into the run folder."""
    plugins: tuple[str, ...] = ()
    """Files of your own that register names: operations, networks, …"""
    data: DataConfig = DataConfig()
    space: SpaceField = Field(
        default_factory=lambda: SearchSpace.model_validate(space_mapping(DEFAULT_SPACE))
    )
    """Name or file of a search space, or a mapping that changes a `base`."""
    search: SearchConfig = SearchConfig()
    evolve: EvolveConfig = EvolveConfig()
    model: ModelChoice | None = None
    """A published network to retrain in place of a genotype: its name, or {name: …, stem: cifar, …}."""
    retrain: RetrainConfig = RetrainConfig()
    limits: Limits = Limits()
    """What a network that is handed on may cost, by measure of binas methods: {ops: 4.0e+6}."""
    distributed: Distributed = Distributed()
    expected: Expected = Expected()

    def unused_keys(self) -> Iterator[tuple[str, str]]:
        """Keys of another data set, and how often pictures are drawn where none are."""
        for key in unused_by_set(self.data):
            yield f"data.{key}", f"data set '{self.data.name}'"
        if not self.tensorboard and self.search.is_set("picture_interval"):
            yield "search.picture_interval", "a run without tensorboard"


def load_recipe(
    config: str | None, overrides: Mapping[str, Any], *, start: Any = None, plugins: Iterable[str] = ()
) -> Recipe:
    """The recipe in a file, given by path or by the name of a shipped one, with overrides.

    The plug-ins that it names are loaded first: any key may be a name that they register.

    Args:
        config: the file; None starts from `start`, or from the defaults.
        overrides: dotted keys and their values.
        start: a mapping to start from where there is no file, e.g. a genotype's provenance.
        plugins: files to load beside those that the recipe names.
    """
    source = "defaults"
    data: Any = start or {}
    if config is not None:
        path = find_file(config, "configs")
        source, data = str(path), read_mapping(path)
        if isinstance(data.get("plugins"), list):
            data["plugins"] = [_beside(path, file) for file in data["plugins"]]
    _load_plugins(overrides.get("plugins", data.get("plugins")), plugins)
    if config is not None:
        data = _tables_beside(path, with_limits(data, source, warn))
    # a whole section comes before what changes in it, however they stand on the command line
    changes = _renamed(overrides, source)
    for key, value in sorted(changes.items(), key=lambda override: override[0].count(".")):
        data = with_override(_filled(data, key, source), key, value)
    recipe = build(Recipe, with_limits(data, source, warn if overrides else None), source)
    if start is None:  # what an earlier version has recorded stays readable
        check_used(recipe, source)
    return recipe


def recorded_recipe(file: Path, plugins: Iterable[str] = ()) -> Recipe:
    """The recipe that a run folder holds, its plug-ins loaded first; paths in it are taken as they stand.

    Args:
        file: the resolved recipe.
        plugins: files to load beside those that the recipe names.
    """
    data = read_mapping(file)
    _load_plugins(data.get("plugins"), plugins)
    return build(Recipe, with_limits(data, str(file)), str(file))


def with_limits(
    data: Mapping[str, Any], source: str, tell: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """A recipe's plain settings with what older keys say of limits moved to `limits`.

    Args:
        data: the settings.
        source: where they stand, for errors.
        tell: takes the warning that names the new key; None: nobody is told.
    Raises:
        UserError: an older key and the new one say it twice.
    """
    result = dict(data)
    moved: dict[str, tuple[str, Any]] = {}
    for old, new in OLD_LIMITS.items():
        section, _, key = old.partition(".")
        inner = result.get(section)
        if not isinstance(inner, Mapping) or key not in inner:
            continue
        result[section] = {name: given for name, given in inner.items() if name != key}
        inside = inner[key] if isinstance(inner[key], Mapping) else {"": inner[key]}
        moved |= {
            f"{old}.{name}".strip("."): (f"{new}.{name}".strip("."), one) for name, one in inside.items()
        }
    for old, (new, value) in moved.items():
        if value is None:
            continue
        parts = new.split(".")
        above = [_at(result, parts[:length]) for length in range(1, len(parts))]
        is_number = any(one is not None and not isinstance(one, dict) for one in above)
        if is_number or _at(result, parts) is not None:
            raise UserError(f"{source}: {old} and {new} say the same; leave {old} out")
        result = with_override(result, new, value)
    _tell_of_old(source, {old: new for old, (new, _) in moved.items()}, tell)
    return result


def _renamed(overrides: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Overrides with older keys of limits spelled as now, so that they replace what a recipe says."""
    result, renamed = dict(overrides), {}
    for key, value in overrides.items():
        for old, new in OLD_LIMITS.items():
            if key == old or key.startswith(f"{old}."):
                renamed[key] = new + key[len(old) :]
                del result[key]
                if renamed[key] not in overrides:
                    result[renamed[key]] = value
                elif value is not None:
                    raise UserError(f"{source}: {key} and {renamed[key]} say the same; leave {key} out")
    _tell_of_old(source, renamed, warn)
    return result


def _tell_of_old(source: str, keys: Mapping[str, str], tell: Callable[[str], None] | None) -> None:
    if keys and tell is not None:
        words = ", ".join(f"{old} is {new} now" for old, new in keys.items())
        tell(f"{source}: {words}; the old key is still read")


def _load_plugins(named: Any, more: Iterable[str]) -> None:
    files = [file for file in named if isinstance(file, str)] if isinstance(named, list) else []
    load_plugins([*files, *more], REGISTRIES)


def _filled(data: dict[str, Any], key: str, source: str) -> dict[str, Any]:
    """`data` with the defaults that an override reaches into: a space to change, a list to pick from."""
    parts = key.split(".")
    if parts[0] == "space" and len(parts) > 1 and data.get("space") is None:
        data = {**data, "space": DEFAULT_SPACE}
    for length, part in enumerate(parts):
        if part.isdigit() and _at(data, parts[:length]) is None:
            defaults = build(Recipe, data, source).model_dump(mode="json")
            return dict(with_override(data, ".".join(parts[:length]), _at(defaults, parts[:length])))
    return data


def _at(value: Any, parts: list[str]) -> Any:
    for part in parts:
        if isinstance(value, list) and part.isdigit():
            value = value[int(part)] if int(part) < len(value) else None
        else:
            value = value.get(part) if isinstance(value, dict) else None
    return value


def provenance(recipe: Recipe, data: Data, plugins: tuple[PluginRecord, ...] = ()) -> dict[str, Any]:
    """Where a genotype comes from: the recipe, the hashes of the splits, the sizes of the images.

    Args:
        plugins: those that are loaded; the one that the images come from is recorded.
    """
    of_data = records_for([recipe.data.name], plugins)
    return {
        "recipe": recipe.model_dump(mode="json", exclude={"space", "runs"}),
        "split_hashes": data.split_hashes,
        "images": {
            "in_channels": data.channels,
            "image_size": list(data.image_size),
            "num_classes": data.num_classes,
        },
        **({"data_plugins": [plugin.model_dump(mode="json") for plugin in of_data]} if of_data else {}),
    }


def study_identity(recipe: Recipe) -> dict[str, Any]:
    """What all workers of a study agree in; where a file lies and how long a lease is may differ."""
    settings = {key: value for key, value in recipe.model_dump(mode="json").items() if key in OF_A_STUDY}
    settings["evolve"] = {k: v for k, v in settings["evolve"].items() if k != "lease_seconds"}
    for section, key in (("shared", "checkpoint"), ("predictor", "samples")):
        settings["evolve"][section] = {k: v for k, v in settings["evolve"][section].items() if k != key}
    return settings


def as_spelled_now(begun: Mapping[str, Any]) -> dict[str, Any]:
    """What a study has kept, which an earlier version may have begun: newer keys have their defaults."""
    data = with_limits(begun, "study")
    recipe = build(Recipe, {key: data[key] for key in OF_A_STUDY if key in data}, "study")
    return {**data, **study_identity(recipe)}


def _tables_beside(config: Path, data: dict[str, Any]) -> dict[str, Any]:
    """Files that measures are built from lie beside the recipe that names them."""
    limits = data.get("limits")
    if not isinstance(limits, Mapping):
        return data
    placed: dict[str, Any] = {}
    for name, entry in limits.items():
        placed[name] = entry
        if isinstance(entry, Mapping) and name in MEASURES:
            files = {
                option
                for option, parameter in option_parameters(MEASURES[name]).items()
                if parameter.annotation is Path
            }
            placed[name] = {key: _beside(config, one) if key in files else one for key, one in entry.items()}
    return {**data, "limits": placed}


def _beside(config: Path, file: Any) -> Any:
    # a config's own files lie beside it, wherever it is used from
    found = config.parent / str(file)
    return str(found) if found.is_file() else file
