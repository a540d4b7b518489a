"""Binarizers of several bases: values and gradients against NumPy in float64, best scales by brute force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from binas.binarize import ActivationBinarizer, Binarization, BinaryConv2d, WeightBinarizer
from binas.binarize.contract import ACTIVATION_BINARIZERS, WEIGHT_BINARIZERS, Bases
from binas.binarize.optimal import best_ternary, best_two_bases
from binas.errors import UserError

Array = NDArray[np.float64]
TABLE = [-1.5, -1.0, -0.0, 0.0, 0.3, 1.0, 1.5]
ACTIVATIONS = ("abc_net", "rebnet", "horq", "ls1", "ls2", "ls_ternary", "greedy", "lq_net")
WEIGHTS = ("abc_net", "rebnet", "ls1", "ls2", "ls_ternary", "greedy", "lq_net")


def numbers(shape: tuple[int, ...], seed: int) -> Array:
    """Normal numbers that begin with the table in each of the first dimension's rows."""
    x = np.random.default_rng(seed).normal(size=shape)
    x.reshape(shape[0], -1)[:, : len(TABLE)] = TABLE
    return x


X, GX = numbers((2, 3, 2, 4), 1), np.random.default_rng(2).normal(size=(2, 3, 2, 4))
W, GW = numbers((3, 4, 3, 1), 3), np.random.default_rng(4).normal(size=(3, 4, 3, 1))


def activation(name: str, **options: Any) -> ActivationBinarizer:
    return ACTIVATION_BINARIZERS[name](3, **options).double()


def weight(name: str, **options: Any) -> WeightBinarizer:
    return WEIGHT_BINARIZERS[name](torch.Size(W.shape), **options).double()


def total(bases: Bases, of_weight: bool) -> torch.Tensor:
    """What the pairs stand for, with scales that broadcast against the tensor itself."""
    values = []
    for codes, scale in bases:
        assert scale is not None
        values.append(codes * (scale[:, None] if of_weight and scale.dim() else scale))
    return torch.stack(values).sum(dim=0)


def run(binarizer: Any, x: Array, g: Array) -> tuple[Array, Array, dict[str, Array]]:
    """Value, gradient of the input and gradients of the parameters."""
    leaf = torch.tensor(x, requires_grad=True)
    bases = binarizer(leaf)
    assert len(bases) == binarizer.num_bases
    for codes, _ in bases:
        assert set(codes.detach().unique().tolist()) <= set(map(float, binarizer.levels))
    value = total(bases, isinstance(binarizer, WeightBinarizer))
    value.backward(torch.tensor(g))
    assert leaf.grad is not None
    learned = {name: p.grad.numpy() for name, p in binarizer.named_parameters() if p.grad is not None}
    return value.detach().numpy(), leaf.grad.numpy(), learned


def same(found: Array, expected: Array) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)  # rounding of float64


def sgn(x: Array) -> Array:
    return np.where(x >= 0, 1.0, -1.0)


def inside(x: Array) -> Array:
    return (np.abs(x) <= 1).astype(float)


def mean_of_rows(x: Array) -> Array:
    return np.abs(x).reshape(len(x), -1).mean(axis=1).reshape(-1, *[1] * (x.ndim - 1))


@pytest.mark.parametrize("bases", [1, 3, 5])
def test_abc_weights_are_the_least_squares_of_shifted_signs(bases: int) -> None:
    value, dw, _ = run(weight("abc_net", bases=bases), W, GW)
    u = [-1 + 2 * (i - 1) / (bases - 1) for i in range(1, bases + 1)] if bases > 1 else [0]
    matrix = np.stack([sgn(W - W.mean() + shift * W.std()).ravel() for shift in u], axis=1)
    alphas = np.linalg.lstsq(matrix, W.ravel(), rcond=None)[0]
    same(value, (matrix @ alphas).reshape(W.shape))
    same(dw, alphas.sum() * GW)


