"""A genotype's network against the slow, obvious one: loss, gradients and running statistics."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import network as oracles
from oracles.binary_layers import BatchNorm, BinaryConv
from spaces import spaces_of
from torch import Tensor
from torch.nn import functional as F

from binas.arch.discretize import genotype_of
from binas.arch.genotype import Edge, Genotype, read_genotype
from binas.arch.network import Network
from binas.arch.sample import random_genotype
from binas.arch.space import load_space
from binas.config import find_file
from binas.ops import OPS

SIZE = {"init_channels": 4, "num_cells": 4, "reductions": [1, 2], "stem_multiplier": 2}
AUXILIARY_WEIGHT = 0.4


@pytest.fixture
def float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def published(name: str, **network: Any) -> Genotype:
    """A published cell in a small network of its own space."""
    genotype = read_genotype(Path(find_file(name, "genotypes")), OPS)
    space = dict(genotype.space)
    space["network"] = {**space["network"], **SIZE, **network}
    return genotype.model_copy(update={"space": space})


def sampled(base: str, seed: int, nodes: int = 3, **changes: Any) -> Genotype:
    """A random cell of a shipped space."""
    given: dict[str, Any] = {"base": base, "supernet": SIZE, "network": SIZE, "num_nodes": nodes}
    if base == "bats":  # its 12 groups do not divide these few channels
        given["grouping"] = {"groups": 2}
    space = load_space({"base": given, **changes})
    return random_genotype(space, random.Random(seed))


def with_edges(*edges: tuple[int, int, str], **changes: Any) -> Genotype:
    """A given cell, normal and reduce alike, in the BNAS space with two nodes."""
    space = load_space({"base": {"base": "bnas", "network": SIZE, "num_nodes": 2}, **changes})
    cell = tuple(Edge(*edge) for edge in edges)
    return genotype_of({"normal": cell, "reduce": cell}, space)


def perturbed(genotype: Genotype, seed: int, **arguments: Any) -> Network:
    """A network whose batch-norms are away from their initial values."""
    torch.manual_seed(seed)
    network = Network(genotype, 2, 5, **arguments).train()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in network.named_buffers():
            if name.endswith("running_var"):
                buffer.mul_(1 + torch.rand_like(buffer))
            elif name.endswith("running_mean"):
                buffer.add_(torch.randn_like(buffer))
    return network


def separated(genotype: Genotype, size: tuple[int, int], **arguments: Any):
    """The first problem in which no input of a sign lies within rounding error of zero.

    Sums of ±1 often equal their own batch mean; then two right orders of summation give other signs.
    A channel that is zero everywhere is exact in any order.
    """
    for seed in range(60):
        network = perturbed(genotype, seed, **arguments)
        x, y = torch.randn(6, 2, *size), torch.randint(5, (6,))
        oracle = oracles.oracle_from(network)
        margins: list[float] = []

        def watch(
            module: BatchNorm, given: tuple[Tensor], output: Tensor, margins: list[float] = margins
        ) -> None:
            channels = given[0].abs().amax(dim=(0, 2, 3)) > 0
            margins += [output[:, channels].abs().min().item()] if channels.any() else []

        names = dict(network.named_modules())
        for module in oracle.modules():
            reader = getattr(module, "conv", getattr(module, "first", None))
            if isinstance(reader, BinaryConv) and reader.origin in names:
                module.norm.register_forward_hook(watch)
        with torch.no_grad():
            oracle(x)
        if min(margins) > 1e-9:
            return network, oracles.oracle_from(network), x, y
    raise AssertionError("no seed keeps the inputs of sign away from zero")


def step(network: Network, x: Tensor, y: Tensor) -> Tensor:
    """The loss of our network, with its gradients left behind."""
    network.zero_grad()
    output = network(x)
    logits, extra = output if isinstance(output, tuple) else (output, None)
    loss = F.cross_entropy(logits, y)
    if extra is not None:
        loss = loss + AUXILIARY_WEIGHT * F.cross_entropy(extra, y)
    loss.backward()
    return loss.detach()


def assert_near(actual: Tensor, expected: Tensor, name: str, tolerance: float = 1e-9) -> None:
    # 1e-9 of the tensor's size: float64 sums in another order, through about twenty layers
    scale = max(expected.abs().max().item(), 1e-6)
    error = (actual - expected).abs().max().item() / scale
    assert error <= tolerance, f"{name}: relative error {error:.2e}"


def assert_same_step(genotype: Genotype, size: tuple[int, int] = (8, 8), **arguments: Any) -> None:
    network, oracle, x, y = separated(genotype, size, **arguments)
    expected, gradients = oracles.train_step(oracle, x, y, AUXILIARY_WEIGHT)
    assert_near(step(network, x, y), torch.tensor(expected), "loss")
    parameters = dict(network.named_parameters())
    assert set(parameters) <= set(gradients)  # the oracle also has what nothing reads
    for name, parameter in parameters.items():
        assert_near(parameter.grad, gradients[name], name)
    statistics = oracles.running_statistics(oracle)
    for name, buffer in network.named_buffers():
        if "running" in name:
            for copy in statistics[name]:
                assert_near(buffer, copy, name)
    network.eval(), oracle.eval()
    with torch.no_grad():
        assert_near(network(x), oracle(x)[0], "logits in evaluation")


PUBLISHED = ["bnas_latest_cell", "bnas_latest_cell_zeroise"]


@pytest.mark.parametrize("size", [(8, 8), (7, 9)], ids=str)
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_cells(name: str, size: tuple[int, int], float64: None) -> None:
    assert_same_step(published(name), size)


def test_published_cell_with_the_auxiliary_head(float64: None) -> None:
    assert_same_step(published(PUBLISHED[0]), auxiliary=True)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("space", spaces_of("cell"))
def test_shipped_spaces(space: str, seed: int, float64: None) -> None:
    # depthwise sums have so few terms that with ReLU they meet their mean exactly for every seed
    changes = {"activation": "prelu"} if space == "darts_binary" else {}
    assert_same_step(sampled(space, seed, **changes))


CHANGES = {
    "own norms, real preprocessing": {"network": {"preprocess": "real", "batch_norm_affine": True}},
    "shared norms, norms after pools": {
        "network": {"batch_norm_affine": False, "batch_norm_after_pool": True}
    },
    "binary reduction skip": {"reduction_skip": "binary"},
    "average reduction skip": {"reduction_skip": "avg_pool"},
    "no inter-cell skip": {"inter_cell_skip": False},
    "no activation": {"activation": "none"},
    "prelu": {"activation": "prelu"},
    "approx_sign, -1 around": {
        "binarization": {"activation": {"name": "approx_sign"}, "weight": {"name": "xnor"}, "pad_value": -1}
    },
    "no window": {"binarization": {"activation": {"name": "sign", "window": None}}},
}
CONV, WIDE, POOL, ZERO = "binary_conv_3x3", "binary_dilated_conv_3x3", "max_pool_3x3", "zeroise"
CELLS = {
    "one source, two kinds, three readers": ((2, 0, CONV), (2, 1, WIDE), (3, 0, CONV), (3, 1, POOL)),
    "a dead node feeds a live one": ((2, 0, ZERO), (2, 1, ZERO), (3, 1, CONV), (3, 2, CONV)),
    "input 0 is not read": ((2, 0, ZERO), (2, 1, POOL), (3, 1, CONV), (3, 2, CONV)),
    "the last node is dead": ((2, 0, CONV), (2, 1, ZERO), (3, 0, ZERO), (3, 1, ZERO)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_settings_of_a_space(change: str, float64: None) -> None:
    assert_same_step(with_edges(*CELLS["one source, two kinds, three readers"], **CHANGES[change]))


@pytest.mark.parametrize("cell", CELLS)
def test_odd_cells(cell: str, float64: None) -> None:
    assert_same_step(with_edges(*CELLS[cell]), (7, 9))
