"""The network that a macro genotype stands for: stem, stages of blocks of two halves, classifier."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from binas.arch.cell import global_average
from binas.arch.macro_genotype import MacroGenotype, MacroStem, PlacedBlock, SkipKind
from binas.arch.macro_space import MacroSpace
from binas.arch.network import check_choices
from binas.arch.stem import real_convolution
from binas.binarize import Binarization, BinaryConv2d, LayerRule
from binas.binarize.precision import choose_estimator
from binas.binarize.rules import own_by_rules
from binas.ops.nonlinearities import build_nonlinearity

WHY_SKIP = "down-sampling shortcut; the block sets skip: real"


class Shortcut(nn.Module):
    """What goes around a half of a block.

    forward   channel c of the output is channel c mod C_in of the pooled input

    Args:
        in_channels, out_channels: of the half.
        stride: 1, or 2, which a 2×2 pool takes; what is left at an odd border is pooled too.
        kind: `average` or `max` pool; `real`: average pool, real-valued 1×1 convolution and batch-norm
            wherever width or size change.
    Shape: (N, C_in, H, W) -> (N, C_out, ⌈H/stride⌉, ⌈W/stride⌉).
    Reference: Lin et al., NAS-BNN, arXiv:2408.15484, for pooling and repeating channels.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, kind: SkipKind) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        pool = nn.MaxPool2d if kind == "max" else nn.AvgPool2d
        self.pool: nn.Module = nn.Identity() if stride == 1 else pool(2, ceil_mode=True)
        self.project: nn.Module | None = None
        if kind == "real" and (stride != 1 or in_channels != out_channels):
            conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
            conv.why_real = WHY_SKIP  # type: ignore[assignment]
            self.project = nn.Sequential(conv, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.pool(x)
        if self.project is not None:
            projected: Tensor = self.project(x)
            return projected
        if self.in_channels == self.out_channels:
            return x
        copies = -(-self.out_channels // self.in_channels)
        return torch.cat([x] * copies, dim=1)[:, : self.out_channels]


class Half(nn.Module):
    """Binary convolution, batch-norm, shortcut, activation.

    forward   y = activation(norm(conv(x)) + shortcut(x))

    Shape: (N, C_in, H, W) -> (N, C_out, ⌈H/stride⌉, ⌈W/stride⌉).
    """

    def __init__(self, conv: BinaryConv2d, activation: str, skip: SkipKind) -> None:
        super().__init__()
        channels = conv.out_channels
        self.conv = conv
        self.norm = nn.BatchNorm2d(channels)
        self.shortcut = None if skip == "none" else Shortcut(conv.in_channels, channels, conv.stride, skip)
        self.activation = build_nonlinearity(activation, channels)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = self.norm(self.conv(x))
        if self.shortcut is not None:
            y = y + self.shortcut(x)
        activated: Tensor = self.activation(y)
        return activated


class MacroBlock(nn.Sequential):
    """A k×k convolution that keeps the width, then a 1×1 convolution that brings the stage's.

    Args:
        place: the block with its widths and stride.
        binarizations: of all training stages.
    Shape: (N, C_in, H, W) -> (N, C_out, ⌈H/stride⌉, ⌈W/stride⌉).
    Reference: Lin et al., NAS-BNN, arXiv:2408.15484; halves as in Liu et al., ReActNet, arXiv:2003.03488.
    """

    def __init__(self, place: PlacedBlock, binarizations: tuple[Binarization, ...]) -> None:
        block, width = place.block, place.in_channels
        if block.estimator is not None:
            binarizations = tuple(one.with_activation(block.estimator) for one in binarizations)
        spatial = BinaryConv2d(
            width,
            width,
            block.kernel_size,
            place.stride,
            block.kernel_size // 2,
            groups=block.groups,
            binarizations=binarizations,
        )
        pointwise = BinaryConv2d(width, place.out_channels, 1, binarizations=binarizations)
        halves = {"spatial": spatial, "pointwise": pointwise}
        super().__init__(
            OrderedDict((name, Half(conv, block.activation, block.skip)) for name, conv in halves.items())
        )
        if block.estimator is not None:
            choose_estimator(self, block.estimator)


def stem_of(stem: MacroStem, in_channels: int) -> nn.Sequential:
    """What reads the pixels. Shape: (N, C, H, W) -> (N, stem channels, ⌈H/stride⌉, ⌈W/stride⌉)."""
    return nn.Sequential(
        real_convolution(in_channels, stem.channels, stem.stride), nn.BatchNorm2d(stem.channels)
    )


def channels_last(x: Tensor) -> Tensor:
    """The same values with channels innermost, in which a chain trains a fifth faster on the CPU."""
    return x.contiguous(memory_format=torch.channels_last)


class MacroNetwork(nn.Module):
    """A network built from a macro genotype; its first and last layers are real-valued.

    Args:
        genotype: the chain.
        in_channels, num_classes: of the data.
        space: the macro space that it is of.
        binarizations: of all training stages; empty means the space's own.
        layers: rules of all training stages, as many as binarizations; empty means the space's own.
    Shape: (N, in_channels, H, W) -> (N, num_classes).
    Raises:
        UserError: the genotype is none of its space, or names what nothing registers.
    """

    def __init__(
        self,
        genotype: MacroGenotype,
        in_channels: int,
        num_classes: int,
        space: MacroSpace,
        *,
        binarizations: tuple[Binarization, ...] = (),
        layers: tuple[tuple[LayerRule, ...], ...] = (),
    ) -> None:
        super().__init__()
        check_member(genotype, space)
        self.genotype, self.space = genotype, space
        self.in_channels, self.num_classes = in_channels, num_classes
        stages = binarizations or (space.binarization,)
        self.stem = stem_of(genotype.stem, in_channels)
        self.stages = nn.ModuleList(nn.Sequential() for _ in genotype.stages)
        for place in genotype.blocks():
            stage = self.stages[place.stage]
            assert isinstance(stage, nn.Sequential)
            stage.append(MacroBlock(place, stages))
        self.classifier = nn.Linear(genotype.stages[-1].channels, num_classes)
        self.classifier.why_real = "last layer: its outputs are compared as real numbers"  # type: ignore[assignment]
        own_by_rules(self, list(zip(stages, layers or (space.layers,) * len(stages), strict=True)))

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        x = channels_last(self.stem(x))
        for stage in self.stages:
            x = stage(x)
        logits: Tensor = self.classifier(global_average(x))
        return logits


def check_member(genotype: MacroGenotype, space: MacroSpace) -> None:
    """Raises a `UserError` where a genotype is none of a space, or names what nothing registers."""
    space.check(genotype)
    for place in genotype.blocks():
        where = f"genotype: stages.{place.stage}.blocks.{place.position}"
        check_choices(where, place.block.activation, place.block.estimator)
