"""The supernet against the slow, obvious one: loss, gradients and running statistics in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from oracles.binary_layers import BatchNorm, BinaryConv
from oracles.supernet import (
    KINDS,
    alpha_step,
    oracle_from,
    running_statistics,
    set_oracle_precision,
    weight_step,
)
from spaces import spaces_of
from torch import Tensor
from torch.nn import functional as F

from binas.arch import fast_supernet
from binas.arch.alphas import Alphas, mean_entropy
from binas.arch.space import SearchSpace, load_space
from binas.arch.supernet import Candidates, Supernet, all_candidates
from binas.binarize import set_precision
from binas.search.config import SearchConfig
from binas.search.regularizers.diversity import Diversity, diversity_weight
from binas.search.step import BilevelStep

SPACES = spaces_of("cell")
PRECISIONS = {"binary": (True, True), "real-weights": (True, False), "real": (False, False)}
TEMPERATURES = {"normal": 0.7, "reduce": 1.9}
DIVERSITY, EPOCH, TAU = 0.8, 3.0, 7.7
CHANGES = {
    "binary-preprocess-affine": {
        "supernet": {"preprocess": "binary", "batch_norm_affine": True, "batch_norm_after_pool": False}
    },
    "binary-reduction-skip": {"reduction_skip": "binary", "inter_cell_skip": True},
    "average-reduction-skip": {"reduction_skip": "avg_pool", "inter_cell_skip": True},
    "prelu-shuffle": {
        "activation": "prelu",
        "grouping": {"channels_per_group": None, "groups": 2, "shuffle": True},
    },
    "approx-sign-minus-one-padding": {
        "binarization": {
            "activation": {"name": "approx_sign"},
            "weight": {"name": "xnor", "center": False},
            "pad_value": -1,
        }
    },
    "no-window": {"binarization": {"activation": {"name": "sign", "window": None}}},
}


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def small(space: str, changes: dict | None = None) -> SearchSpace:
    """A shipped space with a supernet of three narrow cells, the middle one a reduction."""
    size = {"init_channels": 4, "num_cells": 3, "reductions": [1], "stem_multiplier": 2}
    given = dict(changes or {})
    given["supernet"] = {**size, **given.get("supernet", {})}
    base = {"base": {"base": space, "supernet": size, "num_nodes": 2}}
    if space == "bats":  # its 12 groups do not divide these few channels
        base["base"]["grouping"] = {"groups": 2}
    return load_space({**base, **given})


def problem(
    space: SearchSpace, candidates: Candidates | None = None, size: tuple[int, int] = (8, 8), seed: int = 0
):
    """A supernet with perturbed batch-norms, alphas, a batch of images and labels."""
    torch.manual_seed(seed)
    supernet = Supernet(space, 2, 5, candidates=candidates)
    with torch.no_grad():
        for parameter in supernet.parameters():
            if parameter.dim() == 1:  # scales, shifts and slopes away from their special initial values
                parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in supernet.named_buffers():
            if name.endswith("running_var"):
                buffer.mul_(1 + torch.rand_like(buffer))
            elif name.endswith("running_mean"):
                buffer.add_(torch.randn_like(buffer))
    alphas = Alphas(space, candidates or all_candidates(space))
    with torch.no_grad():
        for kind in KINDS:
            alphas.get_parameter(kind).normal_()
    return supernet, alphas, torch.randn(6, 2, *size), torch.randint(5, (6,))


def separated_problem(
    space: SearchSpace, precision: str, candidates: Candidates | None, size: tuple[int, int]
):
    """The first problem in which no input of a sign lies within rounding error of zero.

    Sums of ±1 often equal their own batch mean; then two right orders of summation give other signs.
    A channel that is zero everywhere is exact in any order.
    """
    for seed in range(40):
        supernet, alphas, x, y = problem(space, candidates, size, seed)
        oracle = oracle_from(supernet)
        set_precision(supernet, *PRECISIONS[precision])
        set_oracle_precision(oracle, *PRECISIONS[precision])
        margins: list[float] = []

        def watch(
            module: BatchNorm, given: tuple[Tensor], output: Tensor, margins: list[float] = margins
        ) -> None:
            channels = given[0].abs().amax(dim=(0, 2, 3)) > 0
            margins += [output[:, channels].abs().min().item()] if channels.any() else []

        hooks = [
            module.norm.register_forward_hook(watch)
            for module in oracle.modules()
            if isinstance(getattr(module, "conv", getattr(module, "first", None)), BinaryConv)
        ]
        alpha_step(oracle, _values(alphas), x, y, TEMPERATURES)
        for hook in hooks:
            hook.remove()
        if PRECISIONS[precision][0] is False or min(margins) > 1e-9:
            return supernet, oracle, alphas, x, y
    raise AssertionError("no seed keeps the inputs of sign away from zero")


def _values(alphas: Alphas) -> dict[str, Tensor]:
    return {kind: alphas.get_parameter(kind).detach() for kind in KINDS}


def assert_near(actual: Tensor, expected: Tensor, name: str) -> None:
    # 1e-9 of the tensor's size: float64 sums in another order, through about twenty layers
    scale = max(expected.abs().max().item(), 1e-6)
    error = (actual - expected).abs().max().item() / scale
    assert error <= 1e-9, f"{name}: relative error {error:.2e}"


def assert_same_steps(
    space: SearchSpace, precision: str, candidates: Candidates | None = None, size: tuple[int, int] = (8, 8)
) -> None:
    supernet, oracle, alphas, x, y = separated_problem(space, precision, candidates, size)
    values = _values(alphas)
    expected, expected_alpha = alpha_step(oracle, values, x, y, TEMPERATURES, DIVERSITY, EPOCH, TAU)
    probabilities = alphas.probabilities(TEMPERATURES)
    saved = {name: buffer.clone() for name, buffer in supernet.named_buffers()}
    loss = F.cross_entropy(supernet(x, probabilities), y)
    loss = loss - DIVERSITY * mean_entropy(probabilities) * math.exp(-EPOCH / TAU)
    gradients = torch.autograd.grad(loss, [alphas.get_parameter(kind) for kind in KINDS])
    assert_near(loss.detach(), torch.tensor(expected), "loss of the alpha step")
    for kind, gradient in zip(KINDS, gradients, strict=True):
        assert_near(gradient, expected_alpha[kind], f"gradient of alphas.{kind}")

    for name, buffer in supernet.named_buffers():  # the oracle's alpha step left its statistics alone
        buffer.copy_(saved[name])
    expected, expected_weights = weight_step(oracle, values, x, y, TEMPERATURES)
    supernet.zero_grad()
    fixed = {kind: p.detach() for kind, p in alphas.probabilities(TEMPERATURES).items()}
    loss = F.cross_entropy(supernet(x, fixed), y)
    loss.backward()
    assert_near(loss.detach(), torch.tensor(expected), "loss of the weight step")
    parameters = dict(supernet.named_parameters())
    assert set(expected_weights) == set(parameters)
    for name, gradient in expected_weights.items():
        given = parameters[name].grad
        assert_near(torch.zeros_like(gradient) if given is None else given, gradient, name)
    buffers = {name: b for name, b in supernet.named_buffers() if "running" in name}
    statistics = running_statistics(oracle)
    assert set(statistics) == set(buffers)
    for name, copies in statistics.items():
        for copy in copies:
            assert_near(buffers[name], copy, name)

    supernet.eval(), oracle.eval()
    with torch.no_grad():
        assert_near(supernet(x, fixed), oracle(x, fixed), "logits in evaluation")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("space", SPACES)
def test_shipped_spaces(space: str, precision: str) -> None:
    # depthwise sums have so few terms that with ReLU they meet their mean exactly for every seed
    changes = {"activation": "prelu"} if space == "darts_binary" and precision == "binary" else {}
    assert_same_steps(small(space, changes), precision)


@pytest.mark.parametrize("change", CHANGES)
def test_settings_of_a_space(change: str) -> None:
    assert_same_steps(small("binas", CHANGES[change]), "binary")


@pytest.mark.parametrize("size", [(15, 15), (7, 9)], ids=str)
def test_odd_sizes(size: tuple[int, int]) -> None:
    assert_same_steps(small("binas"), "binary", size=size)


@pytest.mark.parametrize("space", ["binas", "darts_binary"])
def test_the_plain_sum_of_a_cell(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs where the fast path does not apply is the same function of the same alphas."""
    asked: list[None] = []
    monkeypatch.setattr(fast_supernet, "nodes", lambda *arguments: asked.append(None))
    assert_same_steps(small(space, {"activation": "prelu"}), "binary")
    assert asked


