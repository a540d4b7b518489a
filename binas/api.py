"""What binas does, as functions: search, train, evolve, predict, count, check and draw from Python.

Nothing prints; what a run has to say goes to `logging` (loggers `binas.search`, `binas.train`, …), and how
far a loop has come to `progress`. Wherever an object is taken, its name or file is taken too.
"""

from __future__ import annotations

import fnmatch
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from binas.arch.genotype import AnyGenotype, cells_only, parse_genotype, read_genotype
from binas.arch.kinds import AnySpace, genotype_network, load_any_space, space_of
from binas.arch.network import genotype_space
from binas.arch.space import NetworkSettings
from binas.binarize import Binarization
from binas.binarize.catalogue import KINDS
from binas.config import Config, build, find_file, merged, shipped_names
from binas.data.batches import Batches
from binas.data.config import DataConfig
from binas.data.image_set import ImageSet
from binas.data.in_memory import data_from, to_pixels
from binas.data.opening import Data
from binas.data.opening import open_data as _open_data
from binas.data.pixels import convert
from binas.engine.loop import EVALUATION_BATCH_SIZE
from binas.engine.loop import evaluate as _evaluate
from binas.engine.loss import LossConfig
from binas.errors import UserError
from binas.evolve.config import EvolveConfig
from binas.models import MODELS, ModelChoice, Task, build_model
from binas.ops import OPS
from binas.plugins import PluginRecord, load_plugins
from binas.plugins import load_plugin as _load_plugin
from binas.profile.cost import Profile
from binas.profile.count import count
from binas.profile.measures import Limits
from binas.recipe import Recipe, as_spelled_now, study_identity
from binas.recipe import load_recipe as _load_recipe
from binas.registries import REGISTRIES
from binas.run.device import pick_device
from binas.run.files import write_atomic
from binas.run.folder import RunFolder
from binas.run.progress import Progress, shown_by
from binas.search.config import SearchConfig
from binas.train.stage import RetrainConfig

Section = TypeVar("Section", bound=Config)
Sizes = int | tuple[int, int]
"""Side, or height and width, in pixels."""


# ---- what there is


def list_models(pattern: str = "*") -> list[str]:
    """The names of published networks that match a pattern ("react*").

    Example:
        >>> import binas
        >>> "reactnet_a" in binas.list_models("reactnet*")
        True
    """
    return fnmatch.filter(sorted(MODELS), pattern)


def list_operations() -> list[str]:
    """The names of candidate operations, those of loaded plug-ins included."""
    return sorted(OPS)


def list_binarizers(kind: str | None = None) -> list[str]:
    """The names of binarizers: of activations, weights or gradients; None: of all kinds.

    Raises:
        UserError: there is no such kind.
    """
    if kind is not None and kind not in KINDS:
        raise UserError(f"kind: '{kind}' is none of {', '.join(KINDS)}")
    return sorted({name for one, registry in KINDS.items() if kind in (None, one) for name in registry})


def list_recipes() -> list[str]:
    """The names of the recipes that travel in the package."""
    return shipped_names("configs")


def list_spaces() -> list[str]:
    """The names of the search spaces that travel in the package."""
    return shipped_names("search_spaces")


def list_genotypes() -> list[str]:
    """The names of the genotypes that travel in the package."""
    return shipped_names("genotypes")


# ---- opening


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


def load_genotype(what: str | Path | Mapping[str, Any] | AnyGenotype) -> AnyGenotype:
    """A genotype: a shipped name, a JSON file, a run folder, or what `json.load` gave.

    Raises:
        UserError: it is missing, damaged, or of operations that nobody registered.
    """
    if isinstance(what, AnyGenotype):
        return what
    if isinstance(what, Mapping):
        import json

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
    return data_from(name, test, class_names, build(DataConfig, settings, "data"))


def load_network(what: str | Path, *, device: str = "cpu") -> nn.Module:
    """The trained network of a checkpoint or of a run folder, in evaluation mode.

    It has `class_names`, and `preprocess`, which turns pictures into what it was trained on.

    Raises:
        UserError: the file is missing, damaged, or needs a plug-in that was not loaded.
    """
    from binas.train.model_file import load_model

    path = Path(what)
    if path.is_dir():
        path = path / ("best.pt" if (path / "best.pt").exists() else "checkpoint.pt")
    network, structure, _ = load_model(path, _loaded())
    network.structure = structure  # type: ignore[assignment]
    network.class_names = structure.class_names  # type: ignore[assignment]
    network.preprocess = Preprocess(  # type: ignore[assignment]
        structure.image_size, structure.in_channels, structure.mean, structure.std
    )
    return network.to(pick_device(device))


