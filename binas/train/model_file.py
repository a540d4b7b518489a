"""A trained network as a file: everything that is needed to build it again, then its tensors."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError, model_validator
from torch import nn

from binas.arch.genotype import AnyGenotype, parse_genotype
from binas.arch.kinds import genotype_network
from binas.arch.space import NetworkSettings
from binas.binarize import Binarization, LayerRule, set_progress
from binas.config import Config, build
from binas.data.config import DataConfig
from binas.data.open_data import Data
from binas.errors import UserError
from binas.models import ModelChoice, Task, build_model
from binas.plugins import PluginRecord, require_plugins
from binas.run.checkpoint import Checkpoint, load_checkpoint
from binas.train.stage import StageConfig

KIND = "retrain"


def read_from(data: Data) -> dict[str, Any]:
    """What a structure says of the images that its network is made for."""
    return {
        "in_channels": data.channels,
        "num_classes": data.num_classes,
        "class_names": data.class_names,
        "image_size": data.image_size,
        "mean": data.mean,
        "std": data.std,
        "data": data.config,
        "split_hashes": data.split_hashes,
    }


class ModelStructure(Config):
    """What a network is built from, stored before its tensors."""

    genotype: str = ""
    """The genotype, as JSON text; empty for a published network."""
    settings: NetworkSettings | None = None
    """Depth and width of a network of cells; a macro genotype says them itself."""
    model: ModelChoice | None = None
    """The published network, in place of a genotype."""
    binarizations: tuple[Binarization, ...]
    layers: tuple[tuple[LayerRule, ...], ...] = ()
    """Rules for single layers, one list for each binarization; empty: those of the genotype's space."""
    plugins: tuple[PluginRecord, ...] = ()
    """Those that the network and its stages need beside the genotype's own."""
    data_plugins: tuple[PluginRecord, ...] = ()
    """Those that the images come from."""
    auxiliary: bool
    in_channels: int
    num_classes: int
    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    data: DataConfig
    split_hashes: dict[str, str]
    validation_fraction: float
    validation_images: Literal["of_every_class", "last"] = "of_every_class"
    stage: StageConfig
    """The stage that the weights are of: it says what is binary."""

    @model_validator(mode="after")
    def _genotype_or_model(self) -> ModelStructure:
        if self.model is None and not self.genotype:
            raise ValueError("it names neither a genotype nor a model")
        return self

    @model_validator(mode="after")
    def _one_name_for_each_class(self) -> ModelStructure:
        if len(self.class_names) != self.num_classes:
            raise ValueError(
                f"num_classes is {self.num_classes}, but {len(self.class_names)} classes have names"
            )
        return self

    def read_genotype(self) -> AnyGenotype:
        """The genotype, checked."""
        genotype = parse_genotype(self.genotype, "checkpoint: genotype")
        if genotype.kind == "cell" and self.settings is None:
            raise UserError("checkpoint: holds a genotype of cells without its settings; train it again")
        return genotype

    def identity(self) -> dict[str, str]:
        """What was trained: `genotype` and its hash, or `model` and its name with the changed options."""
        if self.model is not None:
            return {"model": self.model.summary()}
        return {"genotype": self.read_genotype().hash()}

    def required_plugins(self) -> tuple[PluginRecord, ...]:
        """The plug-ins without which the network cannot be built."""
        return (*self.plugins, *(self.read_genotype().plugins if self.model is None else ()))

    def build_network(self) -> nn.Module:
        """The network in the stage's precision, with fresh weights."""
        network = self._genotype_network() if self.model is None else self._published_network(self.model)
        self.stage.apply(network)
        return network

    def _genotype_network(self) -> nn.Module:
        return genotype_network(
            self.read_genotype(),
            self.in_channels,
            self.num_classes,
            settings=self.settings,
            binarizations=self.binarizations,
            auxiliary=self.auxiliary,
            layers=self.layers,
        )

    def _published_network(self, model: ModelChoice) -> nn.Module:
        task = Task(
            self.in_channels,
            self.image_size,
            self.num_classes,
            self.binarizations,
            self.layers,
            self.auxiliary,
        )
        return build_model(model, task)


def trained_file(what: str | Path) -> Path:
    """The checkpoint itself, or that of a run folder: of the best epoch where the training kept it."""
    path = Path(what)
    if not path.is_dir():
        return path
    return path / ("best.pt" if (path / "best.pt").exists() else "checkpoint.pt")


def load_model(path: Path, plugins: tuple[PluginRecord, ...]) -> tuple[nn.Module, ModelStructure, Checkpoint]:
    """The trained network in a checkpoint, rebuilt from the checkpoint alone, in evaluation mode.

    Raises:
        UserError: the file is missing, truncated, hostile, of another kind, or needs a plug-in that was
            not given.
    """
    checkpoint = load_checkpoint(path, KIND)
    structure = _structure(checkpoint, path, plugins)
    network = structure.build_network()
    load_weights(network, checkpoint.state.get("model"), path)
    epoch = _epoch(checkpoint, path)
    # annealed binarizers compute what they computed when the checkpoint was written
    set_progress(network, epoch / structure.stage.epochs)
    structure.stage.begin_epoch(network, max(epoch - 1, 0))
    return network.eval(), structure, checkpoint


def _epoch(checkpoint: Checkpoint, path: Path) -> int:
    """How many epochs of the stage are done."""
    position = checkpoint.state.get("position")
    epoch = position.get("epoch") if isinstance(position, dict) else None
    if type(epoch) is not int:
        raise UserError(f"{path}: is damaged: it lacks its position; train again")
    return epoch


def _structure(checkpoint: Checkpoint, path: Path, plugins: tuple[PluginRecord, ...]) -> ModelStructure:
    # before the structure is checked: it may name a network that a plug-in registers
    require_plugins(_recorded(checkpoint.structure.get("plugins")), plugins, str(path))
    structure = build(ModelStructure, checkpoint.structure, f"{path}: structure")
    require_plugins(structure.required_plugins(), plugins, str(path))
    return structure


def _recorded(plugins: Any) -> list[PluginRecord]:
    """The records in a structure that is not checked yet; what is none is told when it is."""
    found = plugins if isinstance(plugins, list) else []
    with suppress(ValidationError):
        return [PluginRecord.model_validate(record) for record in found]
    return []


def load_weights(network: nn.Module, state: Any, path: Path) -> None:
    """Load a state dict strictly; raises a `UserError` where it is that of another network."""
    check_fits(network, state, path)
    network.load_state_dict(state, strict=True)


def check_fits(network: nn.Module, state: Any, path: Path) -> None:
    """Raises a `UserError` where a state dict is that of another network."""
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds no weights; give the checkpoint.pt of a retrain run")
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(getattr(tensor, "shape", ())) for name, tensor in state.items()}
    wrong = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    if wrong:
        name = wrong[0]
        raise UserError(
            f"{path}: is a checkpoint of another network: '{name}' is {found.get(name, 'missing')} there"
            f" and {expected.get(name, 'missing')} here ({len(wrong)} such differences)"
        )