def test_a_hook_on_an_operation_is_called_and_changes_nothing() -> None:
    supernet, alphas, x, _ = problem(small("binas"))
    mixed = alphas.probabilities(TEMPERATURES)
    expected = supernet(x, mixed)
    calls: list[str] = []
    watched = [
        module for name, module in supernet.named_modules() if name.endswith("edge_3_2.binary_conv_3x3.conv")
    ]
    for module in watched:
        module.register_forward_hook(lambda *_: calls.append("conv"))
    assert_near(supernet(x, mixed), expected, "logits")
    assert len(calls) == len(watched) == 3


def test_fewer_candidates() -> None:
    space = small("binas")
    candidates = all_candidates(space)
    candidates["normal"][0] = ["binary_conv_3x3"]
    candidates["normal"][3] = ["zeroise", "skip"]
    candidates["reduce"][1] = ["max_pool_3x3", "binary_group_conv_5x5"]
    assert_same_steps(space, "binary", candidates)


def test_the_alpha_step_leaves_the_oracle_alone() -> None:
    supernet, alphas, x, y = problem(small("bnas"))
    oracle = oracle_from(supernet)
    values = _values(alphas)
    before = {name: [copy.clone() for copy in copies] for name, copies in running_statistics(oracle).items()}
    alpha_step(oracle, values, x, y, TEMPERATURES)
    assert all(parameter.grad is None for parameter in oracle.parameters())
    for name, copies in running_statistics(oracle).items():
        assert all(map(torch.equal, copies, before[name])), name
    alpha_step(oracle, values, x, y, TEMPERATURES, updates_batch_norm=True)
    moved = running_statistics(oracle)["stem.0.running_mean"][0]
    assert not torch.equal(moved, before["stem.0.running_mean"][0])