def _loaded() -> tuple[PluginRecord, ...]:
    """The records of the plug-in files that were loaded in this process, and of installed ones."""
    origins = {registry.origin(name) for registry in REGISTRIES for name in registry} - {""}
    return load_plugins([origin for origin in sorted(origins) if Path(origin).is_file()], REGISTRIES)


# ---- building


def create_model(
    name: str | ModelChoice,
    *,
    num_classes: int,
    image_size: Sizes = 32,
    in_channels: int = 3,
    binarization: Any = None,
    **options: Any,
) -> nn.Module:
    """A published network with fresh weights, to be trained by whatever code.

    Args:
        name: one of `list_models`.
        num_classes: outputs.
        image_size: of the images it will see, in pixels.
        in_channels: of the images.
        binarization: {"activation": …, "weight": …}; None: the paper's own.
        options: of the network, as `binas models NAME` lists them (width, stem, …).
    Shape: (N, in_channels, H, W) -> (N, num_classes).
    Raises:
        UserError: there is no such network or option.

    Example:
        >>> import torch, binas
        >>> net = binas.create_model("reactnet_resnet18", num_classes=5, width=0.125, stem="cifar")
        >>> net(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 5])
    """
    choice = build(ModelChoice, name if not options else {"name": name, **options}, "model")
    task = Task(in_channels, _pair(image_size), num_classes, _binarizations(binarization))
    return build_model(choice, task)


def create_network(
    genotype: str | Path | Mapping[str, Any] | AnyGenotype,
    *,
    num_classes: int,
    in_channels: int = 3,
    binarization: Any = None,
    **settings: Any,
) -> nn.Module:
    """The network that a genotype stands for, with fresh weights.

    Args:
        genotype: as of `load_genotype`.
        num_classes, in_channels: of the data.
        binarization: None: that of the genotype's space.
        settings: changes to depth and width of cells: num_cells, init_channels, reductions, …
    Shape: (N, in_channels, H, W) -> (N, num_classes).

    Example:
        >>> import torch, binas
        >>> net = binas.create_network("bnas_latest_cell", num_classes=5, num_cells=3, init_channels=4)
        >>> net(torch.randn(2, 3, 16, 16)).shape
        torch.Size([2, 5])
    """
    found = load_genotype(genotype)
    changed = None
    if settings:
        cells = cells_only(found, "create_network", f"{', '.join(settings)}: change its stages instead")
        own = genotype_space(cells).network.model_dump()
        changed = build(NetworkSettings, merged(own, settings), "network")
    return genotype_network(found, in_channels, num_classes, changed, _binarizations(binarization))


def _binarizations(given: Any) -> tuple[Binarization, ...]:
    if given is None:
        return ()
    if isinstance(given, Mapping):
        given = {key: {"name": value} if isinstance(value, str) else value for key, value in given.items()}
    return (build(Binarization, given, "binarization"),)


def _pair(size: Sizes) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


# ---- running


