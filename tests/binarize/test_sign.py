"""The sign, XNOR weights against closed forms written here in NumPy, and mistakes in a spec."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from binas.binarize import (
    WEIGHT_BINARIZERS,
    Binarization,
    BinarizerSpec,
    BinaryConv2d,
    after_optimizer_step,
    sign,
)
from binas.errors import UserError

Array = NDArray[np.float64]


def xnor_codes_and_scale(weight: Array, center: bool) -> tuple[Array, Array, Array]:
    """ŵ, its signs, and the mean magnitude of each filter."""
    centred = weight - weight.mean(axis=1, keepdims=True) if center else weight
    codes = np.where(centred >= 0, 1.0, -1.0)
    scale = np.array([np.abs(one).sum() / one.size for one in centred])
    return centred, codes, scale


def xnor_gradient(weight: Array, g: Array, center: bool, window: float | None = 1.0) -> Array:
    """dL/dw for the gradient g of the binary weight α·sign(ŵ), weight by weight."""
    centred, codes, scale = xnor_codes_and_scale(weight, center)
    result = np.empty_like(weight)
    for number in range(len(weight)):
        total = sum((codes[number] * g[number]).reshape(-1))
        n = weight[number].size
        for place in np.ndindex(weight[number].shape):
            inside = window is None or abs(centred[number][place]) <= window
            direct = scale[number] * g[number][place] if inside else 0.0
            result[number][place] = direct + codes[number][place] / n * total
    # the mean over input channels takes the same from each of them
    return result - result.mean(axis=1, keepdims=True) if center else result


def released_gradient(weight: Array, g: Array) -> Array:
    n = weight[0].size
    return xnor_gradient(weight, g, center=False) * (1 - 1 / weight.shape[1]) * n


# name -> (options, does it centre from 4 channels on, gradient); a new binarizer adds its rows here
WeightRow = tuple[dict[str, object], bool, Callable[[Array, Array], Array]]
WEIGHTS: dict[str, list[WeightRow]] = {
    "xnor": [
        ({}, True, lambda w, g: xnor_gradient(w, g, w.shape[1] >= 4)),
        ({"center": False}, False, lambda w, g: xnor_gradient(w, g, False)),
        ({"window": 0.4}, True, lambda w, g: xnor_gradient(w, g, w.shape[1] >= 4, 0.4)),
        ({"window": None}, True, lambda w, g: xnor_gradient(w, g, w.shape[1] >= 4, None)),
    ],
    "xnor_released": [({}, False, released_gradient)],
}
SHAPES = [(3, 8, 3, 3), (2, 4, 5, 5), (2, 3, 3, 3), (4, 1, 3, 3), (5, 6, 1, 1), (1, 4, 1, 1)]


def weight_rows() -> list[tuple[str, WeightRow]]:
    return [(name, row) for name, rows in WEIGHTS.items() for row in rows]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_sign_of_both_zeros_and_extremes(dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).tiny
    x = torch.tensor([0.0, -0.0, tiny, -tiny, float("inf"), -float("inf")], dtype=dtype)
    assert sign(x).tolist() == [1, 1, 1, -1, 1, -1] and sign(x).dtype == dtype


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("name", "row"), weight_rows(), ids=lambda v: v if isinstance(v, str) else str(v[0]))
def test_weight_forward_and_gradient(name: str, row: WeightRow, shape: tuple[int, ...]) -> None:
    options, centres, gradient = row
    random = np.random.default_rng(5)
    values, g = random.normal(size=shape), random.normal(size=shape)
    weight = torch.tensor(values, requires_grad=True)
    [(codes, scale)] = WEIGHT_BINARIZERS[name](weight.shape, **options)(weight)
    _, expected_codes, expected_scale = xnor_codes_and_scale(values, centres and shape[1] >= 4)
    assert torch.equal(codes, torch.tensor(expected_codes))
    assert scale is not None and scale.shape == (shape[0], 1, 1)
    # 1e-14: sums of up to 100 float64 numbers in another order
    np.testing.assert_allclose(scale.detach().numpy().reshape(-1), expected_scale, rtol=1e-14)
    (codes * scale.unsqueeze(1)).backward(torch.tensor(g))
    assert weight.grad is not None
    np.testing.assert_allclose(weight.grad.numpy(), gradient(values, g), rtol=1e-10, atol=1e-13)
    assert np.array_equal(weight.detach().numpy(), values), "the latent weight was changed"


def test_gradient_at_the_edges_of_the_window_and_at_zero() -> None:
    values = np.array([-1.5, -1.0, -0.0, 0.0, 1.0, 1.5]).reshape(1, 6, 1, 1)
    g = np.array([0.5, -1.0, 2.0, 0.25, -0.75, 1.0]).reshape(1, 6, 1, 1)
    weight = torch.tensor(values, requires_grad=True)
    [(codes, scale)] = WEIGHT_BINARIZERS["xnor"](weight.shape, center=False)(weight)
    assert codes.flatten().tolist() == [-1, -1, 1, 1, 1, 1] and scale is not None
    (codes * scale.unsqueeze(1)).backward(torch.tensor(g))
    assert weight.grad is not None
    np.testing.assert_allclose(weight.grad.numpy(), xnor_gradient(values, g, False), rtol=1e-14)


def test_centring_starts_at_four_channels_of_a_group() -> None:
    for channels, groups, centred in ((3, 1, False), (4, 1, True), (8, 2, True), (8, 4, False)):
        conv = BinaryConv2d(channels, channels, 3, groups=groups)
        with torch.no_grad():
            conv.weight.add_(10)  # all positive: only centring brings negative codes
        [(codes, _)] = conv.weight_binarizer(conv.weight)
        assert bool((codes == -1).any()) == centred, (channels, groups)


@pytest.mark.parametrize("channels", [1, 3, 8])
def test_released_code_centres_and_clamps_after_each_step(channels: int) -> None:
    binarization = Binarization(weight=BinarizerSpec(name="xnor_released"))
    conv = BinaryConv2d(channels, 2, 3, binarizations=[binarization]).double()
    values = np.random.default_rng(0).normal(scale=2, size=(2, channels, 3, 3))
    conv.weight.data.copy_(torch.tensor(values))
    conv(torch.randn(1, channels, 5, 5, dtype=torch.float64))
    assert np.array_equal(conv.weight.detach().numpy(), values), "forward changed the latent weight"
    after_optimizer_step(conv)
    centred = values - values.mean(axis=1, keepdims=True) if channels > 1 else values
    np.testing.assert_allclose(conv.weight.detach().numpy(), np.clip(centred, -1, 1), rtol=1e-14, atol=1e-15)


def test_after_step_leaves_raw_and_exact_weights_alone() -> None:
    released = Binarization(weight=BinarizerSpec(name="xnor_released"))
    raw, exact = BinaryConv2d(4, 2, 3, binarizations=[released]), BinaryConv2d(4, 2, 3)
    raw.binarize_weights = False
    for conv in (raw, exact):
        conv.weight.data.mul_(50)
        before = conv.weight.detach().clone()
        after_optimizer_step(conv)
        assert torch.equal(conv.weight, before)
        after_optimizer_step(conv, weight_clipping=0.5)
        assert torch.equal(conv.weight, before.clamp(-0.5, 0.5))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "sing"}, "did you mean 'sign'"),
        ({"name": "sign", "windw": 1}, "unknown option 'windw'; did you mean 'window'"),
        ({"name": "approx_sign", "window": 1}, "unknown option 'window'"),
    ],
    ids=["name", "option", "no option"],
)
def test_mistakes_in_a_spec(spec: dict[str, object], message: str) -> None:
    binarization = Binarization.model_validate({"activation": spec})
    with pytest.raises(UserError, match=message):
        binarization.build_activation(4)
