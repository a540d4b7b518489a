"""What a user has at hand, a checkpoint, a run folder, a `.binas` file or a network's name, as a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binas.deploy.model_file import Model, read_model
from binas.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from binas.plugins import PluginRecord
    from binas.train.model_file import ModelStructure


@dataclass(frozen=True)
class Opened:
    """A model and, where it was made of one here, the network.

    Args:
        model: the program.
        module: the network that it was made of; None for a `.binas` file.
        structure: of a checkpoint.
        path: of the checkpoint.
    """

    model: Model
    module: nn.Module | None = None
    structure: ModelStructure | None = None
    path: Path | None = None


def is_model_file(what: str | Path) -> bool:
    """Whether it is a `.binas` file by its name."""
    return Path(what).suffix == ".binas"


def open_model(what: str | Path, plugins: tuple[PluginRecord, ...] = (), **named: Any) -> Opened:
    """The model of a `.binas` file, a checkpoint, a run folder or a published network with fresh weights.

    Args:
        plugins: those that are loaded.
        named: of a published network: `num_classes`, `image_size`.
    Raises:
        UserError: it is none of these, or cannot be exported.
    """
    if is_model_file(what):
        return Opened(read_model(Path(what)))
    import torch

    from binas.deploy.export import export_module
    from binas.models import MODELS

    path = Path(what)
    if not path.exists() and str(what) in MODELS:
        module, size = _published(str(what), **named)
        example = torch.zeros(1, 3, *size)
        return Opened(
            export_module(module, example, provenance={"network": str(what), "weights": "fresh"}), module
        )
    from binas.run.files import sha256_of
    from binas.train.model_file import load_model, trained_file

    path = trained_file(path)
    module, structure, _ = load_model(path, plugins)
    example = torch.zeros(1, structure.in_channels, *structure.image_size)
    provenance = {**structure.identity(), "checkpoint": sha256_of(path), "splits": structure.split_hashes}
    model = export_module(
        module,
        example,
        classes=structure.class_names,
        mean=structure.mean,
        std=structure.std,
        provenance=provenance,
    )
    return Opened(model, module, structure, path)


def _published(
    name: str, num_classes: int = 1000, image_size: int = 224
) -> tuple[nn.Module, tuple[int, int]]:
    import torch

    from binas.models import ModelChoice, Task, build_model

    torch.manual_seed(0)
    task = Task(3, (image_size, image_size), num_classes, ())
    return build_model(ModelChoice(name=name), task).eval(), (image_size, image_size)


def real_images(opened: Opened, count: int, data_root: Path | None = None) -> Tensor | None:
    """Test images as the network takes them; None where the checkpoint's data is not at hand."""
    from binas.data.batches import Batches
    from binas.train.evaluation import open_training_data

    if opened.structure is None or opened.path is None:
        return None
    try:
        data = open_training_data(opened.structure, opened.path, data_root)
    except UserError:
        return None
    batches = Batches(data.test(), count, "cpu", data.mean, data.std)
    images, _ = next(iter(batches.epoch(0, shuffle=False)))
    return images
