"""The closed forms of single layers: from shapes to a `LayerCost`, without building anything.

A binarizer that is not the package's own is asked for its parameters and scales: it runs alone on torch's
meta device, which holds no numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from binas.binarize import ActivationBinarizer, WeightBinarizer
from binas.binarize.schemes.approx_sign import ApproxSign
from binas.binarize.schemes.straight_through import Sign
from binas.binarize.schemes.xnor import Xnor, XnorReleased
from binas.ops import OpContext
from binas.profile.cost import MAX_BITWISE, REAL_BITS, LayerCost, Shape


@dataclass(frozen=True)
class Place:
    """Where an operation stands: its name, its input, and what it is told.

    Args:
        name: of its module in the network.
        shape: (C, H, W) of its input.
        stride: 1 or 2.
        context: see `OpContext`; the first of its binarizations is the one that counts.
        binarize_activations, binarize_weights: the stage's switches.
    """

    name: str
    shape: Shape
    stride: int
    context: OpContext
    binarize_activations: bool = True
    binarize_weights: bool = True


@dataclass(frozen=True)
class BinarizerCost:
    """What a binarizer adds to its layer: bits of a code, pairs of codes and scale, parameters, scales."""

    bits: int = REAL_BITS
    num_bases: int = 1
    parameters: int = 0
    scaled_bases: int = 0
    scale_elements: int = 0


def binarizer_cost(binarizer: ActivationBinarizer | WeightBinarizer, shape: Shape) -> BinarizerCost:
    """What a binarizer, standing on its own, adds for an input of that shape."""
    if type(binarizer) in (Sign, ApproxSign):
        return BinarizerCost(bits=1)
    if type(binarizer) in (Xnor, XnorReleased):
        return BinarizerCost(bits=1, scaled_bases=1, scale_elements=shape[0])
    meta = torch.device("meta")
    with torch.no_grad():
        bases = binarizer.to(meta)(torch.empty(shape, device=meta))
    scales = [scale for _, scale in bases if scale is not None]
    return BinarizerCost(
        binarizer.bits,
        len(bases),
        sum(parameter.numel() for parameter in binarizer.parameters()),
        len(scales),
        sum(scale.numel() for scale in scales),
    )


def convolved(
    shape: Shape, channels: int, kernel: int, stride: int, padding: int, dilation: int = 1
) -> Shape:
    """The shape that a convolution or pool gives."""
    reach = dilation * (kernel - 1) + 1
    return (channels, *((length + 2 * padding - reach) // stride + 1 for length in shape[1:]))


def real_conv(
    name: str, shape: Shape, channels: int, kernel: int, stride: int, padding: int,
    bias: bool = False, why: str = "",
) -> LayerCost:  # fmt: skip
    """A real-valued convolution without groups."""
    output = convolved(shape, channels, kernel, stride, padding)
    weights = channels * shape[0] * kernel**2
    return LayerCost(
        name,
        "convolution",
        shape,
        output,
        real_parameters=weights + (channels if bias else 0),
        flops=weights * math.prod(output[1:]),
        why_real=why,
    )


def binary_conv(
    place: Place, name: str, shape: Shape, channels: int, kernel: int, stride: int, padding: int,
    dilation: int = 1, groups: int = 1,
) -> LayerCost:  # fmt: skip
    """A `BinaryConv2d` under the binarization and the switches of a place."""
    binarization = place.context.binarizations[0]
    filters = torch.Size((channels, shape[0] // groups, kernel, kernel))
    # the parameters of both binarizers are the layer's, whether a switch turns it off or not
    activation = binarizer_cost(binarization.build_activation(shape[0]), (1, *shape))
    weight = binarizer_cost(binarization.build_weight(filters), filters)
    own = activation.parameters + weight.parameters
    activation = activation if place.binarize_activations else BinarizerCost()
    weight = weight if place.binarize_weights else BinarizerCost()
    output = convolved(shape, channels, kernel, stride, padding, dilation)
    weights = filters.numel()
    passes = activation.num_bases * weight.num_bases
    macs = weights * math.prod(output[1:]) * passes
    bitwise = max(activation.bits, weight.bits) <= MAX_BITWISE
    scalings = activation.num_bases * weight.scaled_bases + weight.num_bases * activation.scaled_bases
    signs = math.prod(shape) * activation.num_bases if place.binarize_activations else 0
    return LayerCost(
        name,
        "convolution",
        shape,
        output,
        input_bits=activation.bits,
        weight_bits=weight.bits * weight.num_bases,
        binary_parameters=weights if place.binarize_weights else 0,
        real_parameters=own + (0 if place.binarize_weights else weights),
        flops=0 if bitwise else macs,
        bops=macs * activation.bits * weight.bits if bitwise else 0,
        extra_operations=signs + math.prod(output) * (scalings + passes - 1),
        scale_bits=REAL_BITS * weight.scale_elements,
        why_real="" if place.binarize_weights else "this training stage keeps weights real-valued",
    )


def linear(name: str, inputs: int, outputs: int, why: str = "") -> LayerCost:
    """A real-valued linear layer with bias."""
    return LayerCost(
        name,
        "linear",
        (inputs,),
        (outputs,),
        real_parameters=inputs * outputs + outputs,
        flops=inputs * outputs,
        why_real=why,
    )


def batch_norm(name: str, shape: Shape, affine: bool) -> LayerCost:
    """A batch-norm over channels."""
    parameters = 2 * shape[0] if affine else 0
    return LayerCost(
        name, "batch_norm", shape, shape, norm_parameters=parameters, extra_operations=math.prod(shape)
    )


def pool(name: str, shape: Shape, kernel: int, stride: int, padding: int) -> LayerCost:
    """A square pool."""
    output = convolved(shape, shape[0], kernel, stride, padding)
    return LayerCost(name, "pool", shape, output, extra_operations=kernel**2 * math.prod(output))


def activation(name: str, shape: Shape, slopes: int = 0) -> LayerCost:
    """An activation, with learned slopes or without."""
    return LayerCost(
        name,
        "activation",
        shape,
        shape,
        real_parameters=slopes,
        extra_operations=math.prod(shape),
        why_real="a learned slope per channel" if slopes else "",
    )
