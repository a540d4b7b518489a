"""The slow, obvious supernet: one plain module per operation per edge, each with its own batch-norm.

Nothing is shared; what is not needed (zeroise, gradients of frozen weights) is not computed.
`oracle_from` copies a `binas` supernet;
`alpha_step` and `weight_step` give the loss and the gradients of the two halves of a bilevel step.
Paper: Kim et al., BNAS, arXiv:2002.06963 (cell, diversity term); Liu et al., DARTS, arXiv:1806.09055.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binas.arch.space import SearchSpace
from binas.arch.supernet import Supernet
from oracles.binary_layers import BatchNorm, BinaryConv, Conv, Layer, PReLU, State, pad_to_even, relu

KINDS = ("normal", "reduce")


class ConvOp(nn.Module):
    """Batch-norm, binary convolution, shuffle of channels, activation."""

    def __init__(
        self,
        state: State,
        prefix: str,
        norm: str,
        space: SearchSpace,
        stride: int,
        dilation: int,
        groups: int,
    ) -> None:
        super().__init__()
        self.norm = BatchNorm(state, norm)
        self.conv = BinaryConv(state, f"{prefix}.conv", space.binarization, stride, dilation, groups)
        self.shuffles, self.groups = space.grouping.shuffle and groups > 1, groups
        self.activation = space.activation
        self.prelu = PReLU(state, f"{prefix}.activation") if space.activation == "prelu" else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.norm(x))
        if self.shuffles:
            each = y.shape[1] // self.groups
            order = [group * each + place for place in range(each) for group in range(self.groups)]
            y = y[:, order]
        if self.prelu is not None:
            return self.prelu(y)
        return relu(y) if self.activation == "relu" else y


class SeparableOp(nn.Sequential):
    """Depthwise and pointwise, twice."""

    def __init__(
        self, state: State, prefix: str, norm: str, space: SearchSpace, stride: int, channels: int
    ) -> None:
        def part(name: str, own: str, step: int, groups: int) -> ConvOp:
            return ConvOp(state, f"{prefix}.{name}", own, space, step, 1, groups)

        super().__init__(
            part("depthwise", norm, stride, channels),
            part("pointwise", f"{prefix}.pointwise.norm", 1, 1),
            part("second_depthwise", f"{prefix}.second_depthwise.norm", 1, channels),
            part("second_pointwise", f"{prefix}.second_pointwise.norm", 1, 1),
        )


class PoolOp(nn.Module):
    """3×3 maximum or mean, and a batch-norm where the original has one."""

    def __init__(self, state: State, prefix: str, kind: str, stride: int) -> None:
        super().__init__()
        self.kind, self.stride = kind, stride
        has_norm = f"{prefix}.norm.running_mean" in state
        self.norm = BatchNorm(state, f"{prefix}.norm") if has_norm else None

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "max":
            y = F.max_pool2d(x, 3, self.stride, padding=1)
        else:
            y = F.avg_pool2d(x, 3, self.stride, padding=1, count_include_pad=False)
        return y if self.norm is None else self.norm(y)


class SkipOp(nn.Module):
    """The input; strided: one 1×1 convolution on even pixels, one on odd pixels, concatenated."""

    def __init__(self, state: State, prefix: str, norm: str, space: SearchSpace, stride: int) -> None:
        super().__init__()
        self.stride = stride
        if stride == 2:
            self.norm = BatchNorm(state, norm)
            self.first = BinaryConv(state, f"{prefix}.first", space.binarization)
            self.second = BinaryConv(state, f"{prefix}.second", space.binarization)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            return x
        x = pad_to_even(self.norm(x))
        return torch.cat([self.first(x[:, :, 0::2, 0::2]), self.second(x[:, :, 1::2, 1::2])], dim=1)


class ZeroiseOp(nn.Module):
    """No connection; cells leave it out."""


def operation(
    state: State, prefix: str, shared_norm: str, name: str, space: SearchSpace, channels: int, stride: int
) -> nn.Module:
    """The plain module of an operation; `shared_norm` is where a cell keeps the batch-norm of its node."""
    own = [f"{prefix}.norm", f"{prefix}.depthwise.norm"]
    norm = next((at for at in own if f"{at}.running_mean" in state), shared_norm)
    if name == "zeroise":
        return ZeroiseOp()
    if name == "skip":
        return SkipOp(state, prefix, norm, space, stride)
    if name.endswith("_pool_3x3"):
        return PoolOp(state, prefix, name[:3], stride)
    if name.startswith("binary_separable_conv"):
        return SeparableOp(state, prefix, norm, space, stride, channels)
    dilation = 2 if "dilated" in name else 1
    groups = 1
    if "group" in name:
        groups = space.grouping.groups or channels // space.grouping.channels_per_group
    return ConvOp(state, prefix, norm, space, stride, dilation, groups)


class Preprocess(nn.Module):
    """Batch-norm, convolution of either precision, ReLU."""

    def __init__(self, state: State, prefix: str, space: SearchSpace, precision: str, stride: int) -> None:
        super().__init__()
        self.norm = BatchNorm(state, f"{prefix}.0")
        self.conv = (
            BinaryConv(state, f"{prefix}.1", space.binarization, stride)
            if precision == "binary"
            else Conv(state, f"{prefix}.1", stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.conv(self.norm(x)))


class InterCellSkip(nn.Module):
    """The previous cell's output in the shape of this cell's output."""

    def __init__(self, state: State, prefix: str, space: SearchSpace, reduces: bool, channels: int) -> None:
        super().__init__()
        self.kind, self.channels = space.reduction_skip if reduces else "identity", channels
        if self.kind in ("real", "binary"):
            self.norm = BatchNorm(state, f"{prefix}.norm")
            self.conv = (
                Conv(state, f"{prefix}.reduce", 2)
                if self.kind == "real"
                else BinaryConv(state, f"{prefix}.reduce", space.binarization, 2)
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "identity":
            return x
        if self.kind == "avg_pool":
            x = pad_to_even(x)
            mean = (x[:, :, 0::2, 0::2] + x[:, :, 0::2, 1::2] + x[:, :, 1::2, 0::2] + x[:, :, 1::2, 1::2]) / 4
            return torch.stack([mean[:, c % mean.shape[1]] for c in range(self.channels)], dim=1)
        return self.conv(pad_to_even(self.norm(x)))


class OracleCell(nn.Module):
    """Node by node, edge by edge, operation by operation."""

    def __init__(
        self, supernet: Supernet, state: State, index: int, kind: str, place: dict[str, int]
    ) -> None:
        super().__init__()
        space, settings = supernet.space, supernet.settings
        self.kind, self.num_nodes, self.channels = kind, space.num_nodes, place["channels"]
        self.stride = 2 if kind == "reduce" else 1
        prefix = f"cells.{index}"
        self.inputs = nn.ModuleList(
            Preprocess(state, f"{prefix}.preprocess.{source}", space, settings.preprocess, stride)
            if f"{prefix}.preprocess.{source}.1.weight" in state
            else nn.Identity()
            for source, stride in ((0, place["first_stride"]), (1, 1))
        )
        self.edges = nn.ModuleList()
        self.columns: list[tuple[int, int, list[int]]] = []
        candidates = iter(supernet.candidates[kind])
        for node in range(2, 2 + space.num_nodes):
            for source in range(node):
                names = next(candidates)
                self.columns.append((node, source, [space.operations.index(name) for name in names]))
                self.edges.append(
                    nn.ModuleList(
                        operation(
                            state,
                            f"{prefix}.edges.edge_{node}_{source}.{name}",
                            f"{prefix}.norms.{source}",
                            name,
                            space,
                            self.channels,
                            self.stride if source < 2 else 1,
                        )
                        for name in names
                    )
                )
        self.skip: nn.Module | None = None
        if space.inter_cell_skip and index > 0:
            self.skip = InterCellSkip(
                state, f"{prefix}.skip", space, kind == "reduce", space.num_nodes * self.channels
            )

    def forward(self, before: Tensor, previous: Tensor, weights: Tensor) -> Tensor:
        states = [self.inputs[0](before), self.inputs[1](previous)]
        for node in range(2, 2 + self.num_nodes):
            total: Tensor | float = 0.0
            for row, (target, source, columns) in enumerate(self.columns):
                if target == node:
                    for column, module in zip(columns, self.edges[row], strict=True):
                        if not isinstance(module, ZeroiseOp):
                            total = total + weights[row, column] * module(states[source])
            states.append(total)
        output = torch.cat(states[2:], dim=1)
        return output if self.skip is None else output + self.skip(previous)


class OracleSupernet(nn.Module):
    """Stem, cells, head; built by `oracle_from`."""

    def __init__(self, supernet: Supernet) -> None:
        super().__init__()
        state = {name: value.detach() for name, value in supernet.state_dict().items()}
        space, settings = supernet.space, supernet.settings
        self.stem_norm, self.stem = BatchNorm(state, "stem.0"), Conv(state, "stem.1")
        reductions = settings.reductions
        if reductions is None:
            reductions = (settings.num_cells // 3, 2 * settings.num_cells // 3)
        self.cells = nn.ModuleList()
        channels, first_stride = settings.init_channels, 1
        for index in range(settings.num_cells):
            kind = "reduce" if index in reductions else "normal"
            channels = 2 * channels if kind == "reduce" else channels
            place = {"channels": channels, "first_stride": first_stride}
            self.cells.append(OracleCell(supernet, state, index, kind, place))
            first_stride = 2 if kind == "reduce" else 1
        self.classifier = Layer(state, "classifier", ("weight", "bias"))
        self.num_nodes = space.num_nodes

    def forward(self, x: Tensor, edge_weights: Mapping[str, Tensor]) -> Tensor:
        before = previous = relu(self.stem(self.stem_norm(x)))
        for cell in self.cells:
            before, previous = previous, cell(before, previous, edge_weights[cell.kind])
        return previous.mean(dim=(2, 3)) @ self.classifier.weight.T + self.classifier.bias


def oracle_from(supernet: Supernet) -> OracleSupernet:
    """An oracle with copies of a supernet's weights and running statistics, all nodes live."""
    oracle = OracleSupernet(supernet)
    oracle.train(supernet.training)
    return oracle


