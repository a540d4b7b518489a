"""Sign estimators: forward and gradient of each against closed forms written here in NumPy float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from binas.binarize import (
    ACTIVATION_BINARIZERS,
    WEIGHT_BINARIZERS,
    ActivationBinarizer,
    Binarization,
    BinarizerSpec,
    BinaryConv2d,
    WeightBinarizer,
    set_progress,
)
from binas.binarize.schemes.bnn_plus import bnn_plus_penalty
from binas.errors import UserError
from binas.train.binary_check import check_network, real_layers

Array = NDArray[np.float64]
Options = dict[str, object]
Slope = Callable[[Array], Array]

POINTS = np.array([-1.5, -1.0, -0.3, -0.0, 0.0, 0.3, 1.0, 1.5])
SIGNS = np.array([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0, 1.0])  # sign(±0) = +1
UPSTREAM = np.array([1.0, -2.0, 0.5, 3.0, -0.25, 1.75, -1.0, 2.0])


def window(half_width: float) -> Slope:
    return lambda x: np.where(np.abs(x) <= half_width, 1.0, 0.0)


def ones(x: Array) -> Array:
    return np.ones_like(x)


def polynomial(x: Array) -> Array:
    # the two halves of Bi-Real's paper, as it prints them
    return np.where((x >= -1) & (x < 0), 2 + 2 * x, np.where((x >= 0) & (x < 1), 2 - 2 * x, 0.0))


def swish(beta: float) -> Slope:
    def slope(x: Array) -> Array:
        return beta * (2 - beta * x * np.tanh(beta * x / 2)) / (1 + np.cosh(beta * x))

    return slope


def ede(start: float, end: float, progress: float) -> Slope:
    t = start ** (1 - progress) * end**progress  # a geometric mean is the log-linear schedule
    return lambda x: max(1 / t, 1) * t / np.cosh(t * x) ** 2  # 1 − tanh² = 1/cosh²


def tanh_slope(sharpness: float) -> Slope:
    # 1/cosh² without overflow: 4 e^(−2|z|) / (1 + e^(−2|z|))²
    def slope(x: Array) -> Array:
        small = np.exp(-2 * np.abs(sharpness * x))
        return sharpness * 4 * small / (1 + small) ** 2

    return slope


def triangle(x: Array) -> Array:
    return np.where(np.abs(x) < 1, 1 - np.abs(x), 0.0)


# name, options, progress, dy/dx; forward is the sign for all but the spike
TABLE: list[tuple[str, Options, float, Slope]] = [
    ("ste", {}, 0, ones),
    ("sign", {}, 0, window(1)),
    ("sign", {"window": 1.0}, 0, window(1)),
    ("sign", {"window": 1.25}, 0, window(1.25)),
    ("sign", {"window": 1.3}, 0, window(1.3)),
    ("sign", {"window": 0.25}, 0, window(0.25)),
    ("sign", {"window": 1.5}, 0, ones),
    ("sign", {"window": None}, 0, ones),
    ("hard_tanh", {}, 0, window(1)),
    ("approx_sign", {}, 0, polynomial),
    ("swish_sign", {}, 0, swish(5)),
    ("swish_sign", {"beta": 10.0}, 0, swish(10)),
    ("ede", {}, 0, ede(0.1, 10, 0)),
    ("ede", {}, 0.5, ede(0.1, 10, 0.5)),
    ("ede", {}, 1, ede(0.1, 10, 1)),
    ("ede", {"start": 0.001, "end": 4}, 0.25, ede(0.001, 4, 0.25)),
    ("rsign", {}, 0, polynomial),
    ("spike", {}, 0, triangle),
]


def readable(value: object) -> str:
    """What names a row of the table."""
    return "" if callable(value) else str(value)


def activation(name: str, options: Options | None = None, progress: float = 0.0) -> ActivationBinarizer:
    binarizer = ACTIVATION_BINARIZERS[name](8, **(options or {})).double()
    binarizer.progress = progress
    return binarizer


def pass_points(binarizer: ActivationBinarizer) -> tuple[Array, Array]:
    """Codes at the points and their gradient for the fixed upstream gradient."""
    x = torch.tensor(POINTS.reshape(1, 8, 1, 1), requires_grad=True)
    [(codes, scale)] = binarizer(x)
    assert scale is None and codes.dtype == torch.float64 and codes.shape == x.shape
    codes.backward(torch.tensor(UPSTREAM.reshape(1, 8, 1, 1)))
    assert x.grad is not None
    return codes.detach().numpy().reshape(-1), x.grad.numpy().reshape(-1)


@pytest.mark.parametrize(("name", "options", "progress", "slope"), TABLE, ids=readable)
def test_forward_and_gradient(name: str, options: Options, progress: float, slope: Slope) -> None:
    binarizer = activation(name, options, progress)
    codes, gradient = pass_points(binarizer)
    assert np.array_equal(codes, np.where(SIGNS > 0, 1.0, 0.0) if name == "spike" else SIGNS)
    # a few roundings of exp, tanh and cosh
    np.testing.assert_allclose(gradient, UPSTREAM * slope(POINTS), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("name", "options", "progress", "slope"), TABLE, ids=readable)
def test_evaluation_computes_the_same(name: str, options: Options, progress: float, slope: Slope) -> None:
    binarizer = activation(name, options, progress)
    trained, evaluated = pass_points(binarizer), pass_points(binarizer.eval())
    assert all(np.array_equal(one, other) for one, other in zip(trained, evaluated, strict=True))


NAMES = ["ste", "sign", "hard_tanh", "approx_sign", "swish_sign", "ede", "tanh_sign", "stochastic_sign"]
NAMES += ["rsign", "spike"]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", NAMES)
def test_codes_are_the_declared_levels(name: str, training: bool) -> None:
    x = torch.cat([torch.randn(2, 5, 7, 3), torch.zeros(2, 5, 7, 3), -torch.zeros(2, 5, 7, 3)])
    for options in activation(name).variants:
        binarizer = ACTIVATION_BINARIZERS[name](5, **options).train(training)
        [(codes, _)] = binarizer(x)
        assert codes.shape == x.shape and codes.dtype == x.dtype and binarizer.bits == 1
        if not (training and binarizer.smooth_in_training):
            assert set(codes.unique().tolist()) == set(map(float, binarizer.levels))


@pytest.mark.parametrize("name", NAMES)
def test_huge_inputs_give_finite_gradients(name: str) -> None:
    x = torch.tensor([1e30, -1e30, 90.0, -90.0]).reshape(1, 4, 1, 1).requires_grad_()
    [(codes, _)] = ACTIVATION_BINARIZERS[name](4)(x)
    codes.sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("tanh_sign", "stochastic_sign", "rsign")])
def test_shared_by_edges_means_no_state(name: str) -> None:
    binarizer = activation(name)
    assert binarizer.same_for_all_edges and not list(binarizer.state_dict())


@pytest.mark.parametrize("name", ["tanh_sign", "stochastic_sign", "rsign", "dsq"])
def test_what_differs_between_edges_says_so(name: str) -> None:
    assert not activation(name).same_for_all_edges


# --- annealed


def surrogate_of_ede(progress: float, x: Array) -> Array:
    t = 0.1 * 100**progress
    return max(1 / t, 1) * np.tanh(t * x)


def test_ede_sharpens_from_linear_to_sign() -> None:
    x = np.array([-1.0, -0.5, 0.5, 1.0])
    np.testing.assert_allclose(surrogate_of_ede(0, x), x, rtol=4e-3)
    np.testing.assert_allclose(surrogate_of_ede(1, x), np.sign(x), atol=1e-4)
    half = 1e-6
    for progress in (0.0, 0.5, 1.0):
        points = torch.tensor(x.reshape(1, 4, 1, 1), requires_grad=True)
        binarizer = activation("ede", progress=progress)
        assert binarizer.annealed
        binarizer(points)[0][0].sum().backward()
        rise = surrogate_of_ede(progress, x + half) - surrogate_of_ede(progress, x - half)
        assert points.grad is not None
        # central differences: 1e-12 of curvature, 1e-10 of rounding
        np.testing.assert_allclose(points.grad.numpy().reshape(-1), rise / (2 * half), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("progress", "sharpness"), [(0.0, 1.0), (0.5, 30**0.5), (0.99, 30**0.99)])
def test_self_binarizing_values_and_exact_gradient(progress: float, sharpness: float) -> None:
    values, gradient = pass_points(activation("tanh_sign", progress=progress))
    np.testing.assert_allclose(values, np.tanh(sharpness * POINTS), rtol=1e-13)
    # 1 − tanh² loses digits where tanh is nearly 1
    np.testing.assert_allclose(gradient, UPSTREAM * tanh_slope(sharpness)(POINTS), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_self_binarizing_is_the_sign_at_the_end_and_in_evaluation(progress: float, training: bool) -> None:
    weights = WEIGHT_BINARIZERS["self_binarizing"](torch.Size([2, 4, 1, 1]))
    weights.progress = progress
    activations = activation("tanh_sign", {"end": 1000}, progress)
    both: list[ActivationBinarizer | WeightBinarizer] = [activations, weights]
    for binarizer in both:
        binarizer.train(training)
        x = torch.tensor(POINTS.reshape(2, 4, 1, 1), requires_grad=True)
        [(codes, scale)] = binarizer(x)
        expected = SIGNS if progress == 1 or not training else np.tanh(1000**progress * POINTS)
        np.testing.assert_allclose(codes.detach().numpy().reshape(-1), expected, rtol=1e-13)
        codes.backward(torch.tensor(UPSTREAM.reshape(2, 4, 1, 1)))
        assert scale is None and x.grad is not None
        wanted = UPSTREAM * tanh_slope(1000**progress)(POINTS)
        np.testing.assert_allclose(x.grad.numpy().reshape(-1), wanted, rtol=1e-9, atol=1e-12)


def test_self_binarizing_converges_to_sign() -> None:
    x = torch.linspace(-1, 1, 101, dtype=torch.float64).reshape(1, 101, 1, 1)
    errors = []
    for progress in (0.0, 0.5, 1.0):
        [(codes, _)] = activation("tanh_sign", progress=progress)(x)
        errors.append(float((codes - torch.where(x >= 0, 1.0, -1.0)).abs().mean()))
    assert errors[0] > 0.4 > errors[1] > errors[2] == 0


def test_progress_reaches_annealed_binarizers_of_a_layer() -> None:
    spec = Binarization(
        activation=BinarizerSpec(name="tanh_sign"), weight=BinarizerSpec(name="self_binarizing")
    )
    conv = BinaryConv2d(3, 4, 3, binarizations=[spec])
    x = torch.randn(1, 3, 6, 6)
    first = conv(x)
    set_progress(conv, 1.0)
    last = conv(x)
    assert torch.equal(last, last.round()) and not torch.equal(first, first.round())
    assert torch.equal(conv.eval()(x), last)


# --- stochastic


@pytest.mark.parametrize("value", [-1.5, -1.0, -0.5, -0.0, 0.3, 1.0, 1.5])
def test_stochastic_sign_draws_with_the_hard_sigmoid(value: float) -> None:
    torch.manual_seed(3)
    [(codes, _)] = activation("stochastic_sign")(torch.full((1, 8, 50, 50), value, dtype=torch.float64))
    mean = min(max(value, -1), 1)
    # four standard errors of 20,000 draws; 0 where the draw is certain
    assert abs(float(codes.mean()) - mean) <= 4 * ((1 - mean**2) / 20_000) ** 0.5
    assert set(codes.unique().tolist()) <= {-1.0, 1.0}


def test_stochastic_sign_gradient_seed_and_evaluation() -> None:
    binarizer = activation("stochastic_sign")
    torch.manual_seed(1)
    first, gradient = pass_points(binarizer)
    np.testing.assert_array_equal(gradient, UPSTREAM * window(1)(POINTS))
    others = [pass_points(binarizer)[0] for _ in range(8)]
    assert any(not np.array_equal(first, other) for other in others)
    torch.manual_seed(1)
    assert np.array_equal(pass_points(binarizer)[0], first)
    state = torch.get_rng_state()
    codes, gradient = pass_points(binarizer.eval())
    assert np.array_equal(codes, SIGNS) and torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(gradient, UPSTREAM * window(1)(POINTS))


# --- learned thresholds


def test_rsign_thresholds_move_codes_and_get_minus_the_gradient() -> None:
    binarizer = ACTIVATION_BINARIZERS["rsign"](3).double()
    thresholds = np.array([0.5, -0.25, 0.0])
    binarizer.load_state_dict({"threshold": torch.tensor(thresholds)})
    random = np.random.default_rng(0)
    values, upstream = random.normal(size=(2, 3, 5, 5)), random.normal(size=(2, 3, 5, 5))
    values[0, :, 0, 0] = thresholds  # exactly at the threshold: +1
    x = torch.tensor(values, requires_grad=True)
    [(codes, scale)] = binarizer(x)
    distance = values - thresholds.reshape(1, 3, 1, 1)
    assert scale is None and np.array_equal(codes.detach().numpy(), np.where(distance >= 0, 1.0, -1.0))
    codes.backward(torch.tensor(upstream))
    threshold = binarizer.get_parameter("threshold")
    assert x.grad is not None and threshold.grad is not None
    expected = upstream * polynomial(distance)
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(threshold.grad.numpy(), -expected.sum(axis=(0, 2, 3)), rtol=1e-12)


@pytest.mark.parametrize("shift", [-2.0, 0.125, 3.0])
def test_rsign_does_not_see_a_common_shift(shift: float) -> None:
    binarizer = activation("rsign")
    before, gradient = pass_points(binarizer)
    binarizer.get_parameter("threshold").data.fill_(shift)
    x = torch.tensor((POINTS + shift).reshape(1, 8, 1, 1), requires_grad=True)
    [(codes, _)] = binarizer(x)
    codes.backward(torch.tensor(UPSTREAM.reshape(1, 8, 1, 1)))
    assert np.array_equal(codes.detach().numpy().reshape(-1), before) and x.grad is not None
    # x + shift − shift is not always x
    np.testing.assert_allclose(x.grad.numpy().reshape(-1), gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("factor", [0.01, 7.0, 1e6])
@pytest.mark.parametrize("name", NAMES)
def test_evaluated_codes_do_not_see_positive_rescaling(name: str, factor: float) -> None:
    binarizer = activation(name).eval()
    x = torch.randn(3, 8, 4, 4, dtype=torch.float64)
    assert torch.equal(binarizer(x)[0][0], binarizer(x * factor)[0][0])


# --- what `binas check` sees


@pytest.mark.parametrize(("name", "adds"), [("spike", False), ("sign", True), ("tanh_sign", True)])
def test_zero_padding_adds_a_value_unless_it_is_a_level(name: str, adds: bool) -> None:
    spec = Binarization(activation=BinarizerSpec(name=name))
    layer = BinaryConv2d(3, 4, 3, padding=1, binarizations=[spec])
    [report] = check_network(torch.nn.Sequential(layer), torch.randn(2, 3, 6, 6))
    assert report.is_binary and report.pads_with_zero == adds
    assert report.input_values == ({0, 1} if name == "spike" else {-1, 1})


def test_learned_parts_of_binarizers_are_told_apart_from_layers() -> None:
    spec = Binarization(activation=BinarizerSpec(name="rsign"), weight=BinarizerSpec(name="dsq"))
    rows = real_layers(torch.nn.Sequential(BinaryConv2d(3, 4, 3, binarizations=[spec]), torch.nn.ReLU()))
    assert [(kind, count) for _, kind, count, _ in rows] == [("RSign", 3), ("SoftInterval", 2)]
    assert all("binarizer has learned" in why for *_, why in rows)


# --- the BNN+ penalty


@pytest.mark.parametrize("norm", ["manhattan", "euclidean"])
@pytest.mark.parametrize("scale_shape", [(), (3,), (3, 1, 1)], ids=str)
def test_bnn_plus_penalty_and_its_derivatives(norm: str, scale_shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(2)
    weight, alpha = random.normal(size=(3, 2, 2, 2)), random.uniform(0.5, 1, size=scale_shape)
    weight[0, 0, 0] = [0.0, -0.0]
    w = torch.tensor(weight, requires_grad=True)
    scale = torch.tensor(alpha, requires_grad=True)
    penalty = bnn_plus_penalty(w, scale, norm)  # type: ignore[arg-type]
    each = np.broadcast_to(alpha.reshape(-1, 1, 1, 1), (3, 1, 1, 1))
    difference = np.abs(weight) - each
    total = np.abs(difference).sum() if norm == "manhattan" else (difference**2).sum()
    assert penalty.shape == () and np.isclose(penalty.item(), total, rtol=1e-13)
    penalty.backward()
    outer = np.sign(difference) if norm == "manhattan" else 2 * difference
    assert w.grad is not None and scale.grad is not None
    np.testing.assert_allclose(w.grad.numpy(), outer * np.where(weight >= 0, 1, -1), rtol=1e-13)
    by_filter = -outer.sum(axis=(1, 2, 3))
    expected = by_filter.sum() if scale_shape == () else by_filter.reshape(scale_shape)
    np.testing.assert_allclose(scale.grad.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("norm", ["manhattan", "euclidean"])
def test_bnn_plus_penalty_without_scale_takes_the_best_one(norm: str) -> None:
    weight = torch.tensor(np.random.default_rng(4).normal(size=(3, 2, 3, 3)))
    free = bnn_plus_penalty(weight, None, norm)  # type: ignore[arg-type]
    for alpha in np.linspace(0, 3, 61):
        fixed = bnn_plus_penalty(weight, torch.tensor(alpha), norm)  # type: ignore[arg-type]
        assert free.item() <= fixed.item() + 1e-12
    assert bnn_plus_penalty(torch.tensor([[0.5, -0.5], [-2.0, 2.0]])).item() == 0


def test_bnn_plus_penalty_pulls_weights_to_two_values() -> None:
    weight = torch.tensor(np.random.default_rng(5).normal(size=(2, 3, 3, 3)), requires_grad=True)
    signs = torch.where(weight.detach() >= 0, 1.0, -1.0)
    before = weight.detach().abs().flatten(1).std(dim=1)
    for _ in range(50):
        (gradient,) = torch.autograd.grad(bnn_plus_penalty(weight, norm="euclidean"), weight)
        weight.data.sub_(0.1 * gradient)
    assert bool((weight.detach().abs().flatten(1).std(dim=1) < 1e-3 * before).all())
    assert torch.equal(torch.where(weight.detach() >= 0, 1.0, -1.0), signs)


# --- options


@pytest.mark.parametrize(
    ("kind", "name", "options", "message"),
    [
        ("activation", "sign", {"window": 0.0}, "window"),
        ("activation", "sign", {"window": -1.0}, "window"),
        ("activation", "sign", {"window": float("nan")}, "window"),
        ("activation", "sign", {"window": "wide"}, "window"),
        ("activation", "swish_sign", {"beta": 0}, "beta"),
        ("activation", "swish_sign", {"beta": True}, "beta"),
        ("activation", "ede", {"start": -1}, "start"),
        ("activation", "ede", {"start": 2, "end": 1}, "end 1 is below start 2"),
        ("activation", "tanh_sign", {"end": 0.5}, "end 0.5 is below start 1"),
        ("weight", "self_binarizing", {"start": float("inf")}, "start"),
    ],
    ids=str,
)
def test_mistaken_options_are_told(kind: str, name: str, options: Options, message: str) -> None:
    spec = {kind: {"name": name, **options}}
    binarization = Binarization.model_validate(spec)
    with pytest.raises(UserError, match=message):
        if kind == "activation":
            binarization.build_activation(4)
        else:
            binarization.build_weight(torch.Size([2, 4, 3, 3]))
