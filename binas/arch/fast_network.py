"""The edges of a network's cell: fused where that pays, and run once where edges would repeat it.

Batch-norm, binary convolution and ReLU run as one step (`binas.kernels.sign_conv`), whose tensors have images
innermost; what cannot read these gets them contiguous, once for each node. Modules keep parameters and keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from binas.arch.cell_plan import Operations
from binas.arch.drop_path import drop_path
from binas.arch.fast_supernet import forward_edges
from binas.kernels.layouts.images_last import as_last, images_first, images_last, is_last
from binas.kernels.sign_conv.sign_conv import Moments, can_fuse, moments, sign_conv
from binas.ops.convolutions import BinaryConv
from binas.ops.parameter_free import Pool


def nodes(
    operations: Operations,
    norms: Mapping[int, nn.Module],
    inputs: Sequence[Tensor | None],
    num_nodes: int,
    drop_rate: float,
) -> list[Tensor | None] | None:
    """The nodes of a network's cell; None for float64, in which nothing here is fused.

    Args:
        operations: what is run on each edge.
        norms: the cell's batch-norms by source.
        inputs: of the cell, None where no edge reads them.
        num_nodes: intermediate nodes.
        drop_rate: probability with which the output of an operation is dropped for an image.
    """
    if any(x is not None and x.dtype == torch.float64 for x in inputs):
        return None
    states = list(inputs)
    if any(x is not None and is_last(x) for x in inputs):
        states = [None if x is None else images_last(x) for x in inputs]
    edges = NetworkEdges(operations, norms, states)
    for node in range(2, 2 + num_nodes):
        total: Tensor | None = None
        for source in range(node):
            for module, y in edges.outputs(node, source):
                if drop_rate > 0 and not isinstance(module, nn.Identity):
                    y = drop_path(y, drop_rate)
                total = y if total is None else total + y
        states.append(total)
    return states[2:]


def rectified(
    norm: nn.Module,
    conv: nn.Module,
    activation: nn.Module,
    x: Tensor,
    found: Callable[[], Moments] | None = None,
) -> Tensor | None:
    """activation(conv(norm(x))) as one step, or None where that cannot be; `found` as in `sign_conv`."""
    if type(activation) is not nn.ReLU or _is_watched(activation) or not can_fuse(norm, conv, x):
        return None
    return sign_conv(norm, conv, x, found)  # type: ignore[arg-type]


def _is_watched(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


class NetworkEdges:
    """What the nodes of a cell give to others, in one pass; outputs have the layout of their node.

    Operations whose class has a `forward_edges` run once for all edges that leave a node.

    Args:
        edges: (node, source) -> modules by the name of their operation.
        norms: the cell's batch-norms by source.
        states: nodes so far, which the caller appends to; None stands for zeros.
    """

    def __init__(
        self,
        edges: Operations,
        norms: Mapping[int, nn.Module],
        states: Sequence[Tensor | None],
    ) -> None:
        self.edges, self.norms, self.states = edges, norms, states
        self._first: dict[int, Tensor] = {}
        self._normalized: dict[int, Tensor] = {}
        self._moments: dict[int, Moments] = {}
        self._joint: dict[tuple[int, str], dict[int, Tensor]] = {}

    def outputs(self, node: int, source: int) -> list[tuple[nn.Module, Tensor]]:
        """The operations on an edge and what they give; none where the source is dead."""
        x = self.states[source]
        if x is None:
            return []
        found = self.edges.get((node, source), {})
        return [(module, self._output(node, source, name, module, x)) for name, module in found.items()]

    def _output(self, node: int, source: int, name: str, module: nn.Module, x: Tensor) -> Tensor:
        if isinstance(module, nn.Identity) and not _is_watched(module):
            return x
        if source in self.norms and getattr(module, "takes_normalized_input", False):
            normalized = self._norm_of(source, x)
            y = self._fused(module, normalized, None)
            y = module(images_first(normalized)) if y is None else y
        elif (fused := self._fused(module, x, partial(self._moments_of, source, x))) is not None:
            y = fused
        elif hasattr(type(module), "forward_edges") and not _is_watched(module):
            return self._run_jointly(source, name, type(module), x)[node]
        else:
            y = module(self._contiguous(source, x))
        return laid_out_as(x, y)

    def _fused(self, module: nn.Module, x: Tensor, found: Callable[[], Moments] | None) -> Tensor | None:
        if not isinstance(module, BinaryConv) or module.gating is not None or _is_watched(module):
            return None
        if not isinstance(module.shuffle, nn.Identity):
            return None
        return rectified(module.norm, module.conv, module.activation, x, found)

    def _moments_of(self, source: int, x: Tensor) -> Moments:
        if source not in self._moments:
            self._moments[source] = moments(images_last(x))
        return self._moments[source]

    def _run_jointly(self, source: int, name: str, kind: type, x: Tensor) -> dict[int, Tensor]:
        if (source, name) not in self._joint:
            found = {
                node: modules[name]
                for (node, start), modules in self.edges.items()
                if start == source and name in modules and type(modules[name]) is kind
            }
            reads = x if issubclass(kind, Pool) else self._contiguous(source, x)
            given = forward_edges(list(found.values()), reads)
            each = (
                [laid_out_as(x, given)] * len(found)
                if isinstance(given, Tensor)
                else [laid_out_as(x, y) for y in given]
            )
            self._joint[source, name] = dict(zip(found, each, strict=True))
        return self._joint[source, name]

    def _norm_of(self, source: int, x: Tensor) -> Tensor:
        if source not in self._normalized:
            normalized = self.norms[source](self._contiguous(source, x))
            self._normalized[source] = laid_out_as(x, normalized)
        return self._normalized[source]

    def _contiguous(self, source: int, x: Tensor) -> Tensor:
        if source not in self._first:
            self._first[source] = images_first(x)
        return self._first[source]


def laid_out_as(x: Tensor, y: Tensor) -> Tensor:
    """y, with images last where x has them so, contiguous where x is."""
    if is_last(x):
        return images_last(y)
    return images_first(y) if x.is_contiguous() else y


class _Join(torch.autograd.Function):
    """See `join`."""

    @staticmethod
    def forward(ctx: Any, channels: int, skip: Tensor | None, *nodes: Tensor | None) -> Tensor:
        ctx.channels, ctx.live = channels, [node is not None for node in nodes]
        first = next(x for x in (skip, *nodes) if x is not None)
        if skip is None:
            shape = (*first.shape[2:], channels * len(nodes), first.shape[0])
            output = first.new_zeros(shape).permute(3, 2, 0, 1)
        else:
            output = as_last(skip).clone()
        for position, node in enumerate(nodes):
            if node is not None:
                part = output[:, position * channels : (position + 1) * channels]
                part.copy_(node) if skip is None else part.add_(node)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        gradient = as_last(gradient)
        parts = torch.split(gradient, ctx.channels, dim=1)
        by_nodes = [part if live else None for part, live in zip(parts, ctx.live, strict=True)]
        return None, gradient if ctx.needs_input_grad[1] else None, *by_nodes


def join(nodes: Sequence[Tensor | None], channels: int, skip: Tensor | None) -> Tensor:
    """skip + the concatenation of nodes, of which None stands for zeros and costs nothing; images last.

    Args:
        nodes: (N, C, H, W) each, some not None.
        channels: C.
        skip: (N, nodes·C, H, W) or None.
    """
    return _Join.apply(channels, skip, *nodes)  # type: ignore[no-any-return]
