"""Layers that published networks share: padded convolutions, stems, shortcuts, the classifier.

Sizes follow ceil(H/stride), so that any image works: pools take what is left at an odd border.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn

from binas.arch.cell import global_average
from binas.binarize import BinaryConv2d
from binas.models.model_registry import Task
from binas.ops.nonlinearities import build_nonlinearity

Stem = Literal["imagenet", "grouped", "cifar"]
Downsampling = Literal["real", "binary"]

FIRST = "first layer: binarizing pixels loses most of the image"
LAST = "last layer: its outputs are compared as real numbers"
SHORTCUT = "down-sampling shortcut: few weights, and it carries the real-valued stream"


def scaled(channels: int, width: float, divisor: int = 8) -> int:
    """Channels times width, rounded to a multiple of the divisor, at least one of it."""
    return channels if width == 1 else max(1, round(channels * width / divisor)) * divisor


def binary_conv(
    task: Task,
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
) -> BinaryConv2d:
    """A binary convolution that owns the binarizers of all stages. Shape: H -> ceil(H/stride)."""
    padding = dilation * (kernel_size // 2)
    return BinaryConv2d(
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, task.binarizations
    )


def real_conv(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1, *, why: str
) -> nn.Conv2d:
    """A real-valued convolution without bias that says why it is one. Shape: H -> ceil(H/stride)."""
    conv = nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False
    )
    conv.why_real = why  # type: ignore[assignment]
    return conv


def chain(**parts: nn.Module) -> nn.Sequential:
    """Modules in a row, each under a name of its own."""
    return nn.Sequential(OrderedDict(parts))


def stem(
    kind: Stem, in_channels: int, channels: int, activation: str = "relu", norm_after_pool: bool = False
) -> nn.Sequential:
    """The real-valued first layers, down to a quarter of the size (`cifar`: full size).

    Args:
        kind: see `StemOptions.stem`.
        channels: of the output; a multiple of 16 for `grouped`.
        activation: by name, after the last batch-norm; `none` where the next layer is a sign without a
            batch-norm before it.
        norm_after_pool: whether a second batch-norm follows the pool.
    Shape: (N, C, H, W) -> (N, channels, ceil(H/4), ceil(W/4)), `cifar`: (N, channels, H, W).
    Reference: `grouped`: Bethge et al., MeliusNet, arXiv:2001.05936, and its released code.
    """
    half = channels // 2
    first: list[nn.Module]
    match kind:
        case "imagenet":
            first = [real_conv(in_channels, channels, 7, 2, why=FIRST)]
        case "cifar":
            first = [real_conv(in_channels, channels, 3, why=FIRST)]
        case "grouped":
            first = [
                real_conv(in_channels, half, 3, 2, why=FIRST),
                nn.BatchNorm2d(half),
                nn.ReLU(),
                real_conv(half, half, 3, groups=4, why=FIRST),
                nn.BatchNorm2d(half),
                nn.ReLU(),
                real_conv(half, channels, 3, groups=8, why=FIRST),
            ]
    last: list[nn.Module] = [nn.BatchNorm2d(channels), build_nonlinearity(activation, channels)]
    last += [nn.MaxPool2d(3, 2, 1)] if kind != "cifar" else []
    last += [nn.BatchNorm2d(channels)] if norm_after_pool else []
    return nn.Sequential(*first, *last)


class Shortcut(nn.Sequential):
    """What carries a block's input to its output where width or size change.

    real: 2×2 average pool, real-valued 1×1 convolution, batch-norm;
    binary: strided 1×1 binary convolution, batch-norm.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H/stride), ceil(W/stride)).
    """

    def __init__(
        self, task: Task, in_channels: int, out_channels: int, stride: int, downsampling: Downsampling
    ) -> None:
        if downsampling == "binary":
            layers: list[nn.Module] = [binary_conv(task, in_channels, out_channels, 1, stride)]
        else:
            layers = [average_pool(stride), real_conv(in_channels, out_channels, 1, why=SHORTCUT)]
        super().__init__(*layers, nn.BatchNorm2d(out_channels))


def shortcut(
    task: Task, in_channels: int, out_channels: int, stride: int, downsampling: Downsampling
) -> nn.Module:
    """The identity, or a `Shortcut` where the shapes differ."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return Shortcut(task, in_channels, out_channels, stride, downsampling)


def average_pool(stride: int) -> nn.Module:
    """Mean of stride × stride pixels; what is left at an odd border is averaged too."""
    return nn.Identity() if stride == 1 else nn.AvgPool2d(stride, ceil_mode=True)


def max_pool() -> nn.MaxPool2d:
    """Maximum of 2×2 pixels; what is left at an odd border counts too."""
    return nn.MaxPool2d(2, ceil_mode=True)


class PixelsToChannels(nn.Module):
    """Pixels as channels of a single pixel. Shape: (N, C, H, W) -> (N, C·H·W, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x.flatten(1)[:, :, None, None]


class Head(nn.Module):
    """Global average over the pixels, then a real-valued linear layer.

    Shape: (N, C, H, W) -> (N, num_classes).
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.classifier = classifier(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        logits: Tensor = self.classifier(global_average(x))
        return logits


def classifier(features: int, num_classes: int, bias: bool = True) -> nn.Linear:
    """The real-valued last layer."""
    linear = nn.Linear(features, num_classes, bias=bias)
    linear.why_real = LAST  # type: ignore[assignment]
    return linear
