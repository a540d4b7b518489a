"""A network's fused float32 path against the slow, obvious network: loss, signs, gradients, statistics."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import network as oracles
from oracles import supernet as supernet_oracles
from oracles.flipped_signs import flipped_signs
from torch import Tensor
from torch.nn import functional as F

from binas.arch.alphas import Alphas
from binas.arch.discretize import genotype_of
from binas.arch.genotype import Edge, Genotype, read_genotype
from binas.arch.network import Network
from binas.arch.sample import random_genotype
from binas.arch.space import load_space
from binas.arch.supernet import Supernet, all_candidates
from binas.config import find_file
from binas.kernels.layouts.images_last import is_available, is_last
from binas.kernels.sign_conv import sign_conv
from binas.ops import OPS

SIZE = {"init_channels": 8, "num_cells": 3, "reductions": [1, 2], "stem_multiplier": 2}
AUXILIARY_WEIGHT = 0.4
FLIPPED = 1e-3
"""Share of signs that rounding may decide: sums of ±1 often equal their own mean."""


def published(name: str, **network: Any) -> Genotype:
    genotype = read_genotype(Path(find_file(name, "genotypes")), OPS)
    space = dict(genotype.space)
    space["network"] = {**space["network"], **SIZE, **network}
    return genotype.model_copy(update={"space": space})


def sampled(base: str, **changes: Any) -> Genotype:
    space = load_space({"base": {"base": base, "network": SIZE}, **changes})
    return random_genotype(space, random.Random(3))


def problem(genotype: Genotype, seed: int = 0, **arguments: Any):
    """A network away from its initial batch-norms, its oracle, and a batch of 32."""
    torch.manual_seed(seed)
    network = Network(genotype, 2, 5, **arguments).train()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    oracle = oracles.oracle_from(network)
    return network, oracle, torch.randn(32, 2, 16, 16), torch.randint(5, (32,))


def loss_of(network: Network, x: Tensor, y: Tensor) -> Tensor:
    output = network(x)
    logits, extra = output if isinstance(output, tuple) else (output, None)
    loss = F.cross_entropy(logits, y)
    return loss if extra is None else loss + AUXILIARY_WEIGHT * F.cross_entropy(extra, y)


def both_steps(network: Network, oracle: oracles.OracleNetwork, x: Tensor, y: Tensor):
    """Flipped signs of one step and their number; our loss; loss and gradients of the oracle."""
    results: list[Any] = []
    flips = flipped_signs(
        network,
        oracle,
        lambda: results.append(loss_of(network, x, y)),
        lambda: results.append(oracles.train_step(oracle, x, y, AUXILIARY_WEIGHT)),
    )
    return flips, results


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fuses however little work there is; counts how often."""
    calls: list[int] = []
    pack = sign_conv.pack_signs

    def counted(*arguments: Any) -> Any:
        calls.append(1)
        return pack(*arguments)

    monkeypatch.setattr(sign_conv, "pack_signs", counted)
    monkeypatch.setattr(sign_conv, "SMALLEST_WORK", 0)
    return calls


CASES: dict[str, Any] = {
    "published, dead nodes": (lambda: published("bnas_latest_cell_zeroise"), {}),
    "published, auxiliary head": (lambda: published("bnas_latest_cell"), {"auxiliary": True}),
    "skips, groups, pools": (lambda: sampled("binas"), {}),
    "real preprocessing": (lambda: published("bnas_latest_cell", preprocess="real"), {}),
    "shared norms, norms after pools": (
        lambda: published("bnas_latest_cell", batch_norm_affine=False, batch_norm_after_pool=True),
        {},
    ),
    "no skip between cells": (lambda: sampled("bnas", inter_cell_skip=False), {}),
}


def assert_near(
    actual: Tensor, expected: Tensor, name: str, tolerance: float, smallest: float = 1e-6
) -> None:
    scale = max(expected.abs().max().item(), smallest)
    error = (actual - expected).abs().max().item() / scale
    assert error <= tolerance, f"{name}: relative error {error:.2e}"


