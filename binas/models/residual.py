"""Residual networks: stem, four stages of doubling width, head; and the block of one convolution."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn

from binas.models.layers import Downsampling, Head, binary_conv, scaled, shortcut
from binas.models.model_registry import StemOptions, Task

STAGE_CHANNELS = (64, 128, 256, 512)
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 152: (3, 8, 36, 3)}
"""Blocks of each stage, as in He et al., Deep Residual Learning, arXiv:1512.03385, table 1."""

Shortcuts = Literal["every", "pair", "none"]
Block = Callable[[int, int, int], nn.Module]
"""Gives a block for channels of input and output and a stride."""


class ResidualOptions(StemOptions):
    """Options of residual networks."""

    blocks: tuple[int, ...] = DEPTHS[18]
    """Blocks of two convolutions (three in bottlenecks) of each stage."""
    downsampling: Downsampling = "real"
    """Shortcuts that halve the size: real-valued 1×1 convolution after a 2×2 average, or a binary one."""


class ShortcutOptions(ResidualOptions):
    """Options of residual networks that were published with a shortcut around every convolution."""

    shortcuts: Shortcuts = "every"
    """every: around each convolution, as published; pair: around two, as in ResNet; none: a plain network."""


def residual_stages(options: ShortcutOptions, task: Task) -> nn.Sequential:
    """Stages of 3×3 convolutions, each with a batch-norm, and shortcuts as the options say."""

    def one(in_channels: int, out_channels: int, stride: int) -> nn.Module:
        if options.shortcuts == "none":
            return plain_conv(task, in_channels, out_channels, stride)
        return ResidualConv(task, in_channels, out_channels, stride, options.downsampling)

    def pair(in_channels: int, out_channels: int, stride: int) -> nn.Module:
        return ResidualPair(task, in_channels, out_channels, stride, options.downsampling)

    return stages(options, pair) if options.shortcuts == "pair" else stages(options, one, 2)


def stages(options: ResidualOptions, block: Block, blocks_per_unit: int = 1) -> nn.Sequential:
    """The stages of a residual network; every stage but the first begins with stride 2.

    Args:
        block: see `Block`.
        blocks_per_unit: 2 where a block holds one convolution of the two that `options.blocks` counts.
    """
    widths = [scaled(64 * 2**stage, options.width) for stage in range(len(options.blocks))]
    layers = []
    channels = scaled(64, options.width, 16)
    for stage, (width, count) in enumerate(zip(widths, options.blocks, strict=True)):
        for position in range(count * blocks_per_unit):
            layers.append(block(channels, width, 2 if stage and not position else 1))
            channels = width
    return nn.Sequential(*layers)


def stem_channels(options: ResidualOptions) -> int:
    """Channels of the stem; 64 times the width, dividing into the groups of a grouped stem."""
    return scaled(64, options.width, 16)


def last_channels(options: ResidualOptions) -> int:
    """Channels that the head reads."""
    return scaled(64 * 2 ** (len(options.blocks) - 1), options.width)


class ResidualNet(nn.Sequential):
    """Stem, stages, what stands before the average, head.

    Shape: (N, C, H, W) -> (N, num_classes).
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: nn.Module,
        channels: int,
        num_classes: int,
        last: Sequence[nn.Module] = (),
    ) -> None:
        parts = {"stem": stem, "stages": stages, "last": nn.Sequential(*last)}
        super().__init__(OrderedDict(parts, head=Head(channels, num_classes)))


def plain_conv(task: Task, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Sign, binary 3×3 convolution, batch-norm."""
    return nn.Sequential(
        binary_conv(task, in_channels, out_channels, 3, stride), nn.BatchNorm2d(out_channels)
    )


class ResidualPair(nn.Module):
    """Two times sign, binary 3×3 convolution and batch-norm, and one shortcut around them.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H/stride), ceil(W/stride)).
    Reference: what Bi-Real Net, arXiv:1808.00278, compares with as Res-Net, fig. 3a.
    """

    def __init__(
        self, task: Task, in_channels: int, out_channels: int, stride: int, downsampling: Downsampling
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            plain_conv(task, in_channels, out_channels, stride),
            plain_conv(task, out_channels, out_channels, 1),
        )
        self.shortcut = shortcut(task, in_channels, out_channels, stride, downsampling)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.body(x) + self.shortcut(x)
        return y


class ResidualConv(nn.Module):
    """One binary 3×3 convolution, batch-norm, and a shortcut around both.

    y = after(norm(conv(sign(x))) + shortcut(x))

    Args:
        after: what follows the sum.
    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H/stride), ceil(W/stride)).
    Reference: Liu et al., Bi-Real Net, arXiv:1808.00278, fig. 3b.
    """

    def __init__(
        self,
        task: Task,
        in_channels: int,
        out_channels: int,
        stride: int,
        downsampling: Downsampling,
        after: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv = binary_conv(task, in_channels, out_channels, 3, stride)
        self.norm = nn.BatchNorm2d(out_channels)
        self.shortcut = shortcut(task, in_channels, out_channels, stride, downsampling)
        self.after = nn.Identity() if after is None else after

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.after(self.norm(self.conv(x)) + self.shortcut(x))
        return y
