"""Binarizers that look at a layer's inputs: XNOR's map K, and binary weights by hashing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from binas.binarize import ACTIVATION_BINARIZERS, Binarization, BinaryConv2d, LayerGeometry
from binas.binarize.schemes.bwnh import Bwnh, hashing_initialisation, inner_products
from binas.errors import UserError

Array = NDArray[np.float64]

LAYERS: list[dict[str, int]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 3},
    {"kernel_size": 5, "stride": 3, "padding": 0},
    {"kernel_size": 1, "stride": 2},
]
POINTS = np.array([-1.5, -1.0, -0.0, 0.0, 0.3, 1.0, 1.5])


def xnor_k_layer(**geometry: int) -> BinaryConv2d:
    spec = {"activation": {"name": "xnor_k"}, "weight": {"name": "bwn"}}
    return BinaryConv2d(6, 9, binarizations=[Binarization.model_validate(spec)], **geometry).double()


def map_k(
    x: Array, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1
) -> Array:
    """Mean of |x| over channels and the places under the kernel, one output place after another."""
    reach = dilation * (kernel_size - 1) + 1
    height, width = ((length + 2 * padding - reach) // stride + 1 for length in x.shape[2:])
    result = np.zeros((len(x), 1, height, width))
    for n, row, column in itertools.product(range(len(x)), range(height), range(width)):
        total = 0.0
        for down, right in itertools.product(range(kernel_size), repeat=2):
            i, j = row * stride + down * dilation - padding, column * stride + right * dilation - padding
            if 0 <= i < x.shape[2] and 0 <= j < x.shape[3]:
                total += np.abs(x[n, :, i, j]).mean()
        result[n, 0, row, column] = total / kernel_size**2
    return result


@pytest.mark.parametrize("geometry", LAYERS, ids=str)
def test_map_k_scales_each_place_of_the_output(geometry: dict[str, int]) -> None:
    conv = xnor_k_layer(**geometry)
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64)
    [(codes, scale)] = conv.activation_binarizer(x)
    assert torch.equal(codes, torch.where(x >= 0, 1.0, -1.0).double())
    expected = map_k(x.numpy(), **geometry)
    assert scale is not None
    np.testing.assert_allclose(scale.numpy(), expected, rtol=1e-12)
    [(kernel, alpha)] = conv.weight_binarizer(conv.weight)
    options = {key: value for key, value in geometry.items() if key != "kernel_size"}
    y = F.conv2d(codes, kernel, None, **options) * alpha * torch.tensor(expected)  # type: ignore[arg-type]
    torch.testing.assert_close(conv(x), y, rtol=1e-12, atol=1e-12)
    # XNOR's approximation is homogeneous; a power of two multiplies exactly
    assert torch.equal(conv(4 * x), 4 * conv(x))


@pytest.mark.parametrize("window", [1.0, 0.3, None])
def test_map_k_passes_the_gradient_of_sign_and_its_own(window: float | None) -> None:
    x = torch.tensor(np.stack([POINTS, POINTS[::-1].copy()]).reshape(2, 7, 1, 1), requires_grad=True)
    binarizer = ACTIVATION_BINARIZERS["xnor_k"](7, window=window)
    [(codes, scale)] = binarizer(x)
    assert scale is not None and scale.shape == (2, 1, 1, 1)
    g, h = torch.randn(2, 7, 1, 1).double(), torch.randn(2, 1, 1, 1).double()
    ((codes * g).sum() + (scale * h).sum()).backward()
    points = x.detach().numpy()
    inside = 1.0 if window is None else np.abs(points) <= window
    expected = g.numpy() * inside + h.numpy() * np.where(points >= 0, 1, -1) / 7
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-14)


def test_map_ks_derivative_is_that_of_finite_differences() -> None:
    binarizer = ACTIVATION_BINARIZERS["xnor_k"](3)
    binarizer.bind(LayerGeometry(3, 2, 1, 1, 1, 3, 4))
    # away from 0, where |x| has a kink
    x = torch.empty(2, 3, 5, 4, dtype=torch.float64).uniform_(0.1, 2) * torch.randn(2, 3, 5, 4).sign()
    assert torch.autograd.gradcheck(lambda values: binarizer(values)[0][1], x.requires_grad_())


@pytest.mark.parametrize("window", [0, -1.0, "wide"])
def test_map_k_refuses_a_window_that_is_none(window: object) -> None:
    with pytest.raises(UserError, match=r"xnor_k.*window"):
        ACTIVATION_BINARIZERS["xnor_k"](3, window=window)


def patches(x: Array, geometry: LayerGeometry) -> list[Array]:
    """The patches under the kernel as columns, for each group of channels."""
    size, step, dilation, pad = geometry.kernel_size, geometry.stride, geometry.dilation, geometry.padding
    padded = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    reach = dilation * (size - 1) + 1
    starts = [range(0, length - reach + 1, step) for length in padded.shape[2:]]
    found = []
    for channels in np.split(padded, geometry.groups, axis=1):
        columns = [
            image[:, i : i + reach : dilation, j : j + reach : dilation].reshape(-1)
            for image in channels
            for i, j in itertools.product(*starts)
        ]
        found.append(np.stack(columns, axis=1))
    return found


GEOMETRIES = [
    LayerGeometry(3, 1, 1, 1, 1, 4, 5),
    LayerGeometry(3, 2, 1, 2, 2, 4, 6),
    LayerGeometry(1, 1, 0, 1, 1, 4, 3),
    LayerGeometry(3, 1, 1, 1, 4, 4, 4),
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_inner_products_of_patches(geometry: LayerGeometry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("binas.binarize.schemes.bwnh.PATCHES_AT_A_TIME", 800)  # several blocks
    x = torch.randn(7, 4, 6, 5)
    grams = list(inner_products(x, geometry))
    expected = patches(x.double().numpy(), geometry)
    assert len(grams) == len(expected) == geometry.groups
    for gram, columns in zip(grams, expected, strict=True):
        np.testing.assert_allclose(gram.numpy(), columns @ columns.T, rtol=1e-10, atol=1e-10)


def residual(
    weight: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, x: torch.Tensor, g: LayerGeometry
) -> Array:
    """Squared error of each output channel, from convolutions."""
    options = (g.stride, g.padding, g.dilation, g.groups)
    real = F.conv2d(x, weight, None, *options)
    binary = F.conv2d(x, codes, None, *options) * scale.reshape(-1, 1, 1)
    return (real - binary).square().sum(dim=(0, 2, 3)).numpy()


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_hashing_comes_nearer_with_every_turn(geometry: LayerGeometry) -> None:
    torch.manual_seed(0)
    shape = (geometry.out_channels, 4 // geometry.groups, geometry.kernel_size, geometry.kernel_size)
    weight = torch.randn(shape, dtype=torch.float64)
    x = torch.relu(torch.randn(6, 4, 7, 7, dtype=torch.float64)) + 0.2
    errors = [
        residual(
            weight,
            torch.where(weight >= 0, 1.0, -1.0).double(),
            weight.abs().flatten(1).mean(dim=1),
            x,
            geometry,
        )
    ]
    for iterations in range(6):
        codes, scale = hashing_initialisation(weight, x, geometry, iterations)
        assert set(codes.unique().tolist()) <= {-1, 1} and (scale >= 0).all()
        errors.append(residual(weight, codes, scale, x, geometry))
    for before, after in itertools.pairwise(errors):
        assert (after <= before * (1 + 1e-9)).all()
    # the more bits there are, the more of them help
    assert errors[-1].sum() < (0.8 if weight[0].numel() > 9 else 1.0) * errors[0].sum()


def best_of_all(w: Array, gram: Array) -> float:
    """The least error over all codes, each with its own best scale."""
    errors = []
    for choice in itertools.product((-1.0, 1.0), repeat=len(w)):
        b = np.array(choice)
        alpha = max(0.0, b @ gram @ w / (b @ gram @ b))
        errors.append((w - alpha * b) @ gram @ (w - alpha * b))
    return min(errors)


def test_hashing_ends_where_no_single_bit_helps_and_near_the_best() -> None:
    torch.manual_seed(3)
    geometry = LayerGeometry(1, 1, 0, 1, 1, 9, 12)
    weight = torch.randn(12, 9, 1, 1, dtype=torch.float64)
    x = torch.relu(torch.randn(4, 9, 5, 5, dtype=torch.float64) + 0.5)
    codes, scale = hashing_initialisation(weight, x, geometry, 50)
    [columns] = patches(x.numpy(), geometry)
    gram = columns @ columns.T
    reached, best = [], []
    for w, b, alpha in zip(weight.flatten(1).numpy(), codes.flatten(1).numpy(), scale.numpy(), strict=True):
        reached.append((w - alpha * b) @ gram @ (w - alpha * b))
        best.append(best_of_all(w, gram))
        np.testing.assert_allclose(alpha, b @ gram @ w / (b @ gram @ b), rtol=1e-9)
        for bit in range(9):
            other = b.copy()
            other[bit] *= -1
            assert (w - alpha * other) @ gram @ (w - alpha * other) >= reached[-1] * (1 - 1e-9)
    naive = sum(
        float((w - np.abs(w).mean() * np.sign(w)) @ gram @ (w - np.abs(w).mean() * np.sign(w)))
        for w in weight.flatten(1).numpy()
    )
    # a local minimum: it goes most of the way from the signs to the best codes
    assert sum(reached) - sum(best) < 0.35 * (naive - sum(best))


def test_hashing_of_white_inputs_is_the_least_squares_sign() -> None:
    weight = torch.randn(3, 4, 1, 1, dtype=torch.float64)
    x = torch.eye(4, dtype=torch.float64).reshape(4, 4, 1, 1)
    codes, scale = hashing_initialisation(weight, x, LayerGeometry(1, 1, 0, 1, 1, 4, 3))
    assert torch.equal(codes, torch.where(weight >= 0, 1.0, -1.0).double())
    torch.testing.assert_close(scale, weight.abs().flatten(1).mean(dim=1), rtol=1e-12, atol=0)


def test_hashing_of_inputs_that_are_all_zero_keeps_the_start() -> None:
    weight = torch.randn(3, 4, 3, 3)
    codes, scale = hashing_initialisation(weight, torch.zeros(2, 4, 5, 5), LayerGeometry(3, 1, 1, 1, 1, 4, 3))
    assert torch.equal(codes, torch.where(weight >= 0, 1.0, -1.0))
    torch.testing.assert_close(scale, weight.abs().flatten(1).mean(dim=1))


@pytest.mark.parametrize("groups", [1, 2])
def test_a_layer_takes_what_hashing_found(groups: int) -> None:
    conv = BinaryConv2d(
        4,
        6,
        3,
        padding=1,
        groups=groups,
        binarizations=[Binarization.model_validate({"weight": {"name": "bwnh"}})],
    )
    conv.weight.data[0, 0, 0, :2] = torch.tensor([0.0, -0.0])
    x = torch.where(torch.randn(8, 4, 6, 6) >= 0, 1.0, -1.0)
    geometry = LayerGeometry(3, 1, 1, 1, groups, 4, 6)
    real = conv.weight.detach().clone()
    codes, scale = hashing_initialisation(real, x, geometry)
    binarizer = conv.weight_binarizer
    assert isinstance(binarizer, Bwnh)
    binarizer.hash(conv.weight, x, geometry)
    [(its_codes, its_scale)] = binarizer(conv.weight)
    assert torch.equal(its_codes, codes)
    assert its_scale is not None and torch.equal(its_scale.flatten(), scale)
    torch.testing.assert_close(conv.weight.abs(), real.abs(), rtol=0, atol=1e-30)


def filters(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64).reshape(1, -1, 1, 1)


def test_hashing_against_a_case_by_hand() -> None:
    # inputs (1, 1) twice and (1, -1) once: G = [[3, 1], [1, 3]]; w = (1, -0.2)
    x = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, -1.0]], dtype=torch.float64).reshape(3, 2, 1, 1)
    codes, scale = hashing_initialisation(filters([1.0, -0.2]), x, LayerGeometry(1, 1, 0, 1, 1, 2, 1))
    # q = (2.8, 0.4); signs: α = 2.4/4 = 0.6; bit 0: 2.8 + 0.6 > 0; bit 1: 0.4 − 0.6 < 0 stays
    assert codes.flatten().tolist() == [1, -1] and scale.item() == pytest.approx(0.6)
    # w = (1, -0.1): q = (2.9, 0.7); α = 2.2/4 = 0.55; bit 1: 0.7 − 0.55 > 0 flips; then α = 3.6/8
    codes, scale = hashing_initialisation(filters([1.0, -0.1]), x, LayerGeometry(1, 1, 0, 1, 1, 2, 1))
    assert codes.flatten().tolist() == [1, 1] and scale.item() == pytest.approx(0.45)
