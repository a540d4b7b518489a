"""The one Cell, for supernet and network alike; they differ in what sits on its edges.

Legend: N batch, C channels, H×W pixels; node 0 and 1 are the inputs; an edge goes from `source` to `node`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binas.arch import fast_network, fast_supernet
from binas.arch.cell_plan import (
    CellPlan,
    EdgeChoices,
    EdgeOperations,
    Operations,
    chosen_context,
    edge_row,
)
from binas.arch.drop_path import drop_path
from binas.arch.fast_network import join, rectified
from binas.binarize import BinaryConv2d, choose_estimator
from binas.kernels.batch_norm.plain import PlainBatchNorm2d
from binas.kernels.layouts.images_last import images_first, is_last
from binas.ops import OpContext, build_op
from binas.ops.parameter_free import padded_to_even

ConvPrecision = Literal["real", "binary"]


def convolution(
    precision: ConvPrecision,
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int,
    context: OpContext,
    setting: str,
    bias: bool = False,
) -> nn.Module:
    """A convolution of either precision, padded so that its output has ceil(H/stride) rows.

    An even kernel is not padded here: its input comes padded to even size. `setting` names the key of
    the space that chose the precision.
    """
    padding = kernel_size // 2 if kernel_size % 2 else 0
    if precision == "binary":
        return BinaryConv2d(
            in_channels, out_channels, kernel_size, stride, padding, binarizations=context.binarizations
        )
    real = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
    real.why_real = f"the search space says {setting}: real"  # type: ignore[assignment]
    return real


class Preprocess(nn.Sequential):
    """Batch-norm, convolution, ReLU: brings an input of a cell to the cell's width and size.

    1×1, or 3×3 with stride 2 where the input is twice as large as the other one.

    Shape: (N, C_in, H, W) -> (N, C, ceil(H/stride), ceil(W/stride)).
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, precision: ConvPrecision, context: OpContext
    ) -> None:
        affine = context.batch_norm_affine and stride == 1
        size = 3 if stride == 2 else 1
        super().__init__(
            nn.BatchNorm2d(in_channels, affine=affine),
            convolution(precision, in_channels, out_channels, size, stride, context, "preprocess"),
            nn.ReLU(),
        )

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        norm, conv, activation = self
        fused = rectified(norm, conv, activation, input)
        if fused is not None:
            return fused
        y: Tensor = activation(conv(norm(images_first(input))))
        return y


class ReductionSkip(nn.Module):
    """The inter-cell skip of a reduction cell: halves the size and brings the channels along.

    real, binary: batch-norm, 2×2 stride-2 convolution (the real one with bias);
    avg_pool: 2×2 average pool, channels repeated.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H/2), ceil(W/2)); odd sizes are padded by one.
    Reference: Kim et al., BNAS, arXiv:2002.06963, sec. 4.2; its released code (`preprocess_res`).
    """

    def __init__(self, in_channels: int, out_channels: int, kind: str, context: OpContext) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.norm: nn.Module = nn.Identity()
        self.reduce: nn.Module = nn.AvgPool2d(2)
        if kind != "avg_pool":
            precision: ConvPrecision = "real" if kind == "real" else "binary"
            self.norm = nn.BatchNorm2d(in_channels, affine=context.batch_norm_affine)
            self.reduce = convolution(
                precision, in_channels, out_channels, 2, 2, context, "reduction_skip", bias=True
            )

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.reduce(padded_to_even(self.norm(x)))
        return with_channels(y, self.out_channels)


class FittedSkip(nn.Module):
    """The inter-cell skip between normal cells of different widths: channels repeated, or the first ones.

    Shape: (N, C_in, H, W) -> (N, C_out, H, W).
    """

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return with_channels(x, self.out_channels)


