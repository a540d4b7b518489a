"""ReActNet: a MobileNet whose blocks duplicate and concatenate to widen, and Bi-Real's network, both with
learned shifts: RSign (the binarizer `rsign`) and RPReLU.

Liu et al., ReActNet, arXiv:2003.03488, sec. 4; layers as in github.com/liuzechun/ReActNet.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from binas.binarize import Binarization, BinarizerSpec
from binas.models.layers import (
    FIRST,
    SHORTCUT,
    Downsampling,
    Head,
    average_pool,
    binary_conv,
    real_conv,
    stem,
)
from binas.models.mobilenet import block_channels
from binas.models.model_registry import Task, WidthOptions, register_models
from binas.models.residual import (
    DEPTHS,
    ResidualConv,
    ResidualNet,
    ResidualOptions,
    last_channels,
    stages,
    stem_channels,
)
from binas.ops.nonlinearities import RPReLU

BINARIZATION = Binarization(activation=BinarizerSpec(name="rsign"), weight=BinarizerSpec(name="react"))
PAPER = "Liu et al., ReActNet, arXiv:2003.03488"


class ReActNetOptions(WidthOptions):
    """Options of ReActNet-A, B and C."""

    stem: Literal["imagenet", "cifar"] = "imagenet"
    """The first 3×3 convolution has stride 2 (imagenet) or 1 (cifar)."""
    downsampling: Downsampling = "binary"
    """Of the 1×1 convolutions that double the channels: binary (A), real (B, C)."""
    downsampling_groups: int = 1
    """Groups of those where they are real-valued: 4 in B, 1 in C."""


class ReActBlock(nn.Module):
    """3×3 and 1×1 convolution, each with a shortcut, and RPReLU behind both.

    y = act(norm(conv3(sign(x))) + pool(x));  z = act(norm(conv1(sign(y))) + y)

    Where channels double, the 1×1 convolution gives twice as many and y is concatenated with itself;
    that is the two convolutions of the paper, whose sign is shared.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H/stride), ceil(W/stride)), C_out is C_in or twice that.
    Uncertain: the paper calls the layers that B and C make real-valued "downsampling" ones. All five that
        double the channels are taken, the first of stride 1 among them: with the four of stride 2 alone
        the counts do not come out as printed. They read y itself, not its sign; the paper does not say.
    """

    def __init__(
        self, task: Task, in_channels: int, out_channels: int, stride: int, options: ReActNetOptions
    ) -> None:
        super().__init__()
        self.spatial = nn.Sequential(
            binary_conv(task, in_channels, in_channels, 3, stride), nn.BatchNorm2d(in_channels)
        )
        self.pool = average_pool(stride)
        self.middle = RPReLU(in_channels)
        self.copies = out_channels // in_channels
        groups = options.downsampling_groups
        self.pointwise = nn.Sequential(
            real_conv(in_channels, out_channels, 1, groups=groups, why=SHORTCUT)
            if self.copies > 1 and options.downsampling == "real"
            else binary_conv(task, in_channels, out_channels, 1),
            nn.BatchNorm2d(out_channels),
        )
        self.last = RPReLU(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.middle(self.spatial(x) + self.pool(x))
        z: Tensor = self.last(self.pointwise(y) + torch.cat([y] * self.copies, dim=1))
        return z


class ReActNet(nn.Sequential):
    """First convolution and batch-norm, 13 blocks, head; a stride wherever channels rise above 64.

    Shape: (N, C, H, W) -> (N, num_classes).
    """

    def __init__(self, options: ReActNetOptions, task: Task) -> None:
        channels = block_channels(options)
        first_stride = 2 if options.stem == "imagenet" else 1
        blocks = [
            ReActBlock(task, before, after, 2 if after > before and position else 1, options)
            for position, (before, after) in enumerate(pairwise(channels))
        ]
        first = nn.Sequential(
            real_conv(task.in_channels, channels[0], 3, first_stride, why=FIRST), nn.BatchNorm2d(channels[0])
        )
        head = Head(channels[-1], task.num_classes)
        super().__init__(OrderedDict(stem=first, blocks=nn.Sequential(*blocks), head=head))


def react_resnet(options: ResidualOptions, task: Task) -> nn.Module:
    """Bi-Real's network with RSign, and RPReLU behind every sum."""

    def block(in_channels: int, out_channels: int, stride: int) -> nn.Module:
        after = RPReLU(out_channels)
        return ResidualConv(task, in_channels, out_channels, stride, options.downsampling, after)

    first = stem(options.stem, task.in_channels, stem_channels(options), activation="none")
    return ResidualNet(first, stages(options, block, 2), last_channels(options), task.num_classes)


register_models(
    ReActNet,
    {
        "reactnet_a": ReActNetOptions(),
        "reactnet_b": ReActNetOptions(downsampling="real", downsampling_groups=4),
        "reactnet_c": ReActNetOptions(downsampling="real"),
    },
    BINARIZATION,
    PAPER,
    twin_activation="none",
)
register_models(
    react_resnet,
    {"reactnet_resnet18": ResidualOptions(blocks=DEPTHS[18])},
    BINARIZATION,
    PAPER,
    twin_activation="none",
)