def test_abc_weights_survive_equal_bases() -> None:
    w = np.repeat([-1.0, 1.0], 18).reshape(W.shape)  # every shift gives the same signs, zero at u = ±1
    value, dw, _ = run(weight("abc_net", bases=4), w, GW)
    np.testing.assert_allclose(value, w, atol=1e-9)
    assert np.isfinite(dw).all()


@pytest.mark.parametrize("bases", [1, 3])
def test_abc_activations(bases: int) -> None:
    binarizer = activation("abc_net", bases=bases)
    v, beta = np.array([0.5, 0.2, -0.5])[:bases], np.array([0.6, 0.3, -0.2])[:bases]
    binarizer.shift.data = torch.tensor(v)
    binarizer.beta.data = torch.tensor(beta)
    value, dx, learned = run(binarizer, X, GX)
    codes = [2.0 * (np.clip(X + v_n, 0, 1) >= 0.5) - 1 for v_n in v]
    windows = [((X + v_n >= 0) & (X + v_n <= 1)).astype(float) for v_n in v]
    same(value, sum(b * h for b, h in zip(beta, codes, strict=True)))
    same(dx, sum(b * m * GX for b, m in zip(beta, windows, strict=True)))
    same(learned["beta"], np.array([(GX * h).sum() for h in codes]))
    same(learned["shift"], np.array([(GX * b * m).sum() for b, m in zip(beta, windows, strict=True)]))


def test_rebnet_activations_pass_the_gradient_through_residuals() -> None:
    binarizer = activation("rebnet")
    same(binarizer.gamma.detach().numpy(), np.float32([2 / 3, 1 / 3]))
    g1, g2 = 0.7, 0.4
    binarizer.gamma.data = torch.tensor([g1, -g2], dtype=torch.float64)
    value, dx, learned = run(binarizer, X, GX)
    e1, m1 = sgn(X), inside(X)
    r2 = X - g1 * e1
    e2, m2 = sgn(r2), inside(r2)
    same(value, g1 * e1 + g2 * e2)
    same(dx, GX * (g1 * m1 + g2 * m2 * (1 - g1 * m1)))
    same(learned["gamma"], np.array([(GX * (e1 - g2 * m2 * e1)).sum(), -(GX * e2).sum()]))


def test_rebnet_weights() -> None:
    binarizer = weight("rebnet")
    binarizer.gamma.data = torch.tensor(-0.3, dtype=torch.float64)
    value, dw, learned = run(binarizer, W, GW)
    same(value, 0.3 * sgn(W))
    same(dw, 0.3 * inside(W) * GW)
    same(learned["gamma"], -(sgn(W) * GW).sum())


@pytest.mark.parametrize("bases", [1, 2, 3])
def test_horq_keeps_what_it_subtracts_constant(bases: int) -> None:
    value, dx, _ = run(activation("horq", bases=bases), X, GX)
    residual, expected, slope = X, np.zeros_like(X), np.zeros_like(X)
    for _ in range(bases):
        beta, slope_of_sign = mean_of_rows(residual), inside(residual)
        slope = slope + beta * slope_of_sign
        residual, expected = residual - beta * sgn(residual), expected + beta * sgn(residual)
    same(value, expected)
    same(dx, slope * GX)


@pytest.mark.parametrize("of_weight", [False, True], ids=["activation", "weight"])
@pytest.mark.parametrize("bases", [1, 2, 3])
def test_greedy_passes_the_gradient_through_residuals(bases: int, of_weight: bool) -> None:
    x, g = (W, GW) if of_weight else (X, GX)
    make = weight if of_weight else activation
    value, dx, _ = run(make("greedy", bases=bases), x, g)
    expected, slope = np.zeros_like(x), np.zeros_like(x)
    for _ in range(bases):
        residual = x - expected
        scale = mean_of_rows(residual)
        slope = slope + scale * inside(residual) * (1 - slope)
        expected = expected + scale * sgn(residual)
    same(value, expected)
    same(dx, slope * g)
    if bases == 1:
        one, d_one, _ = run(make("ls1"), x, g)
        same(one, expected)
        same(d_one, slope * g)