def with_channels(x: Tensor, channels: int) -> Tensor:
    """x with its channels repeated as often as needed, cut to so many. Shape: (N, C, H, W)."""
    if x.shape[1] == channels:
        return x
    return x.repeat(1, -(-channels // x.shape[1]), 1, 1)[:, :channels]


class Cell(nn.Module):
    """Two inputs, intermediate nodes that sum what arrives on their edges, and their concatenation.

    An operation whose module declares `takes_normalized_input` reads its node through a batch-norm
    without affine parameters; as that is the same for all of them, it belongs to the cell. A node
    without any operation stands as zeros. Inputs that no edge reads have no preprocessing.

    Args:
        plan: the cell's place in the network.
        num_nodes: intermediate nodes.
        edges: the operations on each edge; zeroise is not among them.
        columns: index of each operation's weight in `edge_weights`.
        precision: of the preprocessing of inputs.
        skip: kind of the inter-cell skip in reduction cells, or None for no inter-cell skip.
        context: what operations are told.
        choices: edges whose operations have an activation or an estimator of their own.
    Shape: (N, C_0, H_0, W_0), (N, C_1, H, W) -> (N, num_nodes·C, ceil(H/stride), ceil(W/stride)).
    """

    def __init__(
        self,
        plan: CellPlan,
        num_nodes: int,
        edges: EdgeOperations,
        columns: dict[str, int],
        precision: ConvPrecision,
        skip: str | None,
        context: OpContext,
        choices: EdgeChoices | None = None,
    ) -> None:
        super().__init__()
        self.plan, self.num_nodes, self.columns = plan, num_nodes, columns
        strides = (plan.first_input_stride, 1)
        self.preprocess = nn.ModuleDict(
            {
                str(source): Preprocess(
                    plan.input_channels[source], plan.channels, strides[source], precision, context
                )
                for source in (0, 1)
                if any(edge[1] == source and names for edge, names in edges.items())
            }
        )
        self.edges = nn.ModuleDict()
        self.norms = nn.ModuleDict()
        for (node, source), names in edges.items():
            stride = plan.stride if source < 2 else 1
            choice = (choices or {}).get((node, source))
            told = chosen_context(context, choice)
            modules = nn.ModuleDict({name: build_op(name, plan.channels, stride, told) for name in names})
            if choice is not None and choice.estimator is not None:
                choose_estimator(modules, choice.estimator)
            self.edges[edge_key(node, source)] = modules
            if context.normalized_input and any(map(_takes_normalized_input, modules.values())):
                self.norms[str(source)] = PlainBatchNorm2d(plan.channels)
        self.skip: nn.Module | None = None
        if skip is not None and plan.index > 0:
            channels = num_nodes * plan.channels
            if plan.kind == "reduce":
                self.skip = ReductionSkip(plan.input_channels[1], channels, skip, context)
            else:
                is_same = plan.input_channels[1] == channels
                self.skip = nn.Identity() if is_same else FittedSkip(channels)

    def forward(
        self,
        before: Tensor,
        previous: Tensor,
        edge_weights: Tensor | None = None,
        drop_rate: float = 0.0,
        path: Sequence[int] | None = None,
    ) -> Tensor:
        """The cell's output.

        Args:
            before, previous: outputs of the cell before the previous one, and of the previous one.
            edge_weights: (E, O) weight of every operation on every edge, or None for 1 everywhere.
            drop_rate: probability with which the output of an operation is dropped for an image.
            path: for each edge the column of the only operation that is run; None runs all.
        """
        operations, norms = self._operations(path), {int(at): norm for at, norm in self.norms.items()}
        read = {str(source) for source in (0, 1)}
        if path is not None and edge_weights is None:  # a genotype's path: what nothing reads is not computed
            read = {str(source) for (_, source), modules in operations.items() if modules}
        states: list[Tensor | None] = [
            self.preprocess[str(source)](x)
            if str(source) in self.preprocess and str(source) in read
            else None
            for source, x in enumerate((before, previous))
        ]
        rate = drop_rate if self.training else 0.0
        if edge_weights is None:
            nodes = fast_network.nodes(operations, norms, states, self.num_nodes, rate)
        else:
            nodes = fast_supernet.nodes(operations, norms, states, self.num_nodes, edge_weights, self.columns)
        if nodes is None:
            nodes = self._nodes(operations, states, edge_weights, rate)
        return self._output(nodes, previous)

    def _nodes(
        self,
        operations: Operations,
        inputs: Sequence[Tensor | None],
        edge_weights: Tensor | None,
        drop_rate: float,
    ) -> list[Tensor | None]:
        """x_j = Σ_{i<j} Σ_op w_ij,op · op(x_i) for each node j; w = 1 in a network; None: nothing arrives."""
        states = [None if x is None else images_first(x) for x in inputs]
        normalized: dict[int, Tensor] = {}
        for node in range(2, 2 + self.num_nodes):
            total: Tensor | None = None
            for source, x in enumerate(states):
                if x is None:
                    continue
                edge: Tensor | None = None
                for name, operation in operations.get((node, source), {}).items():
                    y = operation(self._read(operation, source, x, normalized))
                    if edge_weights is not None:
                        y = y * edge_weights[edge_row(node, source), self.columns[name]]
                    if drop_rate > 0 and not isinstance(operation, nn.Identity):
                        y = drop_path(y, drop_rate)
                    edge = y if edge is None else edge + y
                if edge is not None:
                    total = edge if total is None else total + edge
            states.append(total)
        return states[2:]

    def _read(self, operation: nn.Module, source: int, x: Tensor, normalized: dict[int, Tensor]) -> Tensor:
        """What an operation reads of a node: x, or x through the batch-norm that operations share."""
        if str(source) not in self.norms or not _takes_normalized_input(operation):
            return x
        if source not in normalized:  # once, or running statistics would move once for each operation
            normalized[source] = self.norms[str(source)](x)
        return normalized[source]

    def _operations(self, path: Sequence[int] | None) -> Operations:
        """The operations that run on each edge: all, or those that a path names."""
        found: dict[tuple[int, int], dict[str, nn.Module]] = {}
        for key, edge in self.edges.items():
            end = edge_ends(key)
            only = None if path is None else path[edge_row(*end)]
            found[end] = {
                name: module
                for name, module in edge.items()  # type: ignore[operator]
                if only is None or self.columns[name] == only
            }
        return found

    def _output(self, nodes: list[Tensor | None], previous: Tensor) -> Tensor:
        if any(node is not None and is_last(node) for node in nodes):
            whole = isinstance(self.skip, nn.Identity)
            skip = None if self.skip is None else self.skip(previous if whole else images_first(previous))
            return join(nodes, self.plan.channels, skip)
        previous = images_first(previous)
        stride = self.plan.stride
        size = [-(-length // stride) for length in previous.shape[-2:]]
        zeros = previous.new_zeros(previous.shape[0], self.plan.channels, *size)
        output = torch.cat([zeros if node is None else node for node in nodes], dim=1)
        return output if self.skip is None else output + self.skip(previous)


def edge_key(node: int, source: int) -> str:
    """The name of an edge's modules inside a cell."""
    return f"edge_{node}_{source}"


def edge_ends(key: str) -> tuple[int, int]:
    """Node and source of an edge by that name."""
    _, node, source = key.split("_")
    return int(node), int(source)


def _takes_normalized_input(module: nn.Module) -> bool:
    return bool(getattr(module, "takes_normalized_input", False))


def global_average(x: Tensor) -> Tensor:
    """The mean over all pixels. Shape: (N, C, H, W) -> (N, C)."""
    return F.adaptive_avg_pool2d(x, 1).flatten(1)
