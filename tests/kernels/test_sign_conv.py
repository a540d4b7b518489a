"""Batch-norm, sign, ±1 convolution and ReLU as one step, against the same modules one by one in float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from binas.binarize import Binarization, BinaryConv2d
from binas.kernels.batch_norm.plain import PlainBatchNorm2d
from binas.kernels.layouts.images_last import (
    as_first,
    as_last,
    images_first,
    images_last,
    is_available,
    is_last,
)
from binas.kernels.pool.images_last_pool import pooled_last
from binas.kernels.sign_conv import sign_conv as room
from binas.kernels.sign_conv.sign_conv import can_fuse, sign_conv

pytestmark = pytest.mark.skipif(not is_available(), reason="numba is not installed")

TOLERANCE = 1e-5
"""Relative to the largest number: sums in float32."""


def assert_near(actual: Tensor | None, expected: Tensor | None, name: str) -> None:
    assert actual is not None and expected is not None, name
    scale = max(expected.abs().max().item(), 1e-12)
    error = (actual.double() - expected.double()).abs().max().item() / scale
    assert error <= TOLERANCE, f"{name}: relative error {error:.2e}"


def parts(channels: int, width: int, size: int, stride: int, dilation: int, norm: str, **binarization: Any):
    """A batch-norm with statistics of its own, and a convolution."""
    torch.manual_seed(channels + width)
    norms = {"affine": nn.BatchNorm2d(channels), "plain": PlainBatchNorm2d(channels), "none": nn.Identity()}
    made = norms[norm]
    for parameter in made.parameters():
        nn.init.normal_(parameter)  # negative weights turn signs around
    conv = BinaryConv2d(
        channels,
        width,
        size,
        stride,
        dilation * (size - 1) // 2,
        dilation,
        binarizations=(Binarization(**binarization),),
    )
    return made, conv


def away_from_zero(norm: nn.Module, x: Tensor) -> Tensor:
    """x, moved where batch-norm in float64 gives a number so near to 0 or ±1 that rounding decides."""
    exact = copy.deepcopy(norm).double()
    for _ in range(20):
        with torch.no_grad():
            y = exact(x.double()).abs()
        near = (y < 1e-5) | ((y - 1).abs() < 1e-5)
        if not near.any():
            return x
        x = torch.where(near, x + 0.01, x)
    raise AssertionError("rounding still decides")


GEOMETRIES = {
    "1×1": (32, 40, 16, (5, 7), 1, 1, 1),
    "3×3": (32, 36, 36, (6, 5), 3, 1, 1),
    "dilated, 64 images": (64, 16, 8, (7, 7), 3, 1, 2),
    "5×5 dilated, 96 images": (96, 8, 12, (9, 8), 5, 1, 2),
    "strided, odd size": (32, 12, 52, (7, 9), 3, 2, 1),
    "strided 1×1": (32, 33, 4, (6, 6), 1, 2, 1),
    "many terms": (32, 70, 100, (4, 3), 3, 1, 1),
}


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("norm", ["affine", "plain", "none"])
def test_same_as_one_by_one(geometry: str, norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    num_images, channels, width, image, size, stride, dilation = GEOMETRIES[geometry]
    monkeypatch.setattr(room, "SMALLEST_WORK", 0)
    made, conv = parts(channels, width, size, stride, dilation, norm)
    x = away_from_zero(made, torch.randn(num_images, channels, *image))
    exact_norm, exact_conv = copy.deepcopy(made).double(), copy.deepcopy(conv).double()
    ours, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    assert can_fuse(made, conv, ours)
    y = sign_conv(made, conv, ours)
    expected = exact_conv(exact_norm(exact)).relu()
    gradient = torch.randn(y.shape)
    y.backward(gradient)
    expected.backward(gradient.double())
    assert is_last(y)
    assert_near(y, expected, "output")
    assert_near(ours.grad, exact.grad, "gradient of the input")
    for module, other in ((made, exact_norm), (conv, exact_conv)):
        others = dict(other.named_parameters())
        for name, parameter in module.named_parameters():
            assert_near(parameter.grad, others[name].grad, name)
        buffers = dict(other.named_buffers())
        for name, buffer in module.named_buffers():
            assert_near(buffer, buffers[name], name)


@pytest.mark.parametrize("window", [None, 0.5, 1.3])
def test_window_of_the_sign(window: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SMALLEST_WORK", 0)
    made, conv = parts(8, 8, 3, 1, 1, "none", activation={"name": "sign", "window": window})
    torch.manual_seed(0)
    x = torch.randn(32, 8, 4, 4)
    ours, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    sign_conv(made, conv, ours).square().sum().backward()
    copy.deepcopy(conv).double()(exact).relu().square().sum().backward()
    assert_near(ours.grad, exact.grad, "gradient of the input")


def test_zero_has_a_positive_sign_and_no_window_at_its_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SMALLEST_WORK", 0)
    made, conv = parts(4, 4, 1, 1, 1, "none")
    x = torch.tensor([0.0, -0.0, 1.0, -1.0, 1.0001, -1.0001, -1e-30, 2.0]).repeat(4).view(32, 1, 1, 1)
    given = x.repeat(1, 4, 2, 2).requires_grad_()
    plain = given.detach().clone().requires_grad_()
    y, expected = sign_conv(made, conv, given), conv(plain).relu()
    assert torch.equal(y, expected)
    y.sum().backward()
    expected.sum().backward()
    assert_near(given.grad, plain.grad, "gradient")
    assert not given.grad[4:6].any()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_sums_do_not_depend_on_threads(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SMALLEST_WORK", 0)

    def gradients(number: int) -> list[Tensor]:
        made, conv = parts(8, 16, 3, 1, 1, "affine")
        torch.manual_seed(1)
        x = torch.randn(32, 8, 9, 9, requires_grad=True)
        monkeypatch.setattr(torch, "get_num_threads", lambda: number)
        sign_conv(made, conv, x).square().sum().backward()
        return [x.grad, made.weight.grad, made.bias.grad, conv.weight.grad]

    for one, other in zip(gradients(1), gradients(threads), strict=True):
        assert torch.equal(one, other)


def test_what_is_not_the_same_is_not_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SMALLEST_WORK", 0)
    x = torch.randn(32, 8, 4, 4)

    def verdict(change: Any = None, x: Tensor = x, norm: str = "affine", **binarization: Any) -> bool:
        made, conv = parts(8, 8, 3, 1, 1, norm, **binarization)
        if change is not None:
            change(made, conv)
        return can_fuse(made, conv, x)

    assert verdict()
    assert verdict(activation={"name": "hard_tanh"}) and verdict(activation={"name": "ste"})
    assert not verdict(x=x[:31]) and not verdict(x=x.double())
    assert not verdict(activation={"name": "approx_sign"}) and not verdict(weight={"name": "dorefa"})
    assert not verdict(pad_value=-1)
    assert not verdict(gradient={"name": "dorefa", "bits": 8})
    assert not verdict(lambda norm, conv: norm.eval())
    assert not verdict(lambda norm, conv: conv.eval())
    assert not verdict(lambda norm, conv: setattr(conv, "binarize_weights", False))
    assert not verdict(lambda norm, conv: setattr(conv, "binarize_activations", False))
    assert not verdict(lambda norm, conv: conv.register_forward_hook(lambda *_: None))
    assert not verdict(lambda norm, conv: conv.activation_binarizer.register_forward_hook(lambda *_: None))
    assert not verdict(lambda norm, conv: conv.weight_binarizer.register_full_backward_hook(lambda *_: None))
    assert not verdict(lambda norm, conv: setattr(norm, "forward", norm.forward))  # as in several processes
    assert not verdict(lambda norm, conv: setattr(norm, "momentum", None))
    with torch.autocast("cpu"):
        assert not verdict()
    monkeypatch.setattr(room, "SMALLEST_WORK", 32 * 16 * 8 * 8 * 9 + 1)
    assert not verdict()


def test_signs_come_back_from_their_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    _, conv = parts(5, 4, 1, 1, 1, "none")
    x = as_last(torch.randn(64, 5, 3, 2))
    affine = room.Affine(torch.ones(5), torch.tensor([1.0, -2, 1, -1, 3]), torch.full((5,), 0.5), None)
    expected = x * affine.factor.view(1, -1, 1, 1) + 0.5 >= 0
    signs = room.pack_signs(conv, x, affine)
    assert torch.equal(signs.unpacked(), expected)
    bits = signs.words[:, 0] >> torch.arange(5, dtype=torch.int32).view(5, 1, 1) & 1
    assert torch.equal(bits.bool().permute(2, 0, 1).reshape(64, 5, 3, 2), expected)


def test_signs_are_those_of_batch_norm_to_the_last_bit() -> None:
    norm, conv = parts(24, 4, 1, 1, 1, "affine")
    x = torch.randn(64, 24, 40, 40) * 3 + 1
    x.select(1, 3).round_()  # integers meet their mean and each other more often
    affine = room._affine(norm, room.moments(as_last(x)), 24)
    assert torch.equal(room.pack_signs(conv, as_last(x), affine).unpacked(), norm(x) >= 0)


@pytest.mark.parametrize("shape", [(32, 3, 5, 7), (64, 40, 9, 9), (96, 1, 1, 4)])
def test_layouts_there_and_back(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, requires_grad=True)
    last = images_last(x)
    assert is_last(last) and torch.equal(last, x)
    first = images_first(last)
    assert first.is_contiguous() and torch.equal(as_first(last.detach()), x)
    first.backward(3 * x.detach())
    assert torch.equal(x.grad, 3 * x.detach()) and x.grad.is_contiguous()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(7, 6), (1, 2), (8, 8)], ids=str)
@pytest.mark.parametrize("kind", [nn.MaxPool2d, nn.AvgPool2d])
def test_pools_with_images_last(kind: Any, size: tuple[int, int], stride: int) -> None:
    pool = kind(3, stride, padding=1, **({} if kind is nn.MaxPool2d else {"count_include_pad": False}))
    torch.manual_seed(stride)
    x = torch.randn(64, 5, *size).mul(2).round()  # equal numbers: the first one gets the gradient
    ours, plain = as_last(x.clone()).requires_grad_(), x.clone().requires_grad_()
    y, expected = pooled_last(pool, ours), pool(plain)
    assert is_last(y)
    assert_near(y, expected, "output")
    gradient = torch.randn(y.shape)
    y.backward(gradient)
    expected.backward(gradient)
    assert_near(ours.grad, plain.grad, "gradient")