def two_means(row: Array) -> tuple[float, float]:
    """v₁ and v₂ of least squared error, every split of the magnitudes tried."""
    ordered = np.sort(np.abs(row))
    splits = [(ordered[:k], ordered[k:]) for k in range(1, len(row))]
    low, high = min(splits, key=lambda s: s[0].var() * len(s[0]) + s[1].var() * len(s[1]))
    return (high.mean() + low.mean()) / 2, (high.mean() - low.mean()) / 2


def ternary_level(row: Array) -> float:
    """a of least squared error, every number of kept weights tried."""
    ordered = np.sort(np.abs(row))[::-1]
    levels = [ordered[: k + 1].mean() for k in range(len(row))]
    errors = [((ordered - a * (np.arange(len(row)) <= k)) ** 2).sum() for k, a in enumerate(levels)]
    return float(levels[int(np.argmin(errors))])


def per_row(rows: Array, statistic: Callable[[Array], float]) -> Array:
    values = np.array([statistic(row) for row in rows.reshape(len(rows), -1)])
    return values.reshape(-1, *[1] * (rows.ndim - 1))


@pytest.mark.parametrize("of_weight", [False, True], ids=["activation", "weight"])
def test_ls2_has_the_best_two_scales(of_weight: bool) -> None:
    x, g = (W, GW) if of_weight else (X, GX)
    value, dx, _ = run((weight if of_weight else activation)("ls2"), x, g)
    v1, v2 = per_row(x, lambda row: two_means(row)[0]), per_row(x, lambda row: two_means(row)[1])
    rest = x - v1 * sgn(x)
    same(value, v1 * sgn(x) + v2 * sgn(rest))
    same(dx, g * (v1 * inside(x) + v2 * inside(rest) * (1 - v1 * inside(x))))


@pytest.mark.parametrize("of_weight", [False, True], ids=["activation", "weight"])
def test_ls_ternary_has_the_best_level(of_weight: bool) -> None:
    x, g = (W, GW) if of_weight else (X, GX)
    value, dx, _ = run((weight if of_weight else activation)("ls_ternary"), x, g)
    v = per_row(x, ternary_level) / 2
    rest = x - v * sgn(x)
    same(value, np.where(np.abs(x) > v, 2 * v * np.sign(x), 0))
    same(dx, g * (v * inside(x) + v * inside(rest) * (1 - v * inside(x))))


def squared_error(name: str, x: Array) -> float:
    return float(((run(activation(name), x, GX)[0] - x) ** 2).sum())


def test_more_levels_and_better_scales_lower_the_error() -> None:
    errors = {name: squared_error(name, X) for name in ("ls1", "ls_ternary", "greedy", "ls2")}
    assert errors["ls2"] < errors["greedy"] < errors["ls1"]
    assert errors["ls2"] < errors["ls_ternary"] < errors["ls1"]


def test_sampled_scales_are_nearly_the_best() -> None:
    rows = torch.randn(4, 30000, generator=torch.Generator().manual_seed(0))
    magnitudes = rows.abs()

    def error(v1: torch.Tensor, v2: torch.Tensor) -> float:
        levels = torch.where(magnitudes > v1[:, None], (v1 + v2)[:, None], (v1 - v2)[:, None])
        return float((magnitudes - levels).square().mean())

    exact, sampled = error(*best_two_bases(rows)), error(*best_two_bases(rows, 2048))
    assert exact <= sampled < 1.005 * exact  # a 15th of the values decides the split, all of them the means
    exact, sampled = (error(a / 2, a / 2) for a in (best_ternary(rows), best_ternary(rows, 2048)))
    assert exact <= sampled < 1.005 * exact


