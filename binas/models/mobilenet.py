"""Binary MobileNets: group convolutions in place of depthwise ones, and real-valued shortcuts.

Howard et al., MobileNets, arXiv:1704.04861, table 1; Phan et al., Binarizing MobileNet via
Evolution-based Searching, arXiv:2005.06305; Phan et al., MoBiNet, arXiv:1907.12629.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from binas.binarize import Binarization, BinarizerSpec
from binas.errors import UserError
from binas.models.layers import FIRST, Head, average_pool, binary_conv, chain, real_conv, scaled
from binas.models.model_registry import Task, WidthOptions, register_models

CHANNELS = (32, 64, *(128,) * 2, *(256,) * 2, *(512,) * 6, *(1024,) * 2)
"""After the first convolution and after each of the 13 blocks."""
NUM_BLOCKS = len(CHANNELS) - 1
BINARIZATION = Binarization(activation=BinarizerSpec(name="approx_sign"), weight=BinarizerSpec(name="xnor"))


class MobileOptions(WidthOptions):
    """Options that binary MobileNets share."""

    stem: Literal["imagenet", "cifar"] = "imagenet"
    """The first 3×3 convolution has stride 2 (imagenet) or 1 (cifar)."""


class GroupOptions(MobileOptions):
    """Options of the MobileNet with group convolutions."""

    groups: tuple[int, ...] = (4,) * NUM_BLOCKS
    """Groups of the 3×3 convolution of each of the 13 blocks; each divides its block's channels."""

    @field_validator("groups")
    @classmethod
    def _one_for_each_block(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(value) != NUM_BLOCKS or min(value) < 1:
            raise ValueError(f"{NUM_BLOCKS} numbers from 1 on are needed, one for each block")
        return value


class MobiNetOptions(MobileOptions):
    """Options of MoBiNet."""

    block: Literal["pre", "mid", "post"] = "mid"
    """Shortcut around the 3×3 convolution (pre), around each of the two (mid), around both at once (post)."""
    dependency: int = Field(4, ge=1)
    """K: input channels that each output channel of a 3×3 convolution reads; 1 is depthwise."""


class Around(nn.Module):
    """Binary layers with a shortcut around them: average pool, channels repeated.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H/stride), ceil(W/stride)), C_out a multiple of C_in.
    """

    def __init__(self, body: nn.Module, stride: int, copies: int) -> None:
        super().__init__()
        self.body, self.pool, self.copies = body, average_pool(stride), copies

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.body(x) + torch.cat([self.pool(x)] * self.copies, dim=1)
        return y


def mobile_block(
    task: Task,
    in_channels: int,
    out_channels: int,
    stride: int,
    groups: int,
    block: Literal["pre", "mid", "post"] = "mid",
) -> nn.Sequential:
    """Sign, 3×3 group convolution, batch-norm; sign, 1×1 convolution, batch-norm; with shortcuts.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H/stride), ceil(W/stride)).
    """
    spatial = nn.Sequential(
        binary_conv(task, in_channels, in_channels, 3, stride, groups), nn.BatchNorm2d(in_channels)
    )
    pointwise = nn.Sequential(binary_conv(task, in_channels, out_channels, 1), nn.BatchNorm2d(out_channels))
    copies = out_channels // in_channels
    match block:
        case "pre":
            return nn.Sequential(Around(spatial, stride, 1), pointwise)
        case "mid":
            return nn.Sequential(Around(spatial, stride, 1), Around(pointwise, 1, copies))
        case "post":
            return nn.Sequential(Around(nn.Sequential(spatial, pointwise), stride, copies))


def mobile_net(
    options: MobileOptions, task: Task, groups: list[int], block: Literal["pre", "mid", "post"]
) -> nn.Module:
    """First convolution, 13 blocks, head; a stride wherever channels rise above 64."""
    channels = block_channels(options)
    stride = 2 if options.stem == "imagenet" else 1
    blocks = [
        mobile_block(task, before, after, 2 if after > before and position else 1, count, block)
        for position, (before, after, count) in enumerate(zip(channels, channels[1:], groups, strict=False))
    ]
    first = nn.Sequential(
        real_conv(task.in_channels, channels[0], 3, stride, why=FIRST), nn.BatchNorm2d(channels[0])
    )
    head = Head(channels[-1], task.num_classes)
    return chain(stem=first, blocks=nn.Sequential(*blocks), head=head)


def block_channels(options: WidthOptions) -> list[int]:
    """Channels after the first convolution and after each block."""
    first = scaled(CHANNELS[0], options.width)
    return [first * channels // CHANNELS[0] for channels in CHANNELS]


def mobilenet_group(options: GroupOptions, task: Task) -> nn.Module:
    """MobileNet v1 whose depthwise convolutions are group convolutions, with a shortcut around each layer.

    Deviation: the groups that the search of the paper found are not known to us; 4 everywhere is ours.

    Raises:
        UserError: a number of groups does not divide its block's channels.
    """
    for position, (channels, groups) in enumerate(zip(block_channels(options), options.groups, strict=False)):
        if channels % groups:
            raise UserError(
                f"model: groups.{position}: {groups} does not divide the {channels} channels of block"
                f" {position}; take a divisor of {channels}"
            )
    return mobile_net(options, task, list(options.groups), "mid")


def mobinet(options: MobiNetOptions, task: Task) -> nn.Module:
    """MobileNet v1 with MoBiNet's shortcuts, each output of a 3×3 convolution reading K channels.

    Uncertain: where the shortcuts of the three blocks begin and end is read from the paper's names and
    its abstract, not from its figure.

    Raises:
        UserError: K does not divide the channels.
    """
    channels = block_channels(options)
    if channels[0] % options.dependency:
        raise UserError(
            f"model: dependency: {options.dependency} does not divide the {channels[0]} channels of the first"
            " block; take a divisor of them"
        )
    groups = [count // options.dependency for count in channels[:-1]]
    return mobile_net(options, task, groups, options.block)


register_models(
    mobilenet_group,
    {"mobilenet_group": GroupOptions()},
    BINARIZATION,
    "Phan et al., Binarizing MobileNet, arXiv:2005.06305",
)
register_models(
    mobinet, {"mobinet": MobiNetOptions()}, BINARIZATION, "Phan et al., MoBiNet, arXiv:1907.12629"
)