@dataclass(frozen=True)
class SearchResult:
    """What a search has found.

    Args:
        genotype: the recommended one.
        history: what each epoch reached.
        candidates: all that were seen, the recommended one first.
        folder: where it stands; None: in memory only.
    """

    genotype: AnyGenotype
    history: list[dict[str, Any]] = field(repr=False)
    candidates: tuple[Any, ...] = field(repr=False)
    folder: Path | None = None


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
    # a genotype says how it was found, wherever that was
    told = {
        "recipe": recipe.model_dump(mode="json", exclude={"space", "runs"}),
        "split_hashes": data.split_hashes,
    }
    search = Search(space, settings, data, seed, pick_device(device), _loaded(), told, False, limits=bounds)
    with shown_by(progress), _folder("search", recipe, folder, data) as opened:
        genotype = search.run(opened)
    others = [one for one in search.front.candidates if one.genotype.hash() != genotype.hash()]
    return SearchResult(
        genotype,
        search.history,
        (search.front.recommended, *others),
        None if folder is None else Path(folder),
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
    retraining = Retraining(variant, settings, data, seed, pick_device(device), False, _loaded())
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
    from binas.evolve.problems.opening import open_problem

    data = open_data(data)
    settings = _settings(EvolveConfig, config, "evolve")
    bounds = _settings(Limits, limits, "limits")
    found, where, plugins = _variant(what), pick_device(device), _loaded()
    why = "an evolution varies cells, or the options of a published network; give one of these"
    variant = found if isinstance(found, ModelChoice) else cells_only(found, "evolve", why)
    recipe = _recipe(folder, data, seed, device, evolve=settings, limits=bounds, **_section_of(variant))
    problem = open_problem(settings, variant, {}, data, plugins)
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
    with RunFolder.create(Path(folder), kind) as opened:
        if genotype is not None:
            write_atomic(opened.path / "genotype.json", genotype.to_json())
        opened.write_manifest(
            seed=recipe.seed,
            device=pick_device(recipe.device),
            splits=data.split_hashes,
            plugins=[record.model_dump(mode="json") for record in _loaded()],
        )
        opened.write_config(recipe)
        yield opened


# ---- using


@dataclass(frozen=True)
class Preprocess:
    """From pictures to what a network was trained on: its size, its channels, its scaling.

    Args:
        image_size: height and width in pixels.
        channels: 1 or 3.
        mean, std: of each channel of the training images, pixels scaled to 0..1.
    """

    image_size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Any) -> Tensor:
        """The images as the network takes them.

        Args:
            images: one, or several: files, pictures of Pillow, arrays (H, W, C), tensors (C, H, W) or
                (N, C, H, W); uint8, or floats from 0 to 1.
        Shape: -> (N, channels, *image_size), float32.
        """
        pixels = torch.cat([convert(one, self.image_size, self.channels) for one in _opened(images)])
        labels = torch.zeros(len(pixels), dtype=torch.int64)
        batches = Batches(ImageSet(pixels, labels), max(len(pixels), 1), "cpu", self.mean, self.std)
        return next(iter(batches.epoch(0, shuffle=False)))[0]


def _opened(images: Any) -> Iterable[Tensor]:
    """Stacks of pixels, uint8 (n, C, H, W)."""
    from PIL import Image

    if not isinstance(images, list | tuple):
        images = [images]
    if not images:
        raise UserError("predict: there are no images")
    for one in images:
        if isinstance(one, str | Path):
            from binas.data.image_file import Decoder, read_header

            header = read_header(Path(one))
            grey = header.mode in ("1", "L", "I;16")
            yield Decoder(1 if grey else 3, (header.height, header.width))(Path(one))[None]
            continue
        if isinstance(one, Image.Image):
            from PIL import ImageOps

            one = ImageOps.exif_transpose(one)
        pixels = to_pixels(one)
        yield pixels if pixels.dim() == 4 else pixels[None]


@dataclass(frozen=True)
class Predictions:
    """What a network says of images.

    Args:
        class_names: of all classes.
        probabilities: softmax of the logits. Shape: (N, K).
    """

    class_names: tuple[str, ...]
    probabilities: Tensor

    @property
    def labels(self) -> list[int]:
        """The most probable class of each image."""
        found: list[int] = self.probabilities.argmax(1).tolist()
        return found

    @property
    def names(self) -> list[str]:
        """Its name."""
        return [self.class_names[label] for label in self.labels]

    def __len__(self) -> int:
        return len(self.probabilities)

    def __str__(self) -> str:
        rows = []
        for row in self.probabilities:
            most = row.topk(min(3, len(row)))
            pairs = zip(most.indices.tolist(), most.values.tolist(), strict=True)
            rows.append(", ".join(f"{self.class_names[label]} {share:.1%}" for label, share in pairs))
        return "\n".join(rows)


@torch.no_grad()
def predict(network: str | Path | nn.Module, images: Any, *, batch_size: int = 256) -> Predictions:
    """The classes of images, with their probabilities.

    Args:
        network: a checkpoint, a run folder, or a network of `load_network` or of a run. Another module takes
            a tensor of images as it wants them, and its classes are numbers.
        images: as of `Preprocess`.
        batch_size: images at a time.
    Raises:
        UserError: an image cannot be read, or there is none.
    """
    model = load_network(network) if isinstance(network, str | Path) else network
    preprocess: Any = getattr(model, "preprocess", None)
    if preprocess is None and not isinstance(images, Tensor):
        raise UserError("predict: this network has no `preprocess`; give a tensor of images as it takes them")
    inputs = images if preprocess is None else preprocess(images)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    logits = torch.cat([model(part.to(device)).float().cpu() for part in inputs.split(batch_size)])
    model.train(was_training)
    names: Any = getattr(model, "class_names", None) or tuple(map(str, range(logits.shape[1])))
    return Predictions(tuple(names), logits.softmax(1))


