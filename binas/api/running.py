"""Searches, trainings and evolutions, in memory or with a run folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from binas.api.loading import load_genotype, load_network, load_space, loaded_plugins, open_data
from binas.api.preprocess import Preprocess
from binas.arch.genotype import AnyGenotype, cells_only
from binas.arch.kinds import AnySpace, space_of
from binas.config import Config, build
from binas.data.open_data import Data
from binas.errors import UserError
from binas.evolve.config import EvolveConfig
from binas.models import MODELS, ModelChoice
from binas.profile.measures import Limits
from binas.recipe import Recipe, as_spelled_now, provenance, study_identity
from binas.run.device import pick_device
from binas.run.folder import RunFolder
from binas.run.progress import Progress, shown_by
from binas.search.config import SearchConfig
from binas.train.stage import RetrainConfig

Section = TypeVar("Section", bound=Config)


@dataclass(frozen=True)
class SearchResult:
    """What a search has found.

    Args:
        genotype: the recommended one.
        history: what each epoch reached.
        candidates: all that were seen, the recommended one first.
        folder: where it stands; None: in memory only.
        measured: what else the search tells of itself in `front.json`: Kendall's τ, what was trained alone.
    """

    genotype: AnyGenotype
    history: list[dict[str, Any]] = field(repr=False)
    candidates: tuple[Any, ...] = field(repr=False)
    folder: Path | None = None
    measured: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class TrainResult:
    """What a training has made.

    Args:
        network: trained, in evaluation mode, with `class_names` and `preprocess`.
        history: what each epoch reached.
        folder: where checkpoint and metrics stand; None: in memory only.
    """

    network: nn.Module = field(repr=False)
    history: list[dict[str, Any]] = field(repr=False)
    folder: Path | None = None

    @property
    def last(self) -> dict[str, Any]:
        """What the last epoch reached."""
        return self.history[-1] if self.history else {}


@dataclass(frozen=True)
class Front:
    """The networks that an evolution has found, none of which another beats in accuracy and in cost.

    Args:
        points: for each its accuracy, ops, bits, genome, and `network`, which `run_retrain` takes; the most
            accurate first.
        hypervolume: of the front.
        folder: where it stands; None: in memory only.
    """

    points: tuple[dict[str, Any], ...]
    hypervolume: float
    folder: Path | None = None

    @property
    def best(self) -> dict[str, Any]:
        """The most accurate one.

        Raises:
            UserError: the front is empty, since no candidate keeps the limits.
        """
        if not self.points:
            raise UserError("front: no candidate keeps the limits; raise them, or add smaller choices")
        return self.points[0]


def run_search(
    space: str | Path | Mapping[str, Any] | AnySpace,
    data: Any,
    *,
    config: SearchConfig | Mapping[str, Any] | None = None,
    limits: Limits | Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> SearchResult:
    """Searches a space for a genotype; what `binas search` does.

    Args:
        space: as of `load_space`.
        data: as of `open_data`.
        config: the `search` section of a recipe.
        limits: what the network may cost, by measure: {"ops": 4e6}.
        seed: of everything random.
        device: auto, cpu, cuda or cuda:N.
        folder: the run folder to make, with the files of the command; None: everything stays in memory.
        progress: called with a description, how much is done, of how much, and figures.
    Raises:
        UserError: a setting is wrong, or the folder is there already.
    """
    from binas.search.search import Search
    from binas.search.strategies.base import check_settings, check_space

    space, data = load_space(space), open_data(data)
    settings = _settings(SearchConfig, config, "search")
    bounds = _settings(Limits, limits, "limits")
    check_settings(settings)
    check_space(settings, space)
    recipe = _recipe(folder, data, seed, device, space=space, search=settings, limits=bounds)
    plugins = loaded_plugins()
    told = provenance(recipe, data, plugins)
    search = Search(
        space,
        settings,
        data,
        seed=seed,
        device=pick_device(device),
        plugins=plugins,
        provenance=told,
        tensorboard=False,
        limits=bounds,
    )
    with shown_by(progress), _folder("search", recipe, folder, data) as opened:
        genotype = search.run(opened)
    others = [one for one in search.front.candidates if one.genotype.hash() != genotype.hash()]
    return SearchResult(
        genotype,
        search.history,
        (search.front.recommended, *others),
        None if folder is None else Path(folder),
        search.front.measured,
    )


def run_retrain(
    what: str | Path | Mapping[str, Any] | AnyGenotype | ModelChoice,
    data: Any,
    *,
    config: RetrainConfig | Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Trains a genotype's network, or a published one, from scratch in stages; what `binas retrain` does.

    Args:
        what: as of `load_genotype`, or the name of a published network.
        data: as of `open_data`.
        config: the `retrain` section of a recipe.
        seed, device, folder, progress: as of `run_search`.
    """
    from binas.train.retrain import Retraining

    data = open_data(data)
    settings = _settings(RetrainConfig, config, "retrain")
    variant = _variant(what)
    recipe = _recipe(folder, data, seed, device, retrain=settings, **_section_of(variant))
    retraining = Retraining(
        variant,
        settings,
        data,
        seed=seed,
        device=pick_device(device),
        tensorboard=False,
        plugins=loaded_plugins(),
    )
    genotype = variant if isinstance(variant, AnyGenotype) else None
    with shown_by(progress), _folder("retrain", recipe, folder, data, genotype) as opened:
        results = retraining.run(opened)
        if opened is not None:
            opened.add_to_manifest(results=results)
    network: Any = retraining.network
    if opened is not None and settings.keep == "best":
        network = load_network(opened.path)
    elif retraining.best_weights is not None:
        network.load_state_dict(retraining.best_weights)
    network.class_names, network.structure = data.class_names, retraining.structure
    network.preprocess = Preprocess(data.image_size, data.channels, data.mean, data.std)
    return TrainResult(network.eval(), retraining.history, None if folder is None else Path(folder))


