"""ResNet-20 for small images, with a shortcut around every binary convolution.

He et al., Deep Residual Learning, arXiv:1512.03385, sec. 4.2; binary as in Qin et al., IR-Net,
arXiv:1909.10788, whose released network has hard-tanh behind every sum.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from binas.binarize import Binarization, BinarizerSpec
from binas.models.layers import Head, binary_conv, chain, scaled, shortcut, stem
from binas.models.model_registry import Task, WidthOptions, register_models
from binas.ops.nonlinearities import HardTanh


class ResNet20Options(WidthOptions):
    """Options of ResNet-20."""

    stem: Literal["imagenet", "cifar"] = "cifar"
    """See `StemOptions`."""
    downsampling: Literal["pad", "real", "binary"] = "pad"
    """Shortcuts that halve the size: every second pixel with zeros for new channels, or a 1×1 convolution."""


class PaddedShortcut(nn.Module):
    """Every second pixel, new channels zero on both sides: a shortcut without parameters.

    Shape: (N, C, H, W) -> (N, C + 2·added, ceil(H/2), ceil(W/2)).
    Reference: He et al., arXiv:1512.03385, option A.
    """

    def __init__(self, added: int) -> None:
        super().__init__()
        self.added = added

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added, self.added))


class SmallBlock(nn.Module):
    """Sign, binary 3×3 convolution, batch-norm, shortcut, hard-tanh.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H/stride), ceil(W/stride)).
    """

    def __init__(
        self, task: Task, in_channels: int, out_channels: int, stride: int, options: ResNet20Options
    ) -> None:
        super().__init__()
        self.conv = binary_conv(task, in_channels, out_channels, 3, stride)
        self.norm = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module
        if options.downsampling == "pad" and stride == 2:
            self.shortcut = PaddedShortcut((out_channels - in_channels) // 2)
        else:
            kind: Literal["real", "binary"] = "binary" if options.downsampling == "binary" else "real"
            self.shortcut = shortcut(task, in_channels, out_channels, stride, kind)
        self.activation = HardTanh(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.activation(self.norm(self.conv(x)) + self.shortcut(x))
        return y


def resnet20(options: ResNet20Options, task: Task) -> nn.Module:
    """3×3 convolution, three stages of six binary convolutions with 16, 32, 64 channels, head."""
    widths = [scaled(16 * 2**stage, options.width) for stage in range(3)]
    blocks = []
    channels = widths[0]
    for stage, width in enumerate(widths):
        for position in range(6):
            stride = 2 if stage and not position else 1
            blocks.append(SmallBlock(task, channels, width, stride, options))
            channels = width
    first = stem(options.stem, task.in_channels, widths[0], activation="none")
    head = Head(channels, task.num_classes)
    return chain(stem=first, stages=nn.Sequential(*blocks), head=head)


register_models(
    resnet20,
    {"resnet20": ResNet20Options()},
    Binarization(activation=BinarizerSpec(name="ede"), weight=BinarizerSpec(name="libra")),
    "Qin et al., IR-Net, arXiv:1909.10788",
    twin_activation="none",
)
