"""DSQ at one bit and several: levels, soft gradient, learned interval, against NumPy float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from binas.binarize import ACTIVATION_BINARIZERS, WEIGHT_BINARIZERS, Binarization, BinarizerSpec, BinaryConv2d
from binas.errors import UserError

Array = NDArray[np.float64]

POINTS = np.array([-1.5, -1.0, -0.3, -0.0, 0.0, 0.3, 0.77, 1.0, 1.5])
UPSTREAM = np.array([1.0, -2.0, 0.5, 3.0, -0.25, 1.75, -1.0, 2.0, 0.6])
Row = tuple[int, float, float, float]
ROWS: list[Row] = [  # bits, lower, upper, α
    (1, -1.1, 1.1, 0.2),
    (1, -0.7, 0.7, 0.4),
    (2, -1.2, 1.2, 0.2),
    (3, -0.9, 0.9, 0.05),
    (8, -1.3, 1.3, 0.3),
    (1, -0.4, 1.3, 0.2),
    (2, -0.5, 1.17, 0.1),
    (4, 0.13, 1.41, 0.3),
]


def part(x: float, bits: int, lower: float, upper: float) -> int:
    """Which part of the interval holds x, as the paper counts them."""
    delta = (upper - lower) / (2**bits - 1)
    return min(max(int(np.floor((x - lower) / delta)), 0), 2**bits - 2)


def soft_code(x: float, i: int, bits: int, lower: float, upper: float, alpha: float) -> float:
    """2i + φ(x) shifted to the odd integers, with the paper's k and s; outside the interval its ends."""
    n = 2**bits - 1
    if x < lower or x > upper:
        return -n if x < lower else n
    delta = (upper - lower) / n
    k, s = np.log(2 / alpha - 1) / delta, 1 / (1 - alpha)
    return float(2 * i + 1 - n + s * np.tanh(k * (x - (lower + (i + 0.5) * delta))))


def hard_value(x: float, bits: int, lower: float, upper: float) -> float:
    """The level nearest to x in the interval, the upper one of two equally near."""
    n = 2**bits - 1
    levels = [lower + j * (upper - lower) / n for j in range(n + 1)]
    inside = min(max(x, lower), upper)
    return max(levels, key=lambda level: (-round(abs(level - inside), 12), level))


def build(row: Row, weight: bool = False) -> torch.nn.Module:
    bits, lower, upper, alpha = row
    symmetric = lower == -upper
    options: dict[str, object] = {"bits": bits, "alpha": alpha, "bound": upper, "symmetric": symmetric}
    made = WEIGHT_BINARIZERS["dsq"](torch.Size([9, 1, 1, 1]), **options) if weight else None
    binarizer = (made or ACTIVATION_BINARIZERS["dsq"](9, **options)).double()
    with torch.no_grad():  # float64 values that float32 cannot hold
        binarizer.get_parameter("interval.upper").fill_(upper)
        binarizer.get_parameter("interval.alpha").fill_(alpha)
        if not symmetric:
            binarizer.get_parameter("interval.lower").fill_(lower)
    return binarizer


