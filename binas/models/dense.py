"""Networks whose blocks add channels: BinaryDenseNet, and MeliusNet, which improves what it added.

Bethge et al., Back to Simplicity, arXiv:1906.08637; Bethge et al., MeliusNet, arXiv:2001.05936;
channel numbers and order of layers as in github.com/hpi-xnor/BMXNet-v2-examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from binas.binarize import Binarization, BinarizerSpec
from binas.models.layers import (
    SHORTCUT,
    Downsampling,
    Head,
    binary_conv,
    chain,
    max_pool,
    real_conv,
    scaled,
    stem,
)
from binas.models.model_registry import StemOptions, Task, register_models

GROWTH = 64
SHUFFLE_GROUPS = 16
"""Of the channel shuffle before a grouped transition; the released code's default."""


class DenseOptions(StemOptions):
    """Options of BinaryDenseNet."""

    blocks: tuple[int, ...]
    """Layers of each dense block."""
    reductions: tuple[float, ...]
    """What each transition divides its channels by; rounded to a multiple of 32 (less where width < 1)."""
    growth: int = Field(GROWTH, ge=1)
    """Channels that a layer adds."""
    split: int = Field(1, ge=1)
    """Every layer becomes so many layers that add the same channels together."""
    bottleneck: int = Field(0, ge=0)
    """0: none; n: a 1×1 convolution to n times the growth stands before each 3×3 one."""
    downsampling: Downsampling = "real"
    """Precision of the 1×1 convolutions of transitions; binary ones go with smaller reductions."""

    @model_validator(mode="after")
    def _one_transition_between_blocks(self) -> DenseOptions:
        if len(self.reductions) != len(self.blocks) - 1:
            raise ValueError(f"reductions: {len(self.blocks)} blocks have {len(self.blocks) - 1} transitions")
        if min(self.reductions, default=1) <= 0:
            raise ValueError("reductions: each is above 0")
        return self


class DenseLayer(nn.Module):
    """Batch-norm, binary 3×3 convolution; its output is concatenated to its input.

    Shape: (N, C, H, W) -> (N, C + growth, H, W).
    """

    def __init__(self, task: Task, channels: int, growth: int, bottleneck: int = 0) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.BatchNorm2d(channels)]
        if bottleneck:
            narrow = bottleneck * growth
            layers += [binary_conv(task, channels, narrow, 1), nn.BatchNorm2d(narrow)]
            channels = narrow
        self.body = nn.Sequential(*layers, binary_conv(task, channels, growth, 3))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return torch.cat([x, self.body(x)], dim=1)


class ImprovementLayer(nn.Module):
    """Batch-norm, binary 3×3 convolution; its output is added to the last channels of its input.

    Shape: (N, C, H, W) -> same.
    Reference: MeliusNet, sec. 3.1.
    """

    def __init__(self, task: Task, channels: int, improved: int) -> None:
        super().__init__()
        self.kept = channels - improved
        self.body = nn.Sequential(nn.BatchNorm2d(channels), binary_conv(task, channels, improved, 3))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return torch.cat([x[:, : self.kept], x[:, self.kept :] + self.body(x)], dim=1)


def transition(
    task: Task, in_channels: int, out_channels: int, downsampling: Downsampling = "real", groups: int = 1
) -> nn.Sequential:
    """Batch-norm, 2×2 maximum, ReLU, 1×1 convolution; or 2×2 maximum, batch-norm, sign, binary convolution.

    The binary one pools first: of maxima of four normalised values, 15 of 16 signs would be +1.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H/2), ceil(W/2)).
    Uncertain: what we read of the paper tells the order of the real-valued one alone.
    """
    norm = nn.BatchNorm2d(in_channels)
    if downsampling == "binary":
        return nn.Sequential(max_pool(), norm, binary_conv(task, in_channels, out_channels, 1))
    layers: list[nn.Module] = [norm, max_pool(), nn.ReLU()]
    layers += [nn.ChannelShuffle(SHUFFLE_GROUPS)] if groups > 1 and in_channels % SHUFFLE_GROUPS == 0 else []
    return nn.Sequential(*layers, real_conv(in_channels, out_channels, 1, groups=groups, why=SHORTCUT))


def dense_network(first: nn.Module, body: Sequence[nn.Module], channels: int, num_classes: int) -> nn.Module:
    """Stem, blocks and transitions, batch-norm and ReLU, head."""
    last = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
    return chain(stem=first, body=nn.Sequential(*body), last=last, head=Head(channels, num_classes))