def set_oracle_precision(oracle: OracleSupernet, binarize_activations: bool, binarize_weights: bool) -> None:
    """Which of activations and weights are binary."""
    for module in oracle.modules():
        if isinstance(module, BinaryConv):
            module.binarize_activations, module.binarize_weights = binarize_activations, binarize_weights


def probabilities(alpha: Tensor, temperature: float, columns: list[list[int]] | None = None) -> Tensor:
    """softmax(alpha / T) row by row, over the named columns only where some are gone. (E, O) -> (E, O)."""
    rows = []
    for number, row in enumerate(alpha):
        left = list(range(len(row))) if columns is None else columns[number]
        exponentials = {column: torch.exp(row[column] / temperature) for column in left}
        total = sum(exponentials.values())
        zero = torch.zeros_like(row[0])
        rows.append(torch.stack([exponentials[c] / total if c in left else zero for c in range(len(row))]))
    return torch.stack(rows)


def entropy_of_rows(weights: Mapping[str, Tensor]) -> Tensor:
    """The mean over the edges of both kinds of −Σ p log p in nats."""
    rows = [row[row > 0] for kind in KINDS for row in weights[kind]]
    return sum(-(row * row.log()).sum() for row in rows) / len(rows)


def alpha_step(
    oracle: OracleSupernet,
    alphas: Mapping[str, Tensor],
    x: Tensor,
    y: Tensor,
    temperatures: Mapping[str, float],
    diversity: float = 0.0,
    epoch: float = 0.0,
    tau: float = 7.7,
    updates_batch_norm: bool = False,
) -> tuple[float, dict[str, Tensor]]:
    """Loss CE − λ·H̄·exp(−epoch/τ) and its gradient by the alphas, with every weight frozen.

    Batch statistics normalise; running statistics stay as they are unless told otherwise.
    """
    was_training = oracle.training
    oracle.train().requires_grad_(False)
    for norm in _norms(oracle):
        norm.tracks = updates_batch_norm
    leaves = {kind: alphas[kind].detach().clone().requires_grad_() for kind in KINDS}
    weights = {
        kind: probabilities(leaves[kind], temperatures[kind], _columns(oracle, kind)) for kind in KINDS
    }
    loss = F.cross_entropy(oracle(x, weights), y)
    loss = loss - diversity * entropy_of_rows(weights) * math.exp(-epoch / tau)
    gradients = torch.autograd.grad(loss, [leaves[kind] for kind in KINDS], allow_unused=True)
    oracle.train(was_training).requires_grad_(True)
    for norm in _norms(oracle):
        norm.tracks = True
    return loss.item(), {
        kind: torch.zeros_like(leaves[kind]) if gradient is None else gradient
        for kind, gradient in zip(KINDS, gradients, strict=True)
    }


