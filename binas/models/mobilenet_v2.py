"""MobileNetV2 with binary layers, and with bits of its own for the weights and activations of every block.

Sandler et al., MobileNetV2, arXiv:1801.04381, table 2; Wang et al., APQ, arXiv:2006.08509.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from binas.binarize import Binarization, BinarizerSpec, LayerRule
from binas.config import Config
from binas.models.layers import FIRST, Head, binary_conv, chain, real_conv, scaled
from binas.models.model_registry import Task, WidthOptions, register_models
from binas.ops.nonlinearities import HardTanh

Bits = Literal[1, 2, 4, 8, "real"]
BINARIZATION = Binarization(activation=BinarizerSpec(name="sign"), weight=BinarizerSpec(name="xnor"))
WHY_LAST = "last convolution: what it gives is compared as real numbers by the classifier"


class BlockBits(Config):
    """Bits of a block's weights and activations; an activation's are those of what a convolution reads."""

    pointwise_weight: Bits = 1
    """Bits of the weights of both 1×1 convolutions: 1, 2, 4, 8 or real."""
    pointwise_activation: Bits = 1
    """Bits of what the 1×1 convolutions read."""
    depthwise_weight: Bits = 1
    """Bits of the weights of the depthwise convolution."""
    depthwise_activation: Bits = 1
    """Bits of what the depthwise convolution reads."""


class BlockOptions(Config):
    """One inverted bottleneck."""

    kernel: Literal[3, 5, 7] = 3
    """Side of the depthwise convolution."""
    expansion: float = Field(6, gt=0)
    """Middle channels as a multiple of those that enter the block."""
    kept: float = Field(1.0, gt=0, le=1)
    """Part of the middle channels that channel pruning leaves."""
    bits: BlockBits = BlockBits()

    @property
    def expands(self) -> bool:
        """Whether there is an expanding 1×1 convolution; not where the middle is the input itself."""
        return (self.expansion, self.kept) != (1, 1)

    def middle(self, in_channels: int) -> int:
        """Channels of the depthwise convolution: a multiple of 8, or those that enter the block."""
        if not self.expands:
            return in_channels
        return max(1, round(in_channels * self.expansion * self.kept / 8)) * 8


class StageBlocks(Config):
    """Blocks of one width and size."""

    channels: int = Field(ge=1)
    """What each block gives."""
    stride: Literal[1, 2] = 1
    """Of the first block."""
    blocks: tuple[BlockOptions, ...] = Field(min_length=1)
    """In order."""


def published_stages() -> tuple[StageBlocks, ...]:
    """Expansion, channels, blocks and stride of MobileNetV2."""
    table = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    return tuple(
        StageBlocks(channels=channels, stride=stride, blocks=(BlockOptions(expansion=expansion),) * count)
        for expansion, channels, count, stride in table
    )


class InvertedOptions(WidthOptions):
    """Options of networks of inverted bottlenecks."""

    stem: Literal["imagenet", "cifar"] = "imagenet"
    """The first 3×3 convolution has stride 2 (imagenet) or 1 (cifar)."""
    first_channels: int = Field(32, ge=1)
    """Of the first convolution."""
    stages: tuple[StageBlocks, ...] = Field(default_factory=published_stages, min_length=1)
    """Blocks of one width and size after another; a stage of fewer blocks lacks the last ones."""
    last_channels: int = Field(1280, ge=0)
    """Of the real-valued 1×1 convolution before the classifier; 0: there is none."""


class InvertedBlock(nn.Sequential):
    """1×1, depthwise and 1×1 convolution, each after batch-norm and hard-tanh, then a batch-norm.

    forward   y = f(x), or x + f(x) where stride is 1 and the channels agree

    The hard-tanh is the nonlinearity of layers that are real; quantized ones cut at ±1 themselves, and a sign
    gives the same values and passes the same gradient with it.

    Args:
        in_channels, out_channels: of the block.
        stride: of the depthwise convolution.
    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H/stride), ceil(W/stride)).
    Reference: Sandler et al., arXiv:1801.04381, sec. 3.
    Deviation: a hard-tanh before each convolution, with a batch-norm before the first one too, in place of
        ReLU6 after the first two: a sign needs numbers on both sides of zero.
    """

    def __init__(
        self, task: Task, options: BlockOptions, in_channels: int, out_channels: int, stride: int
    ) -> None:
        middle = options.middle(in_channels)
        parts: list[tuple[str, nn.Module]] = []
        if options.expands:
            parts += _clipped("expand", in_channels)
            parts += [("expand", binary_conv(task, in_channels, middle, 1))]
        parts += _clipped("depthwise", middle)
        parts += [("depthwise", binary_conv(task, middle, middle, options.kernel, stride, middle))]
        parts += _clipped("project", middle)
        parts += [("project", binary_conv(task, middle, out_channels, 1))]
        super().__init__(OrderedDict([*parts, ("norm", nn.BatchNorm2d(out_channels))]))
        self.adds = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return x + y if self.adds else y


def _clipped(name: str, channels: int) -> list[tuple[str, nn.Module]]:
    return [(f"{name}_norm", nn.BatchNorm2d(channels)), (f"{name}_clip", HardTanh(channels))]


def block_inputs(options: InvertedOptions) -> tuple[tuple[int, ...], ...]:
    """Channels that enter each block, stage by stage."""
    inputs, before = [], scaled(options.first_channels, options.width)
    for stage in options.stages:
        channels = scaled(stage.channels, options.width)
        inputs.append((before, *(channels for _ in stage.blocks[1:])))
        before = channels
    return tuple(inputs)


def mobilenet_v2(options: InvertedOptions, task: Task) -> nn.Module:
    """First convolution, stages of inverted bottlenecks, a real-valued 1×1 convolution, head.

    Every block has its own kernel, expansion and bits.

    Deviation: `width` also scales the last convolution, which MobileNetV2 keeps at 1280 for widths below 1;
        rounding is to the nearest multiple of 8.
    """
    stages = []
    for stage, inputs in zip(options.stages, block_inputs(options), strict=True):
        channels = scaled(stage.channels, options.width)
        blocks = [
            InvertedBlock(task, block, in_channels, channels, 1 if position else stage.stride)
            for position, (block, in_channels) in enumerate(zip(stage.blocks, inputs, strict=True))
        ]
        stages.append(nn.Sequential(*blocks))
    last = _clipped("input", channels)
    if options.last_channels:
        given = scaled(options.last_channels, options.width)
        last += [("conv", real_conv(channels, given, 1, why=WHY_LAST)), *_clipped("output", given)]
        channels = given
    first = scaled(options.first_channels, options.width)
    stem = real_conv(task.in_channels, first, 3, 2 if options.stem == "imagenet" else 1, why=FIRST)
    return chain(
        stem=stem,
        stages=nn.Sequential(*stages),
        last=nn.Sequential(OrderedDict(last)),
        head=Head(channels, task.num_classes),
    )


def rules_of_bits(options: InvertedOptions) -> tuple[LayerRule, ...]:
    """A rule for each convolution of a block whose bits are other than one of each."""
    rules = []
    for s, stage in enumerate(options.stages):
        for b, block in enumerate(stage.blocks):
            bits = block.bits
            pointwise = bits.pointwise_weight, bits.pointwise_activation
            depthwise = bits.depthwise_weight, bits.depthwise_activation
            layers = {"expand": pointwise, "depthwise": depthwise, "project": pointwise}
            rules += [
                rule_of_bits(f"stages.{s}.{b}.{name}", weight, activation)
                for name, (weight, activation) in layers.items()
                if (weight, activation) != (1, 1) and (name != "expand" or block.expands)
            ]
    return tuple(rules)


def rule_of_bits(path: str, weight: Bits, activation: Bits) -> LayerRule:
    """The rule that gives the layer at a path these bits: evenly spaced levels from −1 to 1.

    Activations of several bits learn their outermost level, which is 1 at first (`dsq`).
    """
    if weight == activation == "real":
        return LayerRule(match=path, precision="real")
    read, kept = BINARIZATION.activation, BINARIZATION.weight
    if activation not in (1, "real"):
        read = BinarizerSpec.model_validate({"name": "dsq", "bits": activation, "bound": 1.0})
    if weight not in (1, "real"):
        kept = BinarizerSpec.model_validate({"name": "dorefa", "bits": weight})
    precision: Literal["binary", "real_weights", "real_activations"] = "binary"
    if weight == "real":
        precision = "real_weights"
    elif activation == "real":
        precision = "real_activations"
    return LayerRule(match=path, binarization=Binarization(activation=read, weight=kept), precision=precision)


register_models(
    mobilenet_v2,
    {"mobilenet_v2": InvertedOptions()},
    BINARIZATION,
    "Sandler et al., MobileNetV2, arXiv:1801.04381; Wang et al., APQ, arXiv:2006.08509",
    twin_activation="none",
    rules=rules_of_bits,
)
