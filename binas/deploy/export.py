"""From a trained network to a `Model`, and what it decides beside the network that it was made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from binas import __version__
from binas.binarize import binary_convolutions
from binas.deploy.capture import capture
from binas.deploy.graph import Array, Graph
from binas.deploy.lower import lower
from binas.deploy.model_file import Model, model_of
from binas.deploy.passes import optimized
from binas.errors import UserError

NEAR = 1e-5
"""Relative distance of a number from its threshold within which rounding may decide."""


def graph_of(module: nn.Module, example: Tensor) -> Graph:
    """The graph of a module, its passes done.

    Args:
        example: (1, C, H, W).
    """
    if example.dim() != 4 or example.shape[0] != 1:
        raise UserError(f"export: example: one image (1, C, H, W) is needed, not {tuple(example.shape)}")
    graph = optimized(lower(capture(module, example), example))
    if len(graph.by_name()[graph.output].shape) != 1:
        raise UserError("export: the module gives no score for each class (N, classes)")
    return graph


def export_module(
    module: nn.Module,
    example: Tensor,
    *,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Model:
    """A module as a model.

    Args:
        example: one image as the network takes it, (1, C, H, W).
        classes: their names; None: numbers.
        mean, std: of the pixels scaled to 0..1, for each channel; None: 0 and 1.
        provenance: where it comes from, JSON.
    Raises:
        UserError: something of it is not known to the back ends, named with its module.
    """
    graph = graph_of(module, example)
    count = graph.by_name()[graph.output].shape[0]
    names = tuple(map(str, range(count))) if classes is None else tuple(map(str, classes))
    if len(names) != count:
        raise UserError(f"export: classes: {len(names)} names for {count} scores")
    channels = example.shape[1]
    means = (0.0,) * channels if mean is None else tuple(map(float, mean))
    deviations = (1.0,) * channels if std is None else tuple(map(float, std))
    own = {"binas": __version__, "torch": torch.__version__, **(provenance or {})}
    return model_of(graph, classes=names, mean=means, std=deviations, provenance=own)


@dataclass(frozen=True)
class Agreement:
    """A model beside the network that it was made of.

    Args:
        images: that both were given.
        same_class: of them.
        largest: difference of a score, relative to the largest score of its image.
    """

    images: int
    same_class: int
    largest: float

    def __str__(self) -> str:
        return (
            f"{self.same_class} of {self.images} images are given the same class as by the network;"
            f" scores differ by {self.largest:.1e} of the largest at most"
        )


def compare(run: Any, module: nn.Module, images: Tensor) -> Agreement:
    """What a model gives beside the module's own scores.

    Args:
        run: (H, W, C) -> scores, `Loaded.scores` say.
        images: (N, C, H, W), prepared.
    """
    was_training = module.training
    module.eval()
    same, largest = 0, 0.0
    with torch.no_grad():
        for image in images.cpu().float():
            theirs: Array = module(image[None])[0].float().numpy()
            ours: Array = run(image.permute(1, 2, 0).numpy())
            same += int(ours.argmax() == theirs.argmax())
            scale = float(np.abs(theirs).max()) or 1.0
            largest = max(largest, float(np.abs(ours - theirs).max()) / scale)
    module.train(was_training)
    return Agreement(len(images), same, largest)


def real_layers(module: nn.Module, graph: Graph) -> list[str]:
    """Convolutions and linear layers that stay real-valued, with what they hold."""
    binary = {name for name, conv in binary_convolutions(module) if conv.binarize_weights}
    return [
        f"{node.source or node.op}: {node.tensors['weight'].size:,} weights"
        for node in graph.nodes
        if node.op in ("convolution", "linear") and node.source not in binary
    ]