def test_single_and_equal_values() -> None:
    assert [v.tolist() for v in best_two_bases(torch.tensor([[-2.0]]))] == [[2.0], [0.0]]
    assert best_ternary(torch.tensor([[-2.0], [0.0]])).tolist() == [2.0, 0.0]
    v1, v2 = best_two_bases(torch.full((1, 5000), 3.0), 100)
    assert (v1.item(), v2.item()) == (3.0, 0.0)
    assert best_ternary(torch.zeros(1, 5000), 100).item() == 0


def nearest_level(x: Array, basis: Array, digits: tuple[int, int]) -> tuple[Array, Array]:
    """The nearest of all vᵀe and its e, one by one; the lower level on a tie."""
    words = np.array(np.meshgrid(*[digits] * len(basis), indexing="ij")).reshape(len(basis), -1).T
    levels = words @ basis
    words, levels = words[np.argsort(levels)], np.sort(levels)
    place = np.abs(x[..., None] - levels).argmin(axis=-1)
    return levels[place], words[place]


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 3])
def test_lq_activations(bits: int, unsigned: bool) -> None:
    binarizer = activation("lq_net", bits=bits, unsigned=unsigned).eval()
    basis = np.array([0.35, 0.61, 1.3])[:bits]
    binarizer.basis.copy_(torch.tensor(basis))
    digits = (0, 1) if unsigned else (-1, 1)
    value, dx, _ = run(binarizer, X, GX)
    level, _ = nearest_level(X, basis, digits)
    low, high = (0 if unsigned else -basis.sum()), basis.sum()
    same(value, level)
    same(dx, GX * ((low <= X) & (high >= X)))
    same(binarizer.basis.numpy(), basis)  # evaluation moves nothing


def test_lq_activations_follow_the_data_in_training_only() -> None:
    binarizer = activation("lq_net")
    before = binarizer.basis.numpy().copy()
    _, words = nearest_level(X, before, (-1, 1))
    fitted = np.linalg.lstsq(words.reshape(-1, 2).astype(float), X.ravel(), rcond=None)[0]
    binarizer(torch.tensor(X))
    moved = binarizer.basis.numpy().copy()
    np.testing.assert_allclose(moved, 0.9 * before + 0.1 * fitted, atol=1e-4)  # the ridge
    binarizer.track_running_stats = False
    binarizer(torch.tensor(X))
    same(binarizer.basis.numpy(), moved)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_lq_weights_are_coded_filter_by_filter(bits: int) -> None:
    binarizer = weight("lq_net", bits=bits)
    binarizer.initialise(torch.nn.Parameter(torch.tensor(W)))
    basis = binarizer.basis.numpy().copy()
    value, dw, _ = run(binarizer, W, GW)
    for f in range(len(W)):
        same(value[f], nearest_level(W[f], basis[f], (-1, 1))[0])
    same(dw, GW)
    moved = torch.nn.Parameter(torch.tensor(W * 1.5))
    binarizer.after_step(moved)
    for f in range(len(W)):
        _, words = nearest_level(1.5 * W[f], basis[f], (-1, 1))
        fitted = np.linalg.lstsq(words.reshape(-1, bits).astype(float), 1.5 * W[f].ravel(), rcond=None)[0]
        expected = 0.9 * basis[f] + 0.1 * fitted
        np.testing.assert_allclose(binarizer.basis[f].numpy(), expected, atol=2e-3)  # the ridge


def test_lq_learns_the_levels_that_the_weights_have() -> None:
    exact = np.random.default_rng(5).choice([-1.3, -0.5, 0.5, 1.3], size=(3, 200, 1, 1))
    binarizer = WEIGHT_BINARIZERS["lq_net"](torch.Size(exact.shape)).double()
    parameter = torch.nn.Parameter(torch.tensor(exact))
    binarizer.initialise(parameter)
    for _ in range(100):
        binarizer.after_step(parameter)
    np.testing.assert_allclose(total(binarizer(parameter), True).detach().numpy(), exact, atol=1e-3)  # ridge


