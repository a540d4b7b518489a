"""Ternary and low-bit binarizers: values and gradients against NumPy in float64, and their state."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from binas.binarize import (
    ActivationBinarizer,
    Binarization,
    BinaryConv2d,
    WeightBinarizer,
    after_optimizer_step,
    set_progress,
)
from binas.binarize.contract import ACTIVATION_BINARIZERS, GRADIENT_QUANTIZERS, WEIGHT_BINARIZERS
from binas.binarize.gaussian import half_wave_step, normal_quantile
from binas.errors import UserError

Array = NDArray[np.float64]
TABLE = [-1.5, -1.0, -0.0, 0.0, 0.3, 1.0, 1.5]
X = np.array([*TABLE, 0.1, 0.25, 0.4999, 0.5, 0.807, 0.81, 1.345, 1.4, 3.0, 40.0]).reshape(1, 1, 1, -1)
GX = np.random.default_rng(1).normal(size=X.shape)
W = np.random.default_rng(2).normal(size=(3, 4, 2, 3)) * 0.8
W.reshape(-1)[: len(TABLE)] = TABLE
W[W > 1.5], W[W < -1.5] = 1.2, -1.2  # the table's ends are the largest, and tie
GW = np.random.default_rng(3).normal(size=W.shape)
SHAPE = torch.Size(W.shape)


def activation(name: str, **options: Any) -> ActivationBinarizer:
    return ACTIVATION_BINARIZERS[name](1, **options).double()


def weight(name: str, **options: Any) -> WeightBinarizer:
    return WEIGHT_BINARIZERS[name](SHAPE, **options).double()


def value_of(binarizer: Any, x: torch.Tensor) -> torch.Tensor:
    """What the pairs stand for, with scales that broadcast against the tensor itself."""
    bases = binarizer(x)
    assert len(bases) == binarizer.num_bases
    values = []
    for codes, scale in bases:
        foreign = set(codes.detach().unique().tolist()) - set(map(float, binarizer.levels))
        assert not foreign or (binarizer.training and binarizer.smooth_in_training)
        if scale is None:
            values.append(codes)
        elif isinstance(binarizer, WeightBinarizer) and binarizer.scales == "output" and scale.dim():
            values.append(codes * scale[:, None])
        else:
            values.append(codes * scale)
    return torch.stack(values).sum(dim=0)


def run(binarizer: Any, x: Array, g: Array) -> tuple[Array, Array, dict[str, Array]]:
    """Value, gradient of the input and gradients of the parameters."""
    leaf = torch.tensor(x, requires_grad=True)
    value = value_of(binarizer, leaf)
    value.backward(torch.tensor(g))
    assert leaf.grad is not None
    learned = {name: p.grad.numpy() for name, p in binarizer.named_parameters() if p.grad is not None}
    return value.detach().numpy(), leaf.grad.numpy(), learned


def same(found: Array, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)  # rounding of float64


def sgn(x: Array) -> Array:
    return np.where(x >= 0, 1.0, -1.0)


def test_twn() -> None:
    value, dw, _ = run(weight("twn"), W, GW)
    kept = np.abs(W) > 0.7 * np.abs(W).mean()
    same(value, np.abs(W)[kept].mean() * np.sign(W) * kept)
    same(dw, GW)


def ttq(threshold: float) -> WeightBinarizer:
    binarizer: Any = weight("ttq", threshold=threshold)
    binarizer.positive.data = torch.tensor(0.8, dtype=torch.float64)
    binarizer.negative.data = torch.tensor(0.3, dtype=torch.float64)
    return binarizer  # type: ignore[no-any-return]


@pytest.mark.parametrize("threshold", [0.05, 0.4])
def test_ttq_with_the_true_derivative(threshold: float) -> None:
    binarizer = ttq(threshold)
    value, dw, learned = run(binarizer, W, GW)
    above, below = threshold * 1.5 < W, -threshold * 1.5 > W
    same(value, 0.8 * above - 0.3 * below)
    same(dw, GW * np.where(above, 0.8, np.where(below, 0.3, 1)))
    same(learned["positive"], GW[above].sum())
    same(learned["negative"], -GW[below].sum())
    binarizer.initialise(nn.Parameter(torch.tensor(W)))
    same(binarizer.positive.item(), W[above].mean())
    same(binarizer.negative.item(), -W[below].mean())


def test_ttq_magnitudes_stay_positive() -> None:
    binarizer = ttq(0.05)
    binarizer.positive.data.fill_(-2.0)
    value, dw, learned = run(binarizer, W, GW)
    above = W > 0.075
    same(value[above], 1e-3)
    same(learned["positive"], GW[above].sum())  # so that it comes back
    assert np.isfinite(dw).all()


@pytest.mark.parametrize(
    "name, option, parameter",
    [
        ("ttq", {}, "positive"),
        ("ttq", {}, "negative"),
        ("syq", {}, "alpha"),
        ("syq", {"bits": 1}, "alpha"),
    ],
)
def test_learned_scales_have_the_derivative_of_the_value(name: str, option: Any, parameter: str) -> None:
    binarizer = weight(name, **option)
    binarizer.initialise(nn.Parameter(torch.tensor(W)))
    _, _, learned = run(binarizer, W, GW)
    scale = dict(binarizer.named_parameters())[parameter]
    differences = []
    for place in range(scale.numel()):
        sums = []
        for step in (1e-3, -2e-3):
            scale.data.view(-1)[place] += step
            sums.append(float((value_of(binarizer, torch.tensor(W)).detach().numpy() * GW).sum()))
        scale.data.view(-1)[place] += 1e-3
        differences.append((sums[0] - sums[1]) / 2e-3)
    np.testing.assert_allclose(np.ravel(learned[parameter]), differences, rtol=1e-8, atol=1e-8)  # linear


def test_eedn_changes_only_beyond_the_hysteresis() -> None:
    binarizer = WEIGHT_BINARIZERS["eedn"](torch.Size((6, 1)), hysteresis=0.1)
    latent = nn.Parameter(torch.zeros(6, 1))
    torch.manual_seed(0)
    binarizer.initialise(latent)
    assert latent.abs().max() <= 1 and torch.equal(binarizer.state, latent.detach().round())
    path = [
        ([0.0, 0.45, 0.55, 0.6, -0.55, -0.6], [0, 0, 0, 1, 0, -1]),
        ([0.0, 0.61, 0.59, 0.45, -0.61, -0.41], [0, 1, 0, 1, -1, -1]),
        ([0.0, 0.45, 0.41, 0.4, -0.4, 0.5], [0, 1, 0, 0, 0, -1]),
        ([0.0, -0.6, 2.0, -3.0, 0.59, 0.3], [0, -1, 1, -1, 0, 0]),
    ]
    binarizer.state.zero_()
    for latents, expected in path:
        latent.data = torch.tensor(latents)[:, None]
        ((codes, scale),) = binarizer(latent)
        assert codes.flatten().tolist() == expected and scale is None
        binarizer.after_step(latent)
        assert binarizer.state.flatten().tolist() == expected and latent.abs().max() <= 1
    _, dw, _ = run(weight("eedn"), W, GW)
    same(dw, GW)


def test_dorefa_weights_of_one_bit() -> None:
    value, dw, _ = run(weight("dorefa"), W, GW)
    same(value, sgn(W) * np.abs(W).mean())
    same(dw, GW)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_dorefa_weights(bits: int) -> None:
    value, dw, _ = run(weight("dorefa", bits=bits), W, GW)
    n, t = 2**bits - 1, np.tanh(W)
    m = np.abs(t).max()
    same(value, 2 * np.round(n * (t / (2 * m) + 0.5)) / n - 1)
    largest = np.abs(t) == m
    dm = -(2 * GW * t / (2 * m * m)).sum() * sgn(t) * largest / largest.sum()  # ties share it
    same(dw, (2 * GW / (2 * m) + dm) * (1 - t * t))
    zero, _, _ = run(weight("dorefa", bits=bits), 0 * W, GW)
    assert np.abs(zero).max() <= 1 / n + 1e-12  # the levels next to 0


@pytest.mark.parametrize(
    "name, bits", [("dorefa", 1), ("dorefa", 2), ("dorefa", 5), ("wrpn", 2), ("wrpn", 4)]
)
def test_activations_between_zero_and_one(name: str, bits: int) -> None:
    value, dx, _ = run(activation(name, bits=bits), X, GX)
    n = 2**bits - 1
    same(value, np.round(n * np.clip(X, 0, 1)) / n)
    same(dx, GX * ((X >= 0) & (X <= 1)))


def test_wrpn_activations_of_one_bit() -> None:
    value, dx, _ = run(activation("wrpn", bits=1), X, GX)
    same(value, sgn(X))
    same(dx, GX * (np.abs(X) <= 1))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_wrpn_weights(bits: int) -> None:
    value, dw, _ = run(weight("wrpn", bits=bits), W, GW)
    n = 2 ** (bits - 1) - 1
    scale = np.abs(W).mean(axis=(1, 2, 3), keepdims=True)
    same(value, scale * sgn(W) if bits == 1 else np.round(n * np.clip(W, -1, 1)) / n)
    same(dw, GW * (np.abs(W) <= 1))
    latent = nn.Parameter(torch.tensor(W))
    weight("wrpn", bits=bits).initialise(latent)
    same(latent.detach().numpy(), W / (1 if bits == 1 else 1.5))


def test_dorefa_gradients_without_noise() -> None:
    quantizer = GRADIENT_QUANTIZERS["dorefa"](bits=3).eval()
    g = np.stack([W, 10 * GW])
    m = np.abs(g).reshape(2, -1).max(axis=1).reshape(2, 1, 1, 1, 1)
    expected = 2 * m * (np.round(7 * (g / (2 * m) + 0.5)) / 7 - 0.5)
    same(quantizer(torch.tensor(g)).numpy(), expected)
    assert torch.equal(quantizer(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_dorefa_gradients_keep_their_mean() -> None:
    quantizer = GRADIENT_QUANTIZERS["dorefa"](bits=3)
    g = torch.linspace(-1, 1, 41, dtype=torch.float64)
    torch.manual_seed(0)
    drawn = quantizer(g.expand(20000, -1))
    codes = drawn * 7
    torch.testing.assert_close(codes, codes.round())
    assert set(codes.round().unique().tolist()) == set(quantizer.levels)
    inner = g.abs() <= 6 / 7  # nothing is clipped there
    # 20,000 draws between two levels 2/7 apart: a standard error of 0.001
    torch.testing.assert_close(drawn.mean(dim=0)[inner], g[inner], atol=0.005, rtol=0)


def test_gradient_quantizer_works_in_a_layer() -> None:
    binarization = Binarization.model_validate({"gradient": {"name": "dorefa", "bits": 2}})
    layer = BinaryConv2d(2, 3, 1, binarizations=[binarization])
    plain = BinaryConv2d(2, 3, 1)
    plain.weight.data = layer.weight.data.clone()
    x, g = torch.randn(4, 2, 5, 5), torch.randn(4, 3, 5, 5)
    layer.eval()  # no noise
    layer(x).backward(g)
    plain(x).backward(layer.gradient_quantizer(g))
    assert torch.equal(layer.weight.grad, plain.weight.grad)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("alpha", [1.0, 2.5])
def test_pact(bits: int, alpha: float) -> None:
    value, dx, learned = run(activation("pact", bits=bits, initial=alpha), X, GX)
    n = 2**bits - 1
    y = np.clip(X, 0, alpha)  # = (|x| − |x − α| + α)/2, which rounds differently
    same(value, np.round(y / (alpha / n)) * (alpha / n))
    same(dx, GX * ((X >= 0) & (alpha > X)))
    same(learned["alpha"], (GX * (alpha <= X)).sum())


def test_pact_clip_stays_positive() -> None:
    binarizer = activation("pact")
    binarizer.alpha.data.fill_(-1.0)
    value, _, learned = run(binarizer, X, GX)
    same(value.max(), 1e-3)
    same(learned["alpha"], GX[X >= 1e-3].sum())  # so that it comes back


def test_hwgq_at_two_bits_has_the_published_levels() -> None:
    value, dx, _ = run(activation("hwgq"), X, GX)
    expected = np.where(X <= 0, 0, np.where(X <= 0.807, 0.538, np.where(X <= 1.345, 1.076, 1.614)))
    same(value, expected)
    same(dx, GX * ((X > 0) & (X <= 1.614)))


@pytest.mark.parametrize("bits, threshold", [(1, 0.0), (2, 0.0), (3, 0.0), (2, 0.5)])
def test_half_wave_steps_are_least_squares(bits: int, threshold: float) -> None:
    x = np.linspace(threshold, 10, 200001)[1:]
    density, count = np.exp(-x * x / 2), 2**bits - 1

    def error(step: float) -> float:
        codes = np.clip(np.ceil(x / step - 0.5), 1, count)
        return float((density * (x - step * codes) ** 2).sum())

    best = half_wave_step(count, threshold)
    assert error(best) <= min(error(best * factor) for factor in (0.98, 0.995, 1.005, 1.02))
    if (bits, threshold) == (2, 0.0):
        assert best == pytest.approx(0.538, abs=1e-3)  # as published


def test_half_wave_and_sparse_extremes() -> None:
    assert half_wave_step(1) == pytest.approx(math.sqrt(2 / math.pi))
    for share in (0.5, 0.6875, 0.9):
        assert normal_quantile(share) == pytest.approx(
            torch.special.ndtri(torch.tensor(share)).item(), abs=1e-5
        )


@pytest.mark.parametrize("bits, sparsity", [(1, 0.5), (2, 0.6875), (3, 0.75)])
def test_two_step_activations_are_sparse(bits: int, sparsity: float) -> None:
    binarizer: Any = activation("two_step", bits=bits, sparsity=sparsity)
    value, dx, _ = run(binarizer, X, GX)
    step, threshold, top = binarizer.step, binarizer.threshold, 2**bits - 1
    same(value, step * np.where(threshold >= X, 0, np.clip(np.ceil(X / step - 0.5), 1, top)))
    same(dx, GX * ((threshold < X) & (top * step >= X)))
    drawn = torch.randn(200000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    zeros = (value_of(binarizer, drawn) == 0).double().mean().item()
    assert zeros == pytest.approx(sparsity, abs=0.005)  # 200,000 draws


def test_two_step_weights_are_the_nearest_ternary_ones() -> None:
    value, dw, _ = run(weight("two_step"), W, GW)
    for filters, found in zip(W.reshape(3, -1), value.reshape(3, -1), strict=True):
        order = np.argsort(-np.abs(filters))
        tried = []
        for k in range(1, len(filters) + 1):
            ternary = np.zeros_like(filters)
            ternary[order[:k]] = np.sign(filters[order[:k]]) * np.abs(filters[order[:k]]).mean()
            tried.append(ternary)
        same(found, min(tried, key=lambda ternary: ((filters - ternary) ** 2).sum()))
    same(dw, GW)


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("scaling, axes", [("pixel", (0, 1)), ("row", (0, 1, 3)), ("layer", (0, 1, 2, 3))])
def test_syq(scaling: str, axes: tuple[int, ...], bits: int) -> None:
    binarizer = weight("syq", bits=bits, scaling=scaling)
    binarizer.initialise(nn.Parameter(torch.tensor(W)))
    value, dw, learned = run(binarizer, W, GW)
    alpha = np.abs(W).mean(axis=axes, keepdims=True)
    codes = sgn(W) * (1 if bits == 1 else np.abs(W) > 0.05 * 1.5)
    same(value, alpha * codes)
    same(dw, alpha * GW)
    same(learned["alpha"], (codes * GW).sum(axis=axes, keepdims=True))


def powers_of_two(w: Array, bits: int) -> Array:
    """Levels by comparing with all thresholds of the paper, one after another."""
    highest = math.floor(math.log2(4 * np.abs(w).max() / 3))
    lowest = highest + 1 - 2 ** (bits - 1) // 2
    levels = [0.0, *(2.0**n for n in range(lowest, highest + 1))]
    found = np.zeros_like(w)
    for below, level in itertools.pairwise(levels):
        hit = (np.abs(w) >= (below + level) / 2) & (np.abs(w) < 1.5 * level)
        found[hit] = level * np.sign(w[hit])
    return found


@pytest.mark.parametrize("bits", [2, 3, 5])
@pytest.mark.parametrize("factor", [0.001, 1.0, 7.0])
def test_inq_levels_are_powers_of_two(bits: int, factor: float) -> None:
    value, dw, _ = run(weight("inq", bits=bits).eval(), factor * W, GW)
    same(value, powers_of_two(factor * W, bits))
    same(dw, GW)


def test_inq_freezes_by_progress() -> None:
    binarizer: Any = weight("inq")
    asked = [binarizer.portion(p) for p in (0, 0.19, 0.2, 0.39, 0.41, 0.5, 0.61, 0.81, 1)]
    assert asked == [0, 0, 0.5, 0.5, 0.75, 0.75, 0.875, 1, 1]
    latent = nn.Parameter(torch.tensor(W))
    value, dw, _ = run(binarizer, W, GW)
    same(value, W)  # progress 0: all are still real
    same(dw, GW)
    for progress in (0.5, 1.0):
        binarizer.progress = progress
        binarizer.after_step(latent)
        frozen = binarizer.frozen.numpy()
        assert frozen.mean() == pytest.approx(0.75 if progress == 0.5 else 1, abs=1 / W.size)
        assert np.abs(W[frozen]).min() >= np.abs(W[~frozen]).max(initial=0)
        same(latent.detach().numpy(), np.where(frozen, powers_of_two(W, 5), W))
        value, dw, _ = run(binarizer, latent.detach().numpy(), GW)
        same(value, latent.detach().numpy())
        same(dw, GW * ~frozen)
    assert torch.equal(value_of(binarizer, latent), value_of(binarizer.eval(), latent))
    assert set(binarizer(latent)[0][0].unique().tolist()) <= set(map(float, binarizer.levels))


def inq_layer() -> BinaryConv2d:
    torch.manual_seed(0)
    weights = {"name": "inq", "bits": 3, "warm_up": 0.0, "portions": [0.5, 1.0]}
    return BinaryConv2d(3, 5, 3, binarizations=[Binarization.model_validate({"weight": weights})])


def train(layer: BinaryConv2d, first: int, last: int, steps: int) -> None:
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    for step in range(first, last):
        torch.manual_seed(step)
        set_progress(layer, step / steps)
        optimizer.zero_grad()
        layer(torch.randn(4, 3, 6, 6)).square().mean().backward()
        optimizer.step()
        after_optimizer_step(layer)


def test_frozen_weights_stay_whatever_the_optimizer_does() -> None:
    layer = inq_layer()
    binarizer: Any = layer.weight_binarizer
    train(layer, 0, 1, 10)
    frozen, before = binarizer.frozen.clone(), layer.weight.detach().clone()
    assert 0.49 < frozen.float().mean() < 0.51
    train(layer, 1, 5, 10)
    assert torch.equal(layer.weight[frozen], before[frozen])
    assert not torch.equal(layer.weight[~frozen], before[~frozen])
    train(layer, 5, 10, 10)
    assert binarizer.frozen.all() and torch.equal(layer.weight[frozen], before[frozen])
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(layer(x), layer.eval()(x))


def test_inq_goes_on_from_its_state() -> None:
    layer, again = inq_layer(), inq_layer()
    train(layer, 0, 2, 10)
    again.load_state_dict(layer.state_dict(), strict=True)
    for one in (layer, again):
        train(one, 2, 7, 10)
    assert all(
        torch.equal(mine, other)
        for mine, other in zip(layer.state_dict().values(), again.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("name, options", [("eedn", {}), ("wrpn", {}), ("wrpn", {"bits": 4})])
def test_wide_latent_weights_learn_at_a_rate_to_match(name: str, options: Any) -> None:
    shape = torch.Size((40, 16, 3, 3))
    binarizer = WEIGHT_BINARIZERS[name](shape, **options)
    latent = nn.Parameter((torch.rand(shape) * 2 - 1) / 12)  # uniform within 1/√n
    usual = latent.detach().std()
    binarizer.initialise(latent)
    assert binarizer.learning_rate_scale == 12
    assert (latent.std() / usual).item() == pytest.approx(12, rel=0.05)
    assert value_of(binarizer, latent).count_nonzero() > 0.4 * shape.numel()


@pytest.mark.parametrize(
    "name, options, factor",
    [
        ("twn", {}, 4.0),
        ("two_step", {}, 4.0),
        ("dorefa", {}, 4.0),
        ("wrpn", {"bits": 1}, 0.25),
        ("inq", {}, 8.0),
    ],
)
def test_weights_scale_with_their_latent_weight(name: str, options: Any, factor: float) -> None:
    binarizer = weight(name, **options).eval()
    same(run(binarizer, factor * W, GW)[0], factor * run(binarizer, W, GW)[0])


ENTRIES = [
    (name, options)
    for name in ("twn", "ttq", "eedn", "dorefa", "syq", "wrpn", "inq", "two_step")
    for options in WEIGHT_BINARIZERS[name].variants
]


@pytest.mark.parametrize("name, options", ENTRIES, ids=lambda value: str(value))
def test_a_layer_convolves_what_the_codes_stand_for(name: str, options: dict[str, Any]) -> None:
    names = {"activation": {"name": "hwgq"}, "weight": {"name": name, **options}}
    torch.manual_seed(0)
    layer = BinaryConv2d(4, 6, 3, padding=1, groups=2, binarizations=[Binarization.model_validate(names)])
    layer = layer.double().eval()
    x = torch.randn(2, 4, 7, 5, dtype=torch.float64)
    with torch.no_grad():
        inputs, kernel = (
            value_of(layer.activation_binarizer, x),
            value_of(layer.weight_binarizer, layer.weight),
        )
        torch.testing.assert_close(layer(x), F.conv2d(inputs, kernel, None, 1, 1, 1, 2))


@pytest.mark.parametrize("name, options", ENTRIES, ids=lambda value: str(value))
def test_weights_that_are_all_zero_give_no_nan(name: str, options: dict[str, Any]) -> None:
    value, dw, learned = run(weight(name, **options), 0 * W, GW)
    assert all(np.isfinite(numbers).all() for numbers in (value, dw, *learned.values()))


@pytest.mark.parametrize(
    "registry, name, options, message",
    [
        (WEIGHT_BINARIZERS, "dorefa", {"bits": 0}, "'dorefa': bits 0 is no integer from 1 to 8"),
        (WEIGHT_BINARIZERS, "inq", {"bits": 1}, "'inq': bits 1 is no integer from 2 to 6"),
        (WEIGHT_BINARIZERS, "inq", {"portions": [0.5, 0.4, 1]}, "portions .* rise to 1"),
        (WEIGHT_BINARIZERS, "inq", {"portions": [0.5]}, "portions .* rise to 1"),
        (WEIGHT_BINARIZERS, "inq", {"portions": []}, "portions .* rise to 1"),
        (WEIGHT_BINARIZERS, "inq", {"portions": 0.5}, "portions .* rise to 1"),
        (
            WEIGHT_BINARIZERS,
            "inq",
            {"warm_up": 1.0},
            "'inq': warm_up 1.0 is no number above 0 and at most 0.99",
        ),
        (WEIGHT_BINARIZERS, "syq", {"scaling": "pixels"}, "'syq': unknown scaling 'pixels'"),
        (WEIGHT_BINARIZERS, "syq", {"bits": 3}, "'syq': bits 3 is no integer from 1 to 2"),
        (WEIGHT_BINARIZERS, "ttq", {"threshold": -1}, "'ttq': threshold -1 is no number above 0"),
        (WEIGHT_BINARIZERS, "eedn", {"hysteresis": 0.6}, "'eedn': hysteresis 0.6"),
        (ACTIVATION_BINARIZERS, "pact", {"initial": "high"}, "'pact': initial 'high' is no number above 0"),
        (ACTIVATION_BINARIZERS, "two_step", {"sparsity": 0.3}, "'two_step': sparsity 0.3"),
        (ACTIVATION_BINARIZERS, "hwgq", {"bits": 2.0}, "'hwgq': bits 2.0 is no integer"),
    ],
)
def test_impossible_options_are_told(registry: Any, name: str, options: Any, message: str) -> None:
    argument = SHAPE if registry is WEIGHT_BINARIZERS else 1
    with pytest.raises(UserError, match=message):
        registry[name](argument, **options)
