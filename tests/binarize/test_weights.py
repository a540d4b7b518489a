"""1-bit weight binarizers against closed forms written here in NumPy, and what leaves them as they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from binas.binarize import ACTIVATION_BINARIZERS, WEIGHT_BINARIZERS, Binarization, WeightBinarizer
from binas.binarize.contract import GRADIENT_QUANTIZERS
from binas.errors import UserError

Array = NDArray[np.float64]
Options = dict[str, object]

POINTS = np.array([-1.5, -1.0, -0.0, 0.0, 0.3, 1.0, 1.5])
TABLE = np.stack([POINTS, 0.5 * POINTS[::-1], POINTS[[3, 0, 6, 2, 4, 1, 5]]]).reshape(3, 7, 1, 1)
"""Three filters of these points; the second has others beside the window's edges."""


def signs(w: Array) -> Array:
    return np.where(w >= 0, 1.0, -1.0)


def mean_magnitude(w: Array) -> Array:
    return np.array([np.abs(one).mean() for one in w])


def each(scale: Array, w: Array) -> Array:
    """One number for each filter, in the place of all of its weights."""
    return np.broadcast_to(scale.reshape(-1, *[1] * (w.ndim - 1)), w.shape)


class Expected(NamedTuple):
    """What a closed form gives for a latent weight and the gradient of the binary weight."""

    codes: Array
    scale: Array
    gradient: Array


def plain(w: Array, g: Array) -> Expected:
    return Expected(signs(w), np.ones(len(w)), g)


def windowed(window: float) -> Callable[[Array, Array], Expected]:
    return lambda w, g: Expected(signs(w), np.ones(len(w)), g * (np.abs(w) <= window))


def glorot(w: Array, g: Array) -> Expected:
    kernel = int(np.prod(w.shape[2:]))
    limit = math.sqrt(1.5 / ((w.shape[0] + w.shape[1]) * kernel))
    return Expected(signs(w), np.full(len(w), limit), g)


def bwn_exact(w: Array, g: Array) -> Expected:
    alpha, gradient = mean_magnitude(w), np.empty_like(w)
    for f in range(len(w)):
        total = (signs(w[f]) * g[f]).sum()
        for place in np.ndindex(w[f].shape):
            inside = abs(w[f][place]) <= 1
            gradient[f][place] = alpha[f] * inside * g[f][place] + signs(w[f][place]) / w[f].size * total
    return Expected(signs(w), alpha, gradient)


def bwn_printed(w: Array, g: Array) -> Expected:
    alpha = mean_magnitude(w)
    return Expected(signs(w), alpha, g * (1 / w[0].size + each(alpha, w) * (np.abs(w) <= 1)))


def magnitude_aware(w: Array, g: Array) -> Expected:
    alpha = mean_magnitude(w)
    return Expected(signs(w), alpha, g * each(alpha, w) * (np.abs(w) < 1))


def react(w: Array, g: Array) -> Expected:
    return Expected(signs(w), mean_magnitude(w), g * (np.abs(w) <= 1))


def lab_at_first(w: Array, g: Array) -> Expected:
    return Expected(signs(w), np.full(len(w), np.abs(w).mean()), g)


def learned(w: Array, g: Array) -> Expected:
    """A scale of its own, which starts from the mean magnitude and is no function of w."""
    alpha = mean_magnitude(w)
    return Expected(signs(w), alpha, g * each(alpha, w) * (np.abs(w) <= 1))


def libra_at(progress: float) -> Callable[[Array, Array], Expected]:
    def expected(w: Array, g: Array) -> Expected:
        t = 10 ** (-1 + 2 * progress)
        k = max(1 / t, 1)
        n = w[0].size
        codes, scale, gradient = np.empty_like(w), np.empty(len(w)), np.empty_like(w)
        for f, one in enumerate(w):
            deviation = math.sqrt(((one - one.mean()) ** 2).sum() / (n - 1))
            balanced = (one - one.mean()) / deviation
            codes[f] = signs(balanced)
            scale[f] = 2.0 ** round(math.log2(np.abs(balanced).mean()))
            upstream = g[f] * scale[f] * k * t * (1 - np.tanh(t * balanced) ** 2)
            # d balanced_i / d w_j = (δ_ij − 1/n − balanced_i·balanced_j / (n − 1)) / deviation
            shared = (upstream * balanced).sum() * balanced / (n - 1)
            gradient[f] = (upstream - upstream.mean() - shared) / deviation
        return Expected(codes, scale, gradient)

    return expected


def circulant_by(rotations: int) -> Callable[[Array, Array], Expected]:
    def expected(w: Array, g: Array) -> Expected:
        tied = w.ndim == 4 and w.shape[2] > 1
        turned, gradient = w.copy(), np.zeros_like(w)
        for f in range(len(w) if tied else 0):
            turned[f] = clockwise(w[f - f % rotations], f % rotations, rotations)
        alpha = mean_magnitude(turned)
        slope = np.clip(2 - 2 * np.abs(turned), 0, None) * each(alpha, w) * g
        for f in range(len(w)):
            step = f % rotations if tied else 0
            gradient[f - step] += clockwise(slope[f], -step, rotations) if tied else slope[f]
        return Expected(signs(turned), alpha, gradient)

    return expected