@pytest.mark.parametrize("name", ["abc_net", "ls1", "ls2", "ls_ternary", "greedy"])
def test_weights_scale_with_their_latent_weight(name: str) -> None:
    value, _, _ = run(weight(name), W, GW)
    scaled, _, _ = run(weight(name), 4 * W, GW)
    same(scaled, 4 * value)


@pytest.mark.parametrize("name", ["horq", "ls1", "ls2", "ls_ternary", "greedy"])
def test_activations_scale_image_by_image(name: str) -> None:
    value, _, _ = run(activation(name), X, GX)
    factor = np.array([0.5, 8.0]).reshape(2, 1, 1, 1)
    scaled, _, _ = run(activation(name), factor * X, GX)
    same(scaled, factor * value)


@pytest.mark.parametrize("name", ["abc_net"])
def test_scales_have_the_derivative_of_the_value(name: str) -> None:
    binarizer = activation(name)
    _, _, learned = run(binarizer, X, GX)
    with torch.no_grad():
        for i in range(3):
            sums = []
            for step in (1e-3, -2e-3):
                binarizer.beta[i] += step
                sums.append(float((total(binarizer(torch.tensor(X)), False).numpy() * GX).sum()))
            binarizer.beta[i] += 1e-3
            np.testing.assert_allclose((sums[0] - sums[1]) / 2e-3, learned["beta"][i], rtol=1e-8)


PAIRS = [(a, WEIGHTS[i % len(WEIGHTS)]) for i, a in enumerate(ACTIVATIONS)]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_a_layer_convolves_what_the_bases_stand_for(names: tuple[str, str], groups: int) -> None:
    binarization = Binarization.model_validate(
        {"activation": {"name": names[0]}, "weight": {"name": names[1]}}
    )
    torch.manual_seed(0)
    layer = BinaryConv2d(
        4, 6, 3, stride=2, padding=1, dilation=2, groups=groups, binarizations=[binarization]
    )
    layer = layer.double().eval()
    x = torch.randn(2, 4, 9, 7, dtype=torch.float64)
    with torch.no_grad():
        inputs = total(layer.activation_binarizer(x), False)
        kernel = total(layer.weight_binarizer(layer.weight), True)
        torch.testing.assert_close(layer(x), F.conv2d(inputs, kernel, None, 2, 1, 2, groups))


@pytest.mark.parametrize("name", ["abc_net", "rebnet", "horq", "greedy"])
@pytest.mark.parametrize("bases", [0, 9, 1.5, True, "two"])
def test_impossible_numbers_of_bases_are_told(name: str, bases: Any) -> None:
    with pytest.raises(UserError, match=f"'{name}': bases {bases!r} is no integer from 1 to 8"):
        ACTIVATION_BINARIZERS[name](3, bases=bases)


@pytest.mark.parametrize("name", WEIGHTS)
def test_autocast_changes_no_weight(name: str) -> None:
    binarizer = WEIGHT_BINARIZERS[name](torch.Size(W.shape))
    latent = torch.nn.Parameter(torch.tensor(W, dtype=torch.float32))
    binarizer.initialise(latent)
    plain = total(binarizer(latent), True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(total(binarizer(latent), True), plain)
        binarizer.after_step(latent)
    assert all(value.isfinite().all() for value in binarizer.state_dict().values())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_take_16_bits(name: str) -> None:
    x = torch.tensor(X, dtype=torch.bfloat16)
    plain = total(ACTIVATION_BINARIZERS[name](3)(x.float()), False)
    leaf = x.clone().requires_grad_()
    binarizer = ACTIVATION_BINARIZERS[name](3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        bases = binarizer(leaf)
        value = total([(codes, s) for codes, s in bases], False)
    value.float().square().sum().backward()
    assert leaf.grad is not None and leaf.grad.isfinite().all()
    assert all(set(codes.detach().float().unique().tolist()) <= set(binarizer.levels) for codes, _ in bases)
    # at most a few values lie so near a threshold that rounding to 8 bits carries them over
    assert ((value.float() - plain).abs() < 0.02).float().mean() > 0.9
