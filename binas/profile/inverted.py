"""Networks of inverted bottlenecks in closed form, so that thousands can be counted in a search.

Follows `binas.models.mobilenet_v2` layer by layer; a test holds it equal to what runs.
"""

from __future__ import annotations

import math
from functools import lru_cache

from binas.binarize import Binarization, LayerRule
from binas.models.layers import FIRST, LAST, scaled
from binas.models.mobilenet_v2 import (
    BINARIZATION,
    WHY_LAST,
    Bits,
    BlockOptions,
    InvertedOptions,
    block_inputs,
    rule_of_bits,
)
from binas.ops import OpContext
from binas.profile.cost import LayerCost, Profile, Shape
from binas.profile.formulas import Place, activation, batch_norm, binary_conv, linear, real_conv


def profile_inverted(
    options: InvertedOptions,
    in_channels: int,
    image_size: tuple[int, int],
    num_classes: int,
    *,
    binarization: Binarization = BINARIZATION,
) -> Profile:
    """The profile of the network with these options in the precision that they say.

    Args:
        options: not of the full-precision twin.
        in_channels: of the images.
        image_size: height and width.
        num_classes: outputs of the head.
        binarization: of layers with one bit for weights and activations.
    """
    first = scaled(options.first_channels, options.width)
    stride = 2 if options.stem == "imagenet" else 1
    stem = real_conv("stem", (in_channels, *image_size), first, 3, stride, 1, why=FIRST)
    layers, shape = [stem], stem.output_shape
    for s, (stage, inputs) in enumerate(zip(options.stages, block_inputs(options), strict=True)):
        channels = scaled(stage.channels, options.width)
        for b, block in enumerate(stage.blocks):
            name, own = f"stages.{s}.{b}", 1 if b else stage.stride
            layers += _block(name, block, shape, channels, own, binarization)
            if own == 1 and inputs[b] == channels:
                layers.append(_addition(name, layers[-1].output_shape))
            shape = layers[-1].output_shape
    layers += _clipped("last.input", shape)
    if options.last_channels:
        given = scaled(options.last_channels, options.width)
        conv = real_conv("last.conv", shape, given, 1, 1, 0, why=WHY_LAST)
        shape = conv.output_shape
        layers += [conv, *_clipped("last.output", shape)]
    head = linear("head.classifier", shape[0], num_classes, LAST)
    average = LayerCost("head", "pool", shape, head.output_shape, extra_operations=math.prod(shape))
    return Profile((*layers, head, average))


def _block(
    name: str, block: BlockOptions, shape: Shape, channels: int, stride: int, binarization: Binarization
) -> list[LayerCost]:
    middle, bits = block.middle(shape[0]), block.bits
    pointwise = bits.pointwise_weight, bits.pointwise_activation
    depthwise = bits.depthwise_weight, bits.depthwise_activation
    rows = [
        ("depthwise", middle, block.kernel, stride, middle, depthwise),
        ("project", channels, 1, 1, 1, pointwise),
    ]
    if block.expands:
        rows.insert(0, ("expand", middle, 1, 1, 1, pointwise))
    layers: list[LayerCost] = []
    for part, outputs, kernel, step, groups, own in rows:
        layers += _clipped(f"{name}.{part}", shape)
        place = _place(shape, step, own, binarization)
        conv = binary_conv(place, f"{name}.{part}", shape, outputs, kernel, step, kernel // 2, groups=groups)
        layers.append(conv)
        shape = conv.output_shape
    return [*layers, batch_norm(f"{name}.norm", shape, affine=True)]


def _place(shape: Shape, stride: int, bits: tuple[Bits, Bits], otherwise: Binarization) -> Place:
    weight, read = bits
    rule = _rule(weight, read)
    binarization = otherwise if bits == (1, 1) or rule.binarization is None else rule.binarization
    context = OpContext(binarizations=(binarization,))
    return Place("", shape, stride, context, read != "real", weight != "real")


@lru_cache
def _rule(weight: Bits, read: Bits) -> LayerRule:
    return rule_of_bits("", weight, read)


def _clipped(name: str, shape: Shape) -> list[LayerCost]:
    return [batch_norm(f"{name}_norm", shape, affine=True), activation(f"{name}_clip", shape)]


def _addition(name: str, shape: Shape) -> LayerCost:
    return LayerCost(name, "arithmetic", shape, shape, extra_operations=math.prod(shape))
