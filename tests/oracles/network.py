"""The slow, obvious network of a genotype: one plain module per operation per edge, nothing left out.

As in the released BNAS code: a zeroised edge multiplies its node by zero, an input of a cell is
preprocessed whether or not an edge reads it, dead nodes are summed up and concatenated like others, and
every operation normalises and binarizes by itself. `oracle_from` copies a `binas` network; `train_step`
gives the loss and the gradients of one step of retraining.
Paper: Kim et al., BNAS, arXiv:2002.06963; Liu et al., DARTS, arXiv:1806.09055 (auxiliary head).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binas.arch.network import Network
from oracles.binary_layers import BatchNorm, BinaryConv, Conv, Layer, State, relu
from oracles.supernet import InterCellSkip, Preprocess, operation


class TimesZero(nn.Module):
    """A zeroised edge, or one that leaves a dead node."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return 0.0 * x[:, :, :: self.stride, :: self.stride]


class NetworkCell(nn.Module):
    """Node by node, edge by edge, the zeroised ones included."""

    def __init__(self, network: Network, state: State, index: int) -> None:
        super().__init__()
        space, plan = network.space, network.plans[index]
        self.num_nodes, self.channels = space.num_nodes, plan.channels
        prefix, stride = f"cells.{index}", 2 if plan.kind == "reduce" else 1
        self.inputs = nn.ModuleList()
        for source, step in ((0, plan.first_input_stride), (1, 1)):
            at = f"{prefix}.preprocess.{source}"
            held = dict(state)
            if f"{at}.1.weight" not in state:
                held |= _made_up(at, plan.input_channels[source], plan.channels, step)
            self.inputs.append(Preprocess(held, at, space, network.settings.preprocess, step))
        self.edges = nn.ModuleList()
        self.ends: list[tuple[int, int]] = []
        live = {
            (edge.node, edge.source)
            for edge in network.genotype.pruned().cell(plan.kind)
            if edge.op != "zeroise"
        }
        for edge in sorted(network.genotype.cell(plan.kind)):
            step = stride if edge.source < 2 else 1
            at = f"{prefix}.edges.edge_{edge.node}_{edge.source}.{edge.op}"
            shared = f"{prefix}.norms.{edge.source}"
            self.ends.append((edge.node, edge.source))
            self.edges.append(
                operation(state, at, shared, edge.op, space, plan.channels, step)
                if (edge.node, edge.source) in live
                else TimesZero(step)
            )
        self.skip: nn.Module | None = None
        if space.inter_cell_skip and index > 0:
            width = space.num_nodes * plan.channels
            self.skip = InterCellSkip(state, f"{prefix}.skip", space, plan.kind == "reduce", width)

    def forward(self, before: Tensor, previous: Tensor) -> Tensor:
        states = [self.inputs[0](before), self.inputs[1](previous)]
        for node in range(2, 2 + self.num_nodes):
            arriving = [
                module(states[source])
                for (target, source), module in zip(self.ends, self.edges, strict=True)
                if target == node
            ]
            total = arriving[0]
            for y in arriving[1:]:
                total = total + y
            states.append(total)
        output = torch.cat(states[2:], dim=1)
        return output if self.skip is None else output + self.skip(previous)


class Auxiliary(nn.Module):
    """The second classifier."""

    def __init__(self, state: State) -> None:
        super().__init__()
        at = "auxiliary.features"
        self.first, self.first_norm = Conv(state, f"{at}.2"), BatchNorm(state, f"{at}.3")
        self.second, self.second_norm = Conv(state, f"{at}.5"), BatchNorm(state, f"{at}.6")
        self.classifier = Layer(state, "auxiliary.classifier", ("weight", "bias"))

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(relu(x), 2)
        x = relu(self.first_norm(self.first(x)))
        x = relu(self.second_norm(self.second(x)))
        return x.mean(dim=(2, 3)) @ self.classifier.weight.T + self.classifier.bias


class OracleNetwork(nn.Module):
    """Stem, cells, head; built by `oracle_from`."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        state = {name: value.detach() for name, value in network.state_dict().items()}
        self.stem_norm, self.stem = BatchNorm(state, "stem.0"), Conv(state, "stem.1")
        self.cells = nn.ModuleList(NetworkCell(network, state, plan.index) for plan in network.plans)
        self.classifier = Layer(state, "classifier", ("weight", "bias"))
        self.auxiliary = None if network.auxiliary is None else Auxiliary(state)
        self.auxiliary_position = 2 * len(self.cells) // 3

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        before = previous = relu(self.stem(self.stem_norm(x)))
        extra = None
        for index, cell in enumerate(self.cells):
            before, previous = previous, cell(before, previous)
            if self.auxiliary is not None and self.training and index == self.auxiliary_position:
                extra = self.auxiliary(previous)
        return previous.mean(dim=(2, 3)) @ self.classifier.weight.T + self.classifier.bias, extra


def oracle_from(network: Network) -> OracleNetwork:
    """An oracle with copies of a network's weights and running statistics; drop path is not in it."""
    oracle = OracleNetwork(network)
    oracle.train(network.training)
    return oracle


def train_step(
    oracle: OracleNetwork, x: Tensor, y: Tensor, auxiliary_weight: float = 0.0
) -> tuple[float, dict[str, Tensor]]:
    """Cross-entropy and its gradient by every weight that the network has, under its names."""
    oracle.train().zero_grad()
    logits, extra = oracle(x)
    loss = F.cross_entropy(logits, y)
    if extra is not None:
        loss = loss + auxiliary_weight * F.cross_entropy(extra, y)
    loss.backward()
    return loss.item(), {
        f"{module.origin}.{name}": parameter.grad.clone()
        for module in oracle.modules()
        if isinstance(module, Layer)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.grad is not None
    }


def running_statistics(oracle: OracleNetwork) -> dict[str, list[Tensor]]:
    """The running mean and variance of every batch-norm by the network's name, one for each copy."""
    found: dict[str, list[Tensor]] = {}
    for module in oracle.modules():
        if isinstance(module, BatchNorm):
            found.setdefault(f"{module.origin}.running_mean", []).append(module.running_mean)
            found.setdefault(f"{module.origin}.running_var", []).append(module.running_var)
    return found


def binary_convolutions(oracle: OracleNetwork) -> dict[str, BinaryConv]:
    """Every binary convolution by the network's name."""
    return {module.origin: module for module in oracle.modules() if isinstance(module, BinaryConv)}


def _made_up(prefix: str, in_channels: int, out_channels: int, stride: int) -> dict[str, Tensor]:
    """The preprocessing of an input that no edge reads; the network has none."""
    size = 3 if stride == 2 else 1
    generator = torch.Generator().manual_seed(len(prefix))
    shape = (out_channels, in_channels, size, size)
    return {
        f"{prefix}.0.weight": torch.ones(in_channels),
        f"{prefix}.0.bias": torch.zeros(in_channels),
        f"{prefix}.0.running_mean": torch.zeros(in_channels),
        f"{prefix}.0.running_var": torch.ones(in_channels),
        f"{prefix}.1.weight": torch.randn(shape, generator=generator, dtype=torch.float64).to(
            torch.get_default_dtype()
        ),
    }