def binary_dense_net(options: DenseOptions, task: Task) -> nn.Module:
    """Stem, dense blocks with transitions between them, head.

    Reference: Back to Simplicity, sec. 4; a layer has no bottleneck, a transition is real-valued.
    """
    channels = scaled(GROWTH, options.width, 16)
    growth = max(1, scaled(options.growth, options.width) // options.split)
    first, body = stem(options.stem, task.in_channels, channels), list[nn.Module]()
    for number, count in enumerate(options.blocks):
        for _ in range(count * options.split):
            body.append(DenseLayer(task, channels, growth, options.bottleneck))
            channels += growth
        if number < len(options.reductions):
            divisor = 32 if options.width >= 1 else 8
            after = max(1, round(channels // options.reductions[number] / divisor)) * divisor
            body.append(transition(task, channels, after, options.downsampling))
            channels = after
    return dense_network(first, body, channels, task.num_classes)


class MeliusOptions(StemOptions):
    """Options of MeliusNet."""

    blocks: tuple[int, ...]
    """Pairs of a dense and an improvement layer, between transitions."""
    transitions: tuple[int, ...]
    """Channels after each transition."""
    transition_groups: int = Field(1, ge=1)
    """Groups of the 1×1 convolutions of transitions; a channel shuffle stands before where above 1."""

    @model_validator(mode="after")
    def _one_transition_between_blocks(self) -> MeliusOptions:
        if len(self.transitions) != len(self.blocks) - 1:
            raise ValueError(f"transitions: {len(self.blocks)} blocks have {len(self.blocks) - 1} of them")
        return self


def melius_net(options: MeliusOptions, task: Task) -> nn.Module:
    """Stem, pairs of dense and improvement layers with transitions between them, head."""
    channels, growth = scaled(GROWTH, options.width, 16), scaled(GROWTH, options.width)
    first, body = stem(options.stem, task.in_channels, channels), list[nn.Module]()
    for number, count in enumerate(options.blocks):
        for _ in range(count):
            body.append(DenseLayer(task, channels, growth))
            channels += growth
            body.append(ImprovementLayer(task, channels, growth))
        if number < len(options.transitions):
            after = scaled(options.transitions[number], options.width)
            body.append(transition(task, channels, after, groups=options.transition_groups))
            channels = after
    return dense_network(first, body, channels, task.num_classes)


def melius(
    blocks: tuple[int, ...],
    transitions: tuple[int, ...],
    groups: int = 1,
    stem: Literal["imagenet", "grouped"] = "grouped",
) -> MeliusOptions:
    """A row of the paper's table."""
    return MeliusOptions(blocks=blocks, transitions=transitions, transition_groups=groups, stem=stem)


register_models(
    binary_dense_net,
    {
        "binary_densenet28": DenseOptions(blocks=(6, 6, 6, 5), reductions=(2.7, 2.7, 2.2)),
        "binary_densenet37": DenseOptions(blocks=(6, 8, 12, 6), reductions=(3.3, 3.3, 4)),
        "binary_densenet45": DenseOptions(blocks=(6, 12, 14, 8), reductions=(2.7, 3.3, 4)),
    },
    Binarization(
        activation=BinarizerSpec(name="sign", window=1.3),
        weight=BinarizerSpec(name="bnn", window=1.3, clip=1.3),
    ),
    "Bethge et al., Back to Simplicity, arXiv:1906.08637",
)
register_models(
    melius_net,
    {
        "meliusnet22": melius((4, 5, 4, 4), (160, 224, 256), stem="imagenet"),
        "meliusnet29": melius((4, 6, 8, 6), (128, 192, 256), stem="imagenet"),
        "meliusnet42": melius((5, 8, 14, 10), (160, 256, 416)),
        "meliusnet59": melius((6, 12, 24, 12), (192, 320, 544)),
        "meliusnet_a": melius((4, 5, 5, 6), (160, 256, 288), groups=4),
        "meliusnet_b": melius((4, 6, 8, 6), (160, 224, 320), groups=2),
        "meliusnet_c": melius((3, 5, 10, 6), (128, 192, 288), groups=4),
    },
    Binarization(
        activation=BinarizerSpec(name="sign", window=1.3),
        weight=BinarizerSpec(name="bnn", window=1.3, clip=1.3),
    ),
    "Bethge et al., MeliusNet, arXiv:2001.05936",
)
