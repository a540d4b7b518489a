"""What is done with a network: predict, evaluate, count, check and draw."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from binas.api.building import Sizes, pair_of
from binas.api.loading import load_genotype, load_network, loaded_plugins, open_data
from binas.arch.genotype import AnyGenotype
from binas.data.batches import Batches
from binas.engine.loop import EVALUATION_BATCH_SIZE
from binas.engine.loop import evaluate as _evaluate
from binas.engine.loss import LossConfig
from binas.errors import UserError
from binas.models import MODELS, ModelChoice
from binas.profile.cost import Profile
from binas.profile.count import count
from binas.run.device import pick_device

if TYPE_CHECKING:
    from binas.train.binary_check import BinaryCheck


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
        from binas.train.model_file import trained_file

        found = evaluate_checkpoint(trained_file(network), split, where, plugins=loaded_plugins())
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
        str(what) if isinstance(what, str | Path) else what, pair_of(image_size), num_classes, in_channels
    )


def check_binary(network: str | Path | nn.Module, images: Any = None) -> BinaryCheck:
    """Proof of what really enters each binary convolution; `print` shows it as `binas check` does.

    Args:
        network: as of `predict`.
        images: a batch as the network takes it (N, C, H, W), or what `predict` takes where the network has
            its preprocessing; None: random images of the size of a trained network.
    Returns:
        A `BinaryCheck`: `is_binary`, `reports`, `real`.
    """
    from binas.train.binary_check import check_whole

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
