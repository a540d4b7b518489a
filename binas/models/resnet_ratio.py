"""AutoBNN's ResNet-18: the widths of stages and of the middle of every block follow a ratio code.

Shen et al., Searching for Accurate Binary Neural Architectures, arXiv:1909.07378;
github.com/LaVieEnRoseSMZ/AutoBNN, resnet18.py.
"""

from __future__ import annotations

from pydantic import field_validator
from torch import Tensor, nn

from binas.binarize import Binarization, BinarizerSpec
from binas.models.layers import Downsampling, Stem, binary_conv, scaled, shortcut, stem
from binas.models.model_registry import Task, WidthOptions, register_models
from binas.models.residual import ResidualNet

NUM_STAGES, BLOCKS = 4, 2


class RatioOptions(WidthOptions):
    """Options of AutoBNN's ResNet-18."""

    stem: Stem = "imagenet"
    """See `StemOptions`; `grouped` needs a first ratio that gives a multiple of 16 channels."""
    downsampling: Downsampling = "binary"
    """Precision of the 1×1 convolutions of shortcuts."""
    ratios: tuple[float, ...] = (1.0,) * (NUM_STAGES + NUM_STAGES * BLOCKS)
    """Widths of the four stages, then of the middles of the eight blocks, times 64, 128, 256, 512."""

    @field_validator("ratios")
    @classmethod
    def _twelve(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(value) != 12 or not min(value) > 0:
            raise ValueError("12 numbers above 0 are needed: four stages, then eight blocks")
        return value


class RatioBlock(nn.Module):
    """Two times sign, binary 3×3 convolution and batch-norm, and one shortcut around them.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H/stride), ceil(W/stride)).
    """

    def __init__(
        self,
        task: Task,
        in_channels: int,
        middle: int,
        out_channels: int,
        stride: int,
        downsampling: Downsampling,
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            binary_conv(task, in_channels, middle, 3, stride),
            nn.BatchNorm2d(middle),
            binary_conv(task, middle, out_channels, 3),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = shortcut(task, in_channels, out_channels, stride, downsampling)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.body(x) + self.shortcut(x)
        return y


def ratio_resnet(options: RatioOptions, task: Task) -> nn.Module:
    """Stem as wide as the first stage, four stages of two blocks, ReLU, head.

    Deviation: the released code reads the ratio of every stage's second block correctly only because
        each stage has two blocks; the meaning is the same here.
    """
    ratios, bases = options.ratios, [scaled(64 * 2**stage, options.width) for stage in range(NUM_STAGES)]
    widths = [max(1, int(base * ratio)) for base, ratio in zip(bases, ratios, strict=False)]
    channels, blocks = widths[0], []
    for stage, width in enumerate(widths):
        for position in range(BLOCKS):
            middle = max(1, int(bases[stage] * ratios[NUM_STAGES + BLOCKS * stage + position]))
            stride = 2 if stage and not position else 1
            blocks.append(RatioBlock(task, channels, middle, width, stride, options.downsampling))
            channels = width
    first = stem(options.stem, task.in_channels, widths[0], activation="none")
    return ResidualNet(first, nn.Sequential(*blocks), channels, task.num_classes, (nn.ReLU(),))


register_models(
    ratio_resnet,
    {
        "autobnn_resnet18": RatioOptions(),
        "autobnn_resnet18_a": RatioOptions(ratios=(2, 4, 2, 2, 2, 4, 4, 4, 4, 4, 4, 4)),
        "autobnn_resnet18_b": RatioOptions(ratios=(3, 4, 4, 3, 1, 4, 4, 4, 3, 3, 3, 3)),
    },
    Binarization(activation=BinarizerSpec(name="sign"), weight=BinarizerSpec(name="dorefa", bits=1)),
    "Shen et al., AutoBNN, arXiv:1909.07378",
)
