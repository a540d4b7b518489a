"""Batch-norm, sign, ±1 convolution, scale and ReLU as one step: the fast path of training a network on a CPU.

forward   y = scale · relu(conv(sign(batch_norm(x)), codes))
backward  exact for batch-norm, codes and scale; 1{|batch_norm(x)| <= window} for sign

Nothing of the size of x is kept but x, one bit a number for its signs, and one for each y > 0. Sums of ±1
are counted in bits, exactly; their gradients are looked up in tables (`binas.kernels.sign_conv.gradients`).

Legend: N images, C and O channels of input and output, P pixels, bits in 32-bit words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binas.binarize import BinaryConv2d
from binas.binarize.schemes.straight_through import HardTanhSign, Sign, StraightThrough
from binas.kernels.batch_norm.plain import PlainBatchNorm2d
from binas.kernels.batch_norm.statistics import follow
from binas.kernels.layouts.images_last import (
    as_last,
    can_be_last,
    empty_last,
    flat,
    images_last,
    in_parts,
    run_all,
)
from binas.kernels.sign_conv.gradients import LANES, PARTS, geometry, input_gradient, kernel_gradient, ranges

SMALLEST_WORK = 1 << 25
"""Multiply-accumulates of a convolution below which fusing does not pay."""


@dataclass(frozen=True)
class Signs:
    """The signs of (N, C, H, W) in bits.

    Args:
        words: (P, ⌈C/32⌉, N) int32, a bit for each channel.
        image_words: (P, C, N/32) int32, a bit for each image.
        shape: N, C, H, W.
    """

    words: Tensor
    image_words: Tensor
    shape: tuple[int, ...]

    def unpacked(self) -> Tensor:
        """Whether each sign is +1: (N, C, H, W)."""
        bits = self.image_words[..., None] >> torch.arange(LANES, dtype=torch.int32) & 1
        num_images, channels, height, width = self.shape
        return bits.bool().view(height, width, channels, num_images).permute(3, 2, 0, 1)


@dataclass(frozen=True)
class Affine:
    """y = x·factor + shift for each channel, what batch-norm does; rounded as torch's batch-norm rounds it.

    Args:
        mean: of the batch, (C,) float32.
        factor, shift: (C,) float32.
        inverse: 1/√(variance + ε), float64, or None without batch-norm.
    """

    mean: Tensor
    factor: Tensor
    shift: Tensor
    inverse: Tensor | None

    @property
    def arrays(self) -> tuple[Any, Any, Any]:
        """The three for compiled loops."""
        return self.mean.numpy(), self.factor.numpy(), self.shift.numpy()


def pack_signs(conv: BinaryConv2d, x: Tensor, affine: Affine) -> Signs:
    """The signs of x, images last, after batch-norm; `conv` is what reads them."""
    from binas.kernels.sign_conv.loops import pack

    num_images, channels, height, width = x.shape
    pixels = height * width
    words = torch.zeros(pixels, -(-channels // 32), num_images, dtype=torch.int32)
    image_words = torch.empty(pixels, channels, num_images // LANES, dtype=torch.int32)
    addresses = x.data_ptr(), words.data_ptr(), image_words.data_ptr()
    _, factor, shift = affine.arrays
    in_parts(lambda begin, end: pack(*addresses, factor, shift, num_images, begin, end), pixels)
    return Signs(words, image_words, tuple(x.shape))


class _SignConv(torch.autograd.Function):
    """See the module; x has images last, `affine` is what `weight` and `bias` and the batch make of it."""

    @staticmethod
    def forward(
        ctx: Any,
        conv: BinaryConv2d,
        affine: Affine,
        window: float,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        kernel: Tensor,
        scale: Tensor | None,
    ) -> Tensor:
        kernel = kernel.contiguous()
        signs = pack_signs(conv, x, affine)
        scales = kernel.new_ones(len(kernel)) if scale is None else scale.reshape(-1).contiguous()
        y, masks = _convolved(conv, signs, kernel, scales)
        ctx.save_for_backward(x, signs.image_words, masks, kernel, scales)
        ctx.conv, ctx.affine, ctx.window = conv, affine, window
        ctx.scale_shape = None if scale is None else scale.shape
        return y

    @staticmethod
    def backward(ctx: Any, by_y: Tensor) -> tuple[Any, ...]:
        x, image_words, masks, kernel, scales = ctx.saved_tensors
        by_y = as_last(by_y)
        _, _, _, needs_x, needs_weight, needs_bias, needs_kernel, needs_scale = ctx.needs_input_grad
        by_x = by_weight = by_bias = by_kernel = by_scale = None
        if needs_kernel or needs_scale:
            unscaled = kernel_gradient(ctx.conv, x, image_words, by_y, masks, kernel)
            by_kernel = unscaled * scales.view(-1, 1, 1, 1)
            by_scale = (kernel * unscaled).flatten(1).sum(dim=1)
        if needs_x or needs_weight or needs_bias:
            by_x = input_gradient(ctx.conv, x, by_y, masks, kernel, scales)
            by_weight, by_bias = _through_norm(by_x, x, ctx.affine, ctx.window)
        return (
            None,
            None,
            None,
            by_x,
            by_weight if needs_weight else None,
            by_bias if needs_bias else None,
            by_kernel,
            by_scale.view(ctx.scale_shape) if needs_scale and by_scale is not None else None,
        )


@dataclass(frozen=True)
class Moments:
    """Mean and biased variance of a batch's channels (C,), float64."""

    mean: Tensor
    variance: Tensor