@pytest.mark.parametrize("case", CASES)
def test_whole_step(case: str, fused: list[int]) -> None:
    """The loss for every seed; gradients and statistics for the first in which rounding decides no sign."""
    make, arguments = CASES[case]
    for seed in range(8):
        network, oracle, x, y = problem(make(), seed, **arguments)
        (flipped, signs), (loss, (expected, gradients)) = both_steps(network, oracle, x, y)
        assert bool(fused) == is_available()
        assert flipped <= FLIPPED * signs, f"{flipped} of {signs} signs"
        assert abs(loss.item() - expected) <= 1e-3 * expected
        if not flipped:
            break
    else:
        raise AssertionError("a sign is flipped with every seed")
    loss.backward()
    # a bias before a batch-norm has no gradient but rounding errors
    smallest = 1e-2 * max(gradient.abs().max().item() for gradient in gradients.values())
    for name, parameter in network.named_parameters():
        assert_near(parameter.grad, gradients[name], name, 1e-4, smallest)
    statistics = oracles.running_statistics(oracle)
    for name, buffer in network.named_buffers():
        if "running" in name:
            assert_near(buffer, statistics[name][0], name, 1e-5)


@pytest.mark.skipif(not is_available(), reason="numba is not installed")
def test_layout_of_cells_and_evaluation(fused: list[int]) -> None:
    network, oracle, x, _ = problem(published("bnas_latest_cell_zeroise"))
    seen: list[bool] = []
    network.run(x, watch=lambda index, output: seen.append(is_last(output)))
    assert all(seen) and len(seen) == 3
    network.eval(), oracle.eval()
    fused.clear()
    oracle.load_state_dict(oracles.oracle_from(network).state_dict())
    with torch.no_grad():
        assert_near(network(x), oracles.oracle_from(network).eval()(x)[0], "logits in evaluation", 1e-4)
    assert not fused


@pytest.mark.skipif(not is_available(), reason="numba is not installed")
def test_drop_path_drops_whole_images(fused: list[int]) -> None:
    network, _, x, y = problem(published("bnas_latest_cell"))
    network.drop_rate = 0.5
    first = loss_of(network, x, y)
    first.backward()
    gradient = network.stem[1].weight.grad
    assert gradient is not None and gradient.isfinite().all() and gradient.any()
    torch.manual_seed(1)
    one = loss_of(network, x, y)
    torch.manual_seed(1)
    assert torch.equal(one, loss_of(network, x, y)) and not torch.equal(one, first)


@pytest.mark.skipif(not is_available(), reason="numba is not installed")
def test_pool_on_edges_of_one_node_runs_once(fused: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    from binas.ops import parameter_free

    calls: list[int] = []
    pool = parameter_free.pooled_last
    monkeypatch.setattr(parameter_free, "pooled_last", lambda *given: calls.append(1) or pool(*given))
    space = load_space({"base": {"base": "bnas", "network": SIZE, "num_nodes": 2}})
    edges = ((2, 0, "max_pool_3x3"), (2, 1, "max_pool_3x3"), (3, 0, "max_pool_3x3"), (3, 1, "avg_pool_3x3"))
    cell = tuple(Edge(*edge) for edge in edges)
    network, _, x, _ = problem(genotype_of({"normal": cell, "reduce": cell}, space))
    network(x)
    assert len(calls) == 3 * 3


def test_whole_search_step_in_float32() -> None:
    torch.manual_seed(0)
    space = load_space({"base": {"base": "bnas", "supernet": SIZE}})
    supernet = Supernet(space, 2, 5).train()
    alphas = Alphas(space, all_candidates(space))
    values = {kind: alphas.get_parameter(kind).detach() for kind in ("normal", "reduce")}
    temperatures = {"normal": 1.0, "reduce": 1.0}
    oracle = supernet_oracles.oracle_from(supernet)
    x, y = torch.randn(32, 2, 16, 16), torch.randint(5, (32,))
    weights = {kind: supernet_oracles.probabilities(values[kind], 1.0) for kind in values}
    results: list[Any] = []
    flipped, signs = flipped_signs(
        supernet,
        oracle,
        lambda: results.append(F.cross_entropy(supernet(x, weights), y).item()),
        lambda: results.append(supernet_oracles.weight_step(oracle, values, x, y, temperatures)[0]),
    )
    assert flipped <= FLIPPED * signs, f"{flipped} of {signs} signs"
    assert abs(results[0] - results[1]) <= 1e-3 * results[1]


@pytest.mark.skipif(not is_available(), reason="numba is not installed")
def test_checkpointed_cells_give_the_same_bits(fused: list[int]) -> None:
    """Loss, gradients and running statistics, with drop path on."""
    runs: list[dict[str, Tensor]] = []
    for checkpointed in (False, True):
        network, _, x, y = problem(published("bnas_latest_cell"))
        network.checkpoint_cells, network.drop_rate = checkpointed, 0.2
        torch.manual_seed(7)
        loss = loss_of(network, x, y)
        loss.backward()
        gradients = {name: p.grad for name, p in network.named_parameters()}
        runs.append({"loss": loss.detach(), **gradients, **dict(network.named_buffers())})
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())