def value(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.stack([codes * scale for codes, scale in pairs]).sum(dim=0)


@pytest.mark.parametrize("weight", [False, True], ids=["activation", "weight"])
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_forward(row: Row, weight: bool) -> None:
    bits, lower, upper, _ = row
    binarizer = build(row, weight)
    pairs = binarizer(torch.tensor(POINTS.reshape(9, 1, 1, 1)))
    assert binarizer.bits == bits and binarizer.num_bases == len(pairs) == (1 if lower == -upper else 2)
    for codes, scale in pairs:
        assert scale.shape == () and float(scale.detach()) == scale.item()
        assert set(codes.flatten().tolist()) <= set(map(float, binarizer.levels))
    expected = [hard_value(x, bits, lower, upper) for x in POINTS]
    np.testing.assert_allclose(value(pairs).detach().numpy().reshape(-1), expected, rtol=1e-12)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_gradients(row: Row) -> None:
    bits, lower, upper, alpha = row
    binarizer = build(row)
    x = torch.tensor(POINTS.reshape(1, 9, 1, 1), requires_grad=True)
    value(binarizer(x)).backward(torch.tensor(UPSTREAM.reshape(1, 9, 1, 1)))
    places = [part(p, bits, lower, upper) for p in POINTS]

    def surrogate(x: Array, lower: float, upper: float, alpha: float) -> Array:
        """c + Δ/2·q with the hard q as a factor of Δ, and the soft q where q depends on what moves."""
        step = (row[2] - row[1]) / (2**bits - 1)
        hard = [(hard_value(p, *row[:3]) - (row[1] + row[2]) / 2) / (step / 2) for p in POINTS]
        soft = [soft_code(p, i, bits, lower, upper, alpha) for p, i in zip(x, places, strict=True)]
        moved = (upper - lower) / (2**bits - 1)
        return (lower + upper) / 2 + np.array(hard) * moved / 2 + np.array(soft) * step / 2

    def derivative(by: int | None) -> Array:
        """Central differences, in x or in one of l, u and α."""
        moves = [np.zeros(3), np.zeros(3)] if by is None else [np.eye(3)[by] * h for h in (1e-6, -1e-6)]
        points = [POINTS + 1e-6, POINTS - 1e-6] if by is None else [POINTS, POINTS]
        up, down = (
            surrogate(x, *(np.array([lower, upper, alpha]) + move))
            for x, move in zip(points, moves, strict=True)
        )
        return np.asarray((up - down) / 2e-6)

    assert x.grad is not None
    # central differences: about 1e-10 of rounding, and the cube of a steep k times 1e-12
    np.testing.assert_allclose(x.grad.numpy().reshape(-1), UPSTREAM * derivative(None), rtol=1e-6, atol=1e-8)
    by_lower, by_upper, by_alpha = derivative(0), derivative(1), derivative(2)
    expected = {"upper": by_upper, "lower": by_lower, "alpha": by_alpha}
    if lower == -upper:
        expected = {"upper": by_upper - by_lower, "alpha": by_alpha}
    for name, derivatives in expected.items():
        found = binarizer.get_parameter(f"interval.{name}").grad
        assert found is not None
        np.testing.assert_allclose(found.item(), (UPSTREAM * derivatives).sum(), rtol=1e-6, atol=1e-7)


def test_beyond_the_interval_bounds_learn_and_inputs_do_not() -> None:
    binarizer = build((2, -0.5, 0.75, 0.2))
    x = torch.tensor([[-3.0], [2.0], [2.5]], dtype=torch.float64, requires_grad=True)
    value(binarizer(x)).backward(torch.tensor([[1.0], [10.0], [100.0]], dtype=torch.float64))
    assert x.grad is not None and torch.equal(x.grad, torch.zeros_like(x))
    for name, expected in (("upper", 110.0), ("lower", 1.0), ("alpha", 0.0)):
        found = binarizer.get_parameter(f"interval.{name}").grad
        assert found is not None and found.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("alpha", [0.45, 0.2, 0.02])
def test_a_smaller_alpha_is_nearer_to_the_sign(alpha: float) -> None:
    x = np.linspace(-1, 1, 201)
    soft = np.array([soft_code(p, 0, 1, -1, 1, alpha) for p in x])
    blunter = np.array([soft_code(p, 0, 1, -1, 1, alpha + 0.04) for p in x])
    hard = np.where(x >= 0, 1, -1)
    assert np.abs(soft - hard).mean() < np.abs(blunter - hard).mean()
    binarizer = build((1, -1, 1, alpha))
    points = torch.tensor(x.reshape(1, 201), requires_grad=True)
    value(binarizer(points)).sum().backward()
    assert points.grad is not None
    # the area under the slope, by the trapezium rule, is the rise from −1 to 1
    assert float(torch.trapezoid(points.grad[0], dx=0.01)) == pytest.approx(2, rel=0.02)


def test_sign_of_tiny_inputs_is_exact_at_one_bit() -> None:
    x = torch.tensor([[1e-30, -1e-30, 0.0, -0.0]])
    [(codes, scale)] = ACTIVATION_BINARIZERS["dsq"](4)(x)
    assert codes.tolist() == [[1, -1, 1, 1]] and scale is not None and scale.item() == 1


@pytest.mark.parametrize("factor", [0.01, 50.0])
def test_rescaling_weight_and_interval_alike_changes_no_code(factor: float) -> None:
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    made = [WEIGHT_BINARIZERS["dsq"](weight.shape, bits=3).double() for _ in range(2)]
    with torch.no_grad():
        for binarizer, latent in zip(made, (weight, weight * factor), strict=True):
            binarizer.initialise(torch.nn.Parameter(latent))
    [(codes, scale)], [(others, scaled)] = made[0](weight), made[1](weight * factor)
    assert torch.equal(codes, others) and scale is not None and scaled is not None
    assert scaled.item() == pytest.approx(scale.item() * factor)
    assert int(codes.abs().max()) == 7, "the interval starts at the largest magnitude"


def test_parameters_out_of_bounds_still_learn_their_way_back() -> None:
    binarizer = ACTIVATION_BINARIZERS["dsq"](4, symmetric=False)
    with torch.no_grad():
        for name, number in (("upper", -1.0), ("lower", 1.0), ("alpha", 0.9)):
            binarizer.get_parameter(f"interval.{name}").fill_(number)
    pairs = binarizer(torch.randn(5, 4))
    assert all(bool(codes.isfinite().all()) for codes, _ in pairs)
    value(pairs).square().sum().backward()
    for parameter in binarizer.parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite())
    (_, scale), _ = pairs
    assert scale is not None and scale.item() > 0


@pytest.mark.parametrize("bits", [1, 2, 3])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_layer_learns_its_intervals(bits: int, symmetric: bool) -> None:
    options = {"name": "dsq", "bits": bits, "symmetric": symmetric}
    spec = BinarizerSpec.model_validate(options)
    torch.manual_seed(0)
    conv = BinaryConv2d(4, 6, 3, padding=1, binarizations=[Binarization(activation=spec, weight=spec)])
    x, target = torch.randn(8, 4, 6, 6), torch.randn(8, 6, 6, 6) * 0.1
    optimizer = torch.optim.Adam(conv.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        loss = (conv(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in conv.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 0}, "bits 0 is no integer from 1 to 8"),
        ({"bits": 9}, "bits 9"),
        ({"bits": 1.5}, "bits"),
        ({"alpha": 0.5}, "alpha"),
        ({"alpha": 0}, "alpha"),
        ({"bound": -1}, "bound"),
    ],
    ids=str,
)
def test_mistaken_options_are_told(options: dict[str, object], message: str) -> None:
    binarization = Binarization.model_validate(
        {"activation": {"name": "dsq", **options}, "weight": {"name": "dsq", **options}}
    )
    with pytest.raises(UserError, match=message):
        binarization.build_activation(4)
    with pytest.raises(UserError, match=message):
        binarization.build_weight(torch.Size([2, 4, 3, 3]))