@torch.no_grad()
def moments(x: Tensor) -> Moments:
    """The moments of x, images last; all batch-norms that read x share them."""
    from binas.kernels.layouts.images_last_loops import add_moments

    array = flat(x)
    sums = _summed(array.shape, lambda part, begin, end: add_moments(array, part, begin, end))
    mean, squares = sums / (x.numel() // x.shape[1])
    return Moments(mean, (squares - mean * mean).clamp_min(0))


def _summed(shape: tuple[int, ...], work: Any) -> Tensor:
    """Σ over parts of what `work` adds to (2, C) float64 for a range of pixels."""
    pixels, channels, _ = shape
    parts = torch.zeros(PARTS, 2, channels, dtype=torch.float64)
    run_all(work, [(parts[part].numpy(), begin, end) for part, (begin, end) in enumerate(ranges(pixels))])
    return parts.sum(dim=0)


@torch.no_grad()
def _affine(norm: nn.Module, found: Moments | None, channels: int) -> Affine:
    if not isinstance(norm, nn.BatchNorm2d) or found is None:
        return Affine(torch.zeros(channels), torch.ones(channels), torch.zeros(channels), None)
    inverse, mean = (found.variance + norm.eps).rsqrt(), found.mean.float()
    factor = inverse.float() if norm.weight is None else inverse.float() * norm.weight
    shift = -mean * factor if norm.bias is None else norm.bias - mean * factor
    return Affine(mean, factor, shift, inverse)


def _output_size(conv: BinaryConv2d, height: int, width: int) -> tuple[int, int]:
    reach = conv.dilation * (conv.kernel_size - 1) - 2 * conv.padding
    return (height - reach - 1) // conv.stride + 1, (width - reach - 1) // conv.stride + 1


def _convolved(conv: BinaryConv2d, signs: Signs, kernel: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """y, images last, and the bits (P', O, N/32) of its positive numbers."""
    from binas.kernels.sign_conv.loops import convolve

    num_images, channels, height, width = signs.shape
    rows, columns = _output_size(conv, height, width)
    y = empty_last(num_images, len(kernel), (rows, columns))
    masks = torch.empty(rows * columns, len(kernel), num_images // LANES, dtype=torch.int32)
    bits, array = _kernel_words(kernel), scales.numpy()
    numbers = geometry(conv, height, width), channels, num_images, columns

    def part(begin: int, end: int) -> None:
        convolve(signs.words.data_ptr(), bits, array, y.data_ptr(), masks.data_ptr(), *numbers, begin, end)

    in_parts(part, rows * columns)
    return y, masks


def _kernel_words(kernel: Tensor) -> Any:
    """Signs of a kernel: (O, k·k, ⌈C/32⌉) uint32, bits over channels."""
    width, channels, _, _ = kernel.shape
    positive = F.pad((kernel > 0).flatten(2).transpose(1, 2), (0, -channels % 32))
    bits = positive.view(width, positive.shape[1], -1, 32).to(torch.int64)
    words = (bits << torch.arange(32)).sum(dim=3)
    return words.numpy().astype("uint32")


def _through_norm(by_x: Tensor, x: Tensor, affine: Affine, window: float) -> tuple[Tensor, Tensor]:
    """Turns the gradient by signs into that by x, in place; gives those by the norm's weight and bias."""
    from binas.kernels.layouts.images_last_loops import add_products, finish_gradient

    given = flat(by_x), flat(x), *affine.arrays, torch.tensor(window).numpy()[()]
    count = x.numel() // x.shape[1]
    if affine.inverse is None:
        sums = torch.zeros(2, x.shape[1], dtype=torch.float64)
        along = sums[1]
    else:
        sums = _summed(given[0].shape, lambda part, begin, end: add_products(*given, part, begin, end))
        along = sums[1] * affine.inverse**2 / count
    rest = (sums[0] / count).float().numpy(), along.float().numpy()
    in_parts(lambda begin, end: finish_gradient(*given, *rest, begin, end), len(given[0]))
    by_weight = sums[1] if affine.inverse is None else sums[1] * affine.inverse
    return by_weight.float(), sums[0].float()


def can_fuse(norm: nn.Module, conv: nn.Module, x: Tensor) -> bool:
    """Whether `sign_conv` may stand for conv(norm(x)).relu(): what it computes is the same, and faster.

    Modules that somebody watches by a hook, or has given another forward, run one by one.
    """
    if type(conv) is not BinaryConv2d or not can_be_last(x) or not conv.training:
        return False
    parts = (norm, conv, conv.activation_binarizer, conv.weight_binarizer)
    return (
        _is_plain(conv)
        and _is_known(norm)
        and not any(map(_is_changed, parts))
        and not torch.is_autocast_enabled("cpu")
        and _work(conv, x) >= SMALLEST_WORK
    )


def _is_changed(module: nn.Module) -> bool:
    """Whether somebody watches a module, or has given it another forward."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return any(hooks) or "forward" in vars(module)


def _is_plain(conv: BinaryConv2d) -> bool:
    return (
        conv.binarize_activations
        and conv.binarize_weights
        and conv.gradient_quantizer is None
        and conv.groups == 1
        and conv.out_channels % 4 == 0
        and (conv.pad_value == 0 or conv.padding == 0)
        and type(conv.activation_binarizer) in (Sign, StraightThrough, HardTanhSign)
        and conv.weight_binarizer.filter_by_filter
        and conv.weight_binarizer.levels == (-1, 1)
        and not conv.weight_binarizer.smooth_in_training
    )


def _is_known(norm: nn.Module) -> bool:
    if type(norm) is nn.Identity:
        return True
    return (
        type(norm) in (nn.BatchNorm2d, PlainBatchNorm2d)
        and isinstance(norm, nn.BatchNorm2d)
        and norm.training
        and norm.momentum is not None
    )


def _work(conv: BinaryConv2d, x: Tensor) -> int:
    rows, columns = _output_size(conv, *x.shape[2:])
    return x.shape[0] * rows * columns * conv.weight.numel()


def sign_conv(
    norm: nn.Module, conv: BinaryConv2d, x: Tensor, found: Callable[[], Moments] | None = None
) -> Tensor:
    """relu(conv(norm(x))), images last, where `can_fuse` holds; running statistics follow as ever.

    Args:
        found: gives the moments of x, where others have use for them too.
    Shape: (N, C, H, W) -> (N, O, H', W').
    """
    x = images_last(x)
    ((kernel, scale),) = conv.weight_binarizer(conv.weight)
    if not isinstance(norm, nn.BatchNorm2d):
        affine = _affine(norm, None, x.shape[1])
        return _SignConv.apply(conv, affine, _window(conv), x, None, None, kernel, scale)  # type: ignore[no-any-return]
    batch = moments(x) if found is None else found()
    affine = _affine(norm, batch, x.shape[1])
    follow(norm, batch.mean, batch.variance, x.numel() // x.shape[1])
    return _SignConv.apply(  # type: ignore[no-any-return]
        conv, affine, _window(conv), x, norm.weight, norm.bias, kernel, scale
    )


def _window(conv: BinaryConv2d) -> float:
    """Half width of the interval in which the gradient of the sign passes."""
    match conv.activation_binarizer:
        case HardTanhSign():
            return 1.0
        case Sign(window=window) if window is not None:
            return window
    return float("inf")
