"""From a trained network to a `Model`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from binas import __version__
from binas.binarize import binary_convolutions
from binas.deploy.capture import capture
from binas.deploy.graph import Graph
from binas.deploy.lower import lower
from binas.deploy.model_file import Model, model_of
from binas.deploy.passes import optimized
from binas.errors import UserError


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


def real_layers(module: nn.Module, graph: Graph) -> list[str]:
    """Convolutions and linear layers that stay real-valued, with what they hold."""
    binary = {name for name, conv in binary_convolutions(module) if conv.binarize_weights}
    return [
        f"{node.source or node.op}: {node.tensors['weight'].size:,} weights"
        for node in graph.nodes
        if node.op in ("convolution", "linear") and node.source not in binary
    ]