def weight_step(
    oracle: OracleSupernet,
    alphas: Mapping[str, Tensor],
    x: Tensor,
    y: Tensor,
    temperatures: Mapping[str, float],
) -> tuple[float, dict[str, Tensor]]:
    """Cross-entropy and its gradient by every weight, under the supernet's names; alphas are constants.

    Running statistics follow the batch.
    """
    oracle.train().zero_grad()
    weights = {
        kind: probabilities(alphas[kind].detach(), temperatures[kind], _columns(oracle, kind))
        for kind in KINDS
    }
    loss = F.cross_entropy(oracle(x, weights), y)
    loss.backward()
    return loss.item(), {
        f"{module.origin}.{name}": torch.zeros_like(parameter)
        if parameter.grad is None
        else parameter.grad.clone()
        for module in oracle.modules()
        if isinstance(module, Layer)
        for name, parameter in module.named_parameters(recurse=False)
    }


def running_statistics(oracle: OracleSupernet) -> dict[str, list[Tensor]]:
    """The running mean and variance of every batch-norm by the supernet's name, one for each copy."""
    found: dict[str, list[Tensor]] = {}
    for norm in _norms(oracle):
        found.setdefault(f"{norm.origin}.running_mean", []).append(norm.running_mean)
        found.setdefault(f"{norm.origin}.running_var", []).append(norm.running_var)
    return found


def _norms(oracle: OracleSupernet) -> list[BatchNorm]:
    return [module for module in oracle.modules() if isinstance(module, BatchNorm)]


def _columns(oracle: OracleSupernet, kind: str) -> list[list[int]] | None:
    cell = next((cell for cell in oracle.cells if cell.kind == kind), None)
    return None if cell is None else [columns for _, _, columns in cell.columns]
