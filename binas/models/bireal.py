"""Bi-Real Net: a residual network with a shortcut around every binary convolution.

Liu et al., Bi-Real Net, arXiv:1808.00278; bottlenecks as in github.com/liuzechun/Bi-Real-net.
"""

from __future__ import annotations

from torch import Tensor, nn

from binas.binarize import Binarization, BinarizerSpec
from binas.models.layers import SHORTCUT, average_pool, binary_conv, real_conv, scaled, shortcut, stem
from binas.models.model_registry import Task, register_models
from binas.models.residual import (
    DEPTHS,
    ResidualNet,
    ResidualOptions,
    ShortcutOptions,
    last_channels,
    residual_stages,
    stem_channels,
)

BINARIZATION = Binarization(
    activation=BinarizerSpec(name="approx_sign"), weight=BinarizerSpec(name="magnitude_aware")
)
PAPER = "Liu et al., Bi-Real Net, arXiv:1808.00278"


def bireal_resnet(options: ShortcutOptions, task: Task) -> nn.Module:
    """Bi-Real Net of blocks with one 3×3 convolution, twice as many as ResNet has blocks of two."""
    first = stem(options.stem, task.in_channels, stem_channels(options), activation="none")
    return ResidualNet(first, residual_stages(options, task), last_channels(options), task.num_classes)


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions, a shortcut around each: two real-valued streams pass through.

    The narrow stream goes from the 3×3 convolution of one block to the first 1×1 of the next; the wide
    one around the whole block. The first block of the network reads the wide one through a leaky clip
    and a real-valued 1×1 convolution.

    Shape: narrow (N, C_in/4, H, W), wide (N, C_in, H, W) -> narrow (N, C/4, H', W'), wide (N, C, H', W').
    Reference: github.com/liuzechun/Bi-Real-net, pytorch_implementation/BiReal_50.
    """

    def __init__(
        self,
        task: Task,
        in_channels: int,
        out_channels: int,
        stride: int,
        options: ResidualOptions,
        first: bool,
    ) -> None:
        super().__init__()
        middle = out_channels // 4
        changes = in_channels != out_channels
        self.first: nn.Module = (
            nn.Sequential(LeakyClip(), real_conv(in_channels, middle, 1, why="first 1×1, next to the stem"))
            if first
            else binary_conv(task, in_channels, middle, 1)
        )
        self.narrow: nn.Module | None = None
        if not first:
            self.narrow = real_conv(in_channels // 4, middle, 1, why=SHORTCUT) if changes else nn.Identity()
        self.pool = average_pool(stride)
        self.second = binary_conv(task, middle, middle, 3, stride)
        self.third = binary_conv(task, middle, out_channels, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for channels in (middle, middle, out_channels))
        self.wide = shortcut(task, in_channels, out_channels, stride, options.downsampling)

    def forward(self, streams: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """See the class."""
        narrow, wide = streams
        x = self.norms[0](self.first(wide))
        x = x if self.narrow is None else x + self.narrow(narrow)
        middle: Tensor = self.norms[1](self.second(x)) + self.pool(x)
        return middle, self.norms[2](self.third(middle)) + self.wide(wide)


class LeakyClip(nn.Module):
    """The input within [−1, 1], a tenth of the slope beyond.

    forward   y = x if |x| <= 1 else sign(x)·(0.9 + 0.1·|x|)

    Reference: github.com/liuzechun/Bi-Real-net.
    """

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return 0.1 * x + 0.9 * x.clamp(-1, 1)


class Streams(nn.Module):
    """Bottlenecks in a row; the stem's output enters as both streams, the wide one leaves."""

    def __init__(self, blocks: nn.Sequential) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        wide: Tensor = self.blocks((x, x))[1]
        return wide


def bireal_bottleneck_net(options: ResidualOptions, task: Task) -> nn.Module:
    """Bi-Real Net of bottlenecks, with 50 or 152 layers."""
    blocks: list[nn.Module] = []
    channels = stem_channels(options)
    for stage, count in enumerate(options.blocks):
        width = 4 * scaled(64 * 2**stage, options.width)
        for position in range(count):
            stride = 2 if stage and not position else 1
            blocks.append(Bottleneck(task, channels, width, stride, options, first=not blocks))
            channels = width
    first = stem(options.stem, task.in_channels, stem_channels(options), activation="none")
    return ResidualNet(first, Streams(nn.Sequential(*blocks)), channels, task.num_classes)


register_models(
    bireal_resnet,
    {f"bireal_resnet{depth}": ShortcutOptions(blocks=DEPTHS[depth]) for depth in (18, 34)},
    BINARIZATION,
    PAPER,
)
register_models(
    bireal_bottleneck_net,
    {f"bireal_resnet{depth}": ResidualOptions(blocks=DEPTHS[depth]) for depth in (50, 152)},
    BINARIZATION,
    PAPER,
)