def clockwise(kernel: Array, step: int, rotations: int) -> Array:
    """The kernels (I, k, k) turned; by 45° each ring moves along itself, in 3×3 by one place."""
    if 4 * step % rotations == 0:
        return np.rot90(kernel, -(4 * step // rotations), axes=(1, 2))
    result = kernel.copy()
    for inset in range(kernel.shape[1] // 2):
        low, high = inset, kernel.shape[1] - 1 - inset
        top = [(low, place) for place in range(low, high)]
        # the other three sides are the top, turned by 90° each time
        sides = [top, *[[] for _ in range(3)]]
        for number in range(3):
            sides[number + 1] = [(column, low + high - row) for row, column in sides[number]]
        ring = [place for side in sides for place in side]
        for place, (row, column) in enumerate(ring):
            old_row, old_column = ring[(place - step * len(ring) // rotations) % len(ring)]
            result[:, row, column] = kernel[:, old_row, old_column]
    return result


ROWS: list[tuple[str, Options, float, Callable[[Array, Array], Expected]]] = [
    ("binary_connect", {}, 0, plain),
    ("binary_connect", {"limit": "glorot", "rate": "glorot"}, 0, glorot),
    ("bnn", {}, 0, windowed(1)),
    ("bnn", {"window": 0.3}, 0, windowed(0.3)),
    ("bnn", {"window": None, "clip": None}, 0, plain),
    ("bwn", {}, 0, bwn_exact),
    ("bwn", {"gradient": "printed"}, 0, bwn_printed),
    ("magnitude_aware", {}, 0, magnitude_aware),
    ("react", {}, 0, react),
    ("lab", {}, 0, lab_at_first),
    ("xnor_plus_plus", {}, 0, learned),
    ("bwnh", {}, 0, learned),
    ("libra", {}, 0, libra_at(0)),
    ("libra", {}, 0.5, libra_at(0.5)),
    ("libra", {}, 1, libra_at(1)),
    ("circulant", {}, 0, circulant_by(4)),
    ("circulant", {"rotations": 2}, 0, circulant_by(2)),
    ("circulant", {"rotations": 8}, 0, circulant_by(8)),
]
NAMES = sorted({name for name, *_ in ROWS})
VARIANTS = [
    (name, options) for name in NAMES for options in getattr(WEIGHT_BINARIZERS[name], "variants", ({},))
]
SHAPES = [(3, 7, 1, 1), (5, 3, 3, 3), (2, 1, 5, 5), (9, 2, 3, 3), (4, 6)]


def built(name: str, options: Options, weight: torch.Tensor) -> WeightBinarizer:
    """A binarizer in double precision, its own parameters started from the weight, which it leaves."""
    binarizer = WEIGHT_BINARIZERS[name](weight.shape, **options).double()
    with torch.no_grad():
        binarizer.initialise(nn.Parameter(weight.detach().clone()))
    return binarizer


def spread(scale: torch.Tensor | None, codes: torch.Tensor) -> torch.Tensor:
    """A scale of the output, as it multiplies the kernel."""
    if scale is None:
        return torch.ones_like(codes)
    return scale.flatten().reshape(-1, *[1] * (codes.dim() - 1)).expand_as(codes)


def row_id(value: object) -> str:
    return getattr(value, "__name__", str(value))


@pytest.mark.parametrize("shape", ["table", *SHAPES], ids=str)
@pytest.mark.parametrize(("name", "options", "progress", "closed_form"), ROWS, ids=row_id)
def test_forward_and_gradient(
    name: str,
    options: Options,
    progress: float,
    closed_form: Callable[[Array, Array], Expected],
    shape: str | tuple[int, ...],
) -> None:
    random = np.random.default_rng(3)
    values = TABLE if isinstance(shape, str) else random.normal(scale=0.8, size=shape)
    g = random.normal(size=values.shape)
    weight = torch.tensor(values, requires_grad=True)
    binarizer = built(name, options, weight)
    binarizer.progress = progress
    [(codes, scale)] = binarizer(weight)
    expected = closed_form(values, g)
    assert torch.equal(codes, torch.tensor(expected.codes)) and set(codes.unique().tolist()) <= {-1, 1}
    factor = spread(scale, codes)
    # 1e-13: sums of up to 50 float64 numbers in another order
    np.testing.assert_allclose(factor.detach().numpy(), each(expected.scale, values), rtol=1e-13)
    (codes * factor).backward(torch.tensor(g))
    assert weight.grad is not None
    np.testing.assert_allclose(weight.grad.numpy(), expected.gradient, rtol=1e-9, atol=1e-12)
    assert np.array_equal(weight.detach().numpy(), values), "the latent weight was changed"
    for parameter in binarizer.parameters():
        derivative = (expected.codes * g).reshape(len(g), -1).sum(axis=1)
        np.testing.assert_allclose(parameter.grad.numpy().reshape(-1), derivative, rtol=1e-12, atol=1e-12)  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_filters_that_are_binarized_alone_may_stand_together(name: str, options: Options) -> None:
    together = torch.randn(6, 4, 3, 3)
    parts = together.split(3)
    one = WEIGHT_BINARIZERS[name](parts[0].shape, **options)
    if not one.filter_by_filter:
        assert name in {"binary_connect", "lab", "xnor_plus_plus", "circulant", "bwnh"}
        return
    assert not list(one.parameters()) and not list(one.buffers())
    [(codes, scale)] = one(together)
    for number, part in enumerate(parts):
        [(alone, its_scale)] = one(part)
        assert torch.equal(codes[3 * number : 3 * number + 3], alone)
        if scale is None:
            assert its_scale is None
        else:
            assert scale.shape == (6, 1, 1) and (scale >= 0).all()
            torch.testing.assert_close(scale[3 * number : 3 * number + 3], its_scale)


@pytest.mark.parametrize("name", ["bwn", "magnitude_aware", "react", "lab"])
def test_rescaling_the_weights_rescales_the_binary_weights(name: str) -> None:
    weight = torch.randn(3, 4, 3, 3, dtype=torch.float64)
    binarizer = built(name, {}, weight)
    [(codes, scale)], [(same, larger)] = binarizer(weight), binarizer(4 * weight)
    assert torch.equal(codes, same)
    assert torch.equal(4 * scale, larger), "a power of two multiplies exactly"


def test_libra_does_not_see_shift_and_scale_of_a_filter() -> None:
    weight = torch.randn(3, 4, 3, 3, dtype=torch.float64)
    binarizer = built("libra", {}, weight)
    [(codes, scale)], [(same, its_scale)] = binarizer(weight), binarizer(8 * weight + 2)
    assert torch.equal(codes, same) and torch.equal(scale, its_scale)
    assert all(math.log2(value) == round(math.log2(value)) for value in scale.flatten().tolist())


def test_libra_of_filters_without_spread_stays_finite() -> None:
    single, equal = torch.tensor([[0.3], [-0.2], [0.0]]), torch.full((2, 4, 3, 3), 0.25)
    for weight in (single, equal):
        weight.requires_grad_()
        [(codes, scale)] = built("libra", {}, weight)(weight)
        (codes * spread(scale, codes)).sum().backward()
        assert weight.grad is not None and torch.isfinite(weight.grad).all() and torch.isfinite(scale).all()
    [(codes, _)] = built("libra", {}, single)(single)
    assert codes.flatten().tolist() == [1, -1, 1]


def test_a_filter_of_zeros_has_a_finite_gradient() -> None:
    for name in NAMES:
        weight = torch.zeros(2, 3, 3, 3, requires_grad=True)
        [(codes, scale)] = built(name, {}, weight).float()(weight)
        (codes * spread(scale, codes)).sum().backward()
        assert weight.grad is not None and torch.isfinite(weight.grad).all(), name


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("binary_connect", {"mode": "random"}, "binary_connect.*mode 'random'"),
        ("binary_connect", {"limit": 2}, "binary_connect.*limit"),
        ("bnn", {"clip": 0}, "bnn.*clip"),
        ("bnn", {"window": "wide"}, "bnn.*window"),
        ("bwn", {"gradient": "none"}, "bwn.*gradient.*exact"),
        ("circulant", {"rotations": 3}, "circulant.*rotations 3"),
        ("lab", {"beta2": 1}, "lab.*beta2"),
        ("libra", {"start": 2, "end": 1}, "libra.*end"),
        ("xnor_plus_plus", {"factors": "rank1"}, "xnor_plus_plus.*factors"),
        ("xnor_plus_plus", {"factors": "rank_one"}, "need size"),
        ("xnor_plus_plus", {"factors": "dense", "size": [3, 0]}, r"need size.*\[3, 0\]"),
        ("xnor_plus_plus", {"factors": "dense", "size": "8x8"}, "need size"),
    ],
)
def test_mistakes_name_binarizer_and_option(name: str, options: Options, message: str) -> None:
    binarization = Binarization.model_validate({"weight": {"name": name, **options}})
    with pytest.raises(UserError, match=message):
        binarization.build_weight(torch.Size((6, 4, 3, 3)))


def test_every_binarizer_of_the_package_stands_in_a_table() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parents[1].rglob("test_*.py"))
    for registry in (ACTIVATION_BINARIZERS, WEIGHT_BINARIZERS, GRADIENT_QUANTIZERS):
        missing = [name for name in registry if not registry.origin(name) and f'"{name}"' not in text]
        assert not missing, f"{registry.kind} {missing}: add forward and gradient to a table of closed forms"