def run_evolution(
    what: str | Path | Mapping[str, Any] | AnyGenotype | ModelChoice,
    data: Any,
    *,
    config: EvolveConfig | Mapping[str, Any] | None = None,
    limits: Limits | Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> Front:
    """Evolves the widths or groups of a network, or several things at once; what `binas evolve` does.

    Args:
        what: a published network, or a genotype whose cells are widened.
        config: the `evolve` section of a recipe.
        data, limits, seed, device, folder, progress: as of `run_search`.
    """
    from binas.evolve.evolution import Evolution
    from binas.evolve.problems.open_problem import open_problem

    data = open_data(data)
    settings = _settings(EvolveConfig, config, "evolve")
    bounds = _settings(Limits, limits, "limits")
    found, where, plugins = _variant(what), pick_device(device), loaded_plugins()
    why = "an evolution varies cells, or the options of a published network; give one of these"
    variant = found if isinstance(found, ModelChoice) else cells_only(found, "evolve", why)
    recipe = _recipe(folder, data, seed, device, evolve=settings, limits=bounds, **_section_of(variant))
    problem = open_problem(settings, variant, {}, data, plugins=plugins)
    problem.measure(bounds)
    genotype = variant if isinstance(variant, AnyGenotype) else None
    with (
        shown_by(progress),
        tempfile.TemporaryDirectory(prefix="binas_") as passing,
        _folder("evolve", recipe, folder, data, genotype) as opened,
    ):
        document = Evolution(
            settings,
            problem,
            variant,
            data,
            where,
            Path(passing) if opened is None else opened.path,
            seed=seed,
            recipe=recipe.model_dump(mode="json"),
            identity=study_identity(recipe),
            read=as_spelled_now,
            tensorboard=False,
        ).run()
        if opened is not None:
            front = document["front"]
            opened.add_to_manifest(results={"hypervolume": document["hypervolume"], "front": len(front)})
    points = tuple(
        {**row, "network": problem.variant(problem.space.genome_of(row["genome"]))}
        for row in document["front"]
    )
    return Front(points, document["hypervolume"], None if folder is None else Path(folder))


def _settings(model: type[Section], given: Section | Mapping[str, Any] | None, source: str) -> Section:
    if isinstance(given, model):
        return given
    return build(model, dict(given or {}), source)


def _variant(what: Any) -> AnyGenotype | ModelChoice:
    if isinstance(what, AnyGenotype | ModelChoice):
        return what
    if isinstance(what, str) and what in MODELS:
        return build(ModelChoice, what, "model")
    if isinstance(what, Mapping) and what.get("name") in MODELS:
        return build(ModelChoice, dict(what), "model")
    return load_genotype(what)


def _section_of(variant: AnyGenotype | ModelChoice) -> dict[str, Any]:
    """The section of a recipe that says what is trained."""
    if isinstance(variant, ModelChoice):
        return {"model": variant}
    return {"space": space_of(variant)}


def _recipe(folder: str | Path | None, data: Data, seed: int, device: str, **sections: Any) -> Recipe:
    """The recipe of a run from Python; its name and place are those of the folder."""
    path = Path("runs/run") if folder is None else Path(folder)
    return Recipe(
        name=path.name,
        runs=path.parent,
        seed=seed,
        device=device,
        tensorboard=False,
        data=data.config,
        **sections,
    )


@contextmanager
def _folder(
    kind: str, recipe: Recipe, folder: str | Path | None, data: Data, genotype: AnyGenotype | None = None
) -> Iterator[RunFolder | None]:
    """The run folder for the time of a run, with everything that going on needs; None without one."""
    if folder is None:
        yield None
        return
    with RunFolder.begin(
        folder,
        kind,
        recipe,
        seed=recipe.seed,
        device=pick_device(recipe.device),
        splits=data.split_hashes,
        plugins=[record.model_dump(mode="json") for record in loaded_plugins()],
        genotype=None if genotype is None else genotype.to_json(),
    ) as opened:
        yield opened