def evaluate(
    network: str | Path | nn.Module, data: Any = None, *, split: str = "test", device: str = "auto"
) -> dict[str, float]:
    """Loss and accuracy of a network on the test images.

    Args:
        network: as of `predict`.
        data: as of `open_data`; None: the images that a checkpoint's network was trained and split on.
        split: test, or with `data` also train or search_validation.
        device: where to compute.
    Raises:
        UserError: there are no such images.
    """
    where = pick_device(device)
    if isinstance(network, str | Path) and data is None:
        from binas.train.evaluation import evaluate_checkpoint

        path = Path(network)
        if path.is_dir():
            path = path / ("best.pt" if (path / "best.pt").exists() else "checkpoint.pt")
        found = evaluate_checkpoint(path, split, where, _loaded())
        return {"loss": found["loss"], "accuracy": found["accuracy"]}
    if data is None:
        raise UserError("evaluate: data: on which images? A network in memory does not bring them")
    model = load_network(network) if isinstance(network, str | Path) else network
    data = open_data(data)
    parts: dict[str, Callable[[], Any]] = {
        "test": data.test,
        "train": data.train,
        "search_validation": data.search_validation,
    }
    if split not in parts:
        raise UserError(f"evaluate: split: '{split}' is none of {', '.join(parts)}")
    preprocess: Any = getattr(model, "preprocess", None)
    scaling = (data.mean, data.std) if preprocess is None else (preprocess.mean, preprocess.std)
    batches = Batches(parts[split](), EVALUATION_BATCH_SIZE, where, *scaling)
    return dict(_evaluate(model.to(where), batches, LossConfig()))


def count_cost(
    what: str | Path | AnyGenotype | ModelChoice | nn.Module,
    *,
    image_size: Sizes = 32,
    num_classes: int = 10,
    in_channels: int = 3,
) -> Profile:
    """What a network costs for one image: parameters, bits, FLOPs, BOPs and OPs; `print` shows the table.

    Args:
        what: a published network or a genotype by name or file, a run folder or checkpoint, or any module.
        image_size: in pixels; of a trained network its own.
        num_classes: outputs; of a module and of a trained network their own.
        in_channels: of the images.

    Example:
        >>> import binas
        >>> binas.count_cost("resnet20", image_size=32).ops > 1e6
        True
    """
    if isinstance(what, str | Path) and str(what) not in MODELS:
        path = Path(what)
        if path.suffix == ".pt" or (path / "checkpoint.pt").exists():
            network = load_network(path)
            structure: Any = network.structure
            return count(network, structure.image_size, in_channels=structure.in_channels)
        what = load_genotype(path)
    return count(
        str(what) if isinstance(what, str | Path) else what, _pair(image_size), num_classes, in_channels
    )


def check_binary(network: str | Path | nn.Module, images: Any = None) -> Any:
    """Proof of what really enters each binary convolution; `print` shows it as `binas check` does.

    Args:
        network: as of `predict`.
        images: a batch as the network takes it (N, C, H, W), or what `predict` takes where the network has
            its preprocessing; None: random images of the size of a trained network.
    Returns:
        A `BinaryCheck`: `is_binary`, `reports`, `real`.
    """
    from binas.train.check import check_whole

    model = load_network(network) if isinstance(network, str | Path) else network
    preprocess: Any = getattr(model, "preprocess", None)
    if images is None:
        if preprocess is None:
            raise UserError("check: images: give a batch that the network takes, (N, C, H, W)")
        images = torch.randn(
            8, preprocess.channels, *preprocess.image_size, generator=torch.Generator().manual_seed(0)
        )
    elif not (isinstance(images, Tensor) and images.is_floating_point()):
        if preprocess is None:
            raise UserError("check: images: this network has no `preprocess`; give floats (N, C, H, W)")
        images = preprocess(images)
    return check_whole(model, images.to(next(model.parameters()).device))


class Picture(str):
    """An SVG text that notebooks show."""

    def _repr_svg_(self) -> str:
        return str(self)


def draw_cells(
    genotype: str | Path | Mapping[str, Any] | AnyGenotype, path: str | Path | None = None
) -> Path | Picture:
    """A drawing of a genotype: its cells, or the stages of a macro genotype.

    Args:
        genotype: as of `load_genotype`.
        path: the file to write: svg, png, pdf or dot; None: gives an SVG text, which notebooks show.
    """
    from binas.draw.render import draw

    found = load_genotype(genotype)
    if path is not None:
        return draw(found, path)
    with tempfile.TemporaryDirectory(prefix="binas_") as folder:
        return Picture(draw(found, Path(folder) / "cells.svg").read_text(encoding="utf-8"))