def test_the_diversity_term_counts_every_edge_once() -> None:
    supernet, alphas, x, y = problem(small("bnas"))
    oracle = oracle_from(supernet)
    values = {kind: torch.zeros_like(alphas.get_parameter(kind)) for kind in KINDS}
    plain, _ = alpha_step(oracle, values, x, y, TEMPERATURES)
    diverse, _ = alpha_step(oracle, values, x, y, TEMPERATURES, DIVERSITY, EPOCH, TAU)
    # uniform rows: the entropy is log 7 on each edge; 1e-12 for the difference of two losses
    assert plain - diverse == pytest.approx(DIVERSITY * math.log(7) * math.exp(-EPOCH / TAU), rel=1e-12)


@pytest.mark.parametrize("updates", [False, True], ids=["statistics left alone", "statistics follow"])
def test_the_two_steps_of_search(updates: bool) -> None:
    """What `BilevelStep` computes, read from the gradients that it leaves behind; learning rates are 0."""
    space = small("binas")
    supernet, oracle, alphas, x, y = separated_problem(space, "binary", None, (8, 8))
    optimizers = [torch.optim.SGD(module.parameters(), 0.0) for module in (supernet, alphas)]
    config, weight = SearchConfig(alpha_step_updates_batch_norm=updates), diversity_weight(DIVERSITY, TAU, 3)
    step = BilevelStep(supernet, alphas, *optimizers, config, TEMPERATURES, regularizers=(Diversity(weight),))
    expected, gradients = alpha_step(oracle, _values(alphas), x, y, TEMPERATURES, DIVERSITY, 3, TAU, updates)
    assert_near(step.alpha_step((x, y))["alpha_loss"].detach(), torch.tensor(expected), "alpha loss")
    for kind in KINDS:
        assert_near(alphas.get_parameter(kind).grad, gradients[kind], f"alphas.{kind}")
    assert all(parameter.grad is None and parameter.requires_grad for parameter in supernet.parameters())
    expected, gradients = weight_step(oracle, _values(alphas), x, y, TEMPERATURES)
    assert_near(step.weight_step((x, y))["train_loss"].detach(), torch.tensor(expected), "train loss")
    for name, parameter in supernet.named_parameters():
        assert_near(parameter.grad, gradients[name], name)
    for name, copies in running_statistics(oracle).items():
        assert_near(supernet.get_buffer(name), copies[0], name)
