"""The closed forms of single layers: from shapes to a `LayerCost`, without building anything.

Binarizers are asked for their parameters and scales: they run alone, once for each kind of layer; on torch's
meta device, which holds no numbers, where these would be many and the binarizer can do without.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch

from binas.binarize import (
    ACTIVATION_BINARIZERS,
    WEIGHT_BINARIZERS,
    ActivationBinarizer,
    Binarization,
    BinarizerSpec,
    LayerGeometry,
    WeightBinarizer,
)
from binas.binarize.contract import Bases
from binas.errors import UserError
from binas.ops import OpContext
from binas.profile.cost import MAX_BITWISE, REAL_BITS, Kernel, LayerCost, Shape

FEW_NUMBERS = 2**22
"""Elements of an input or a weight, which are computed faster than the meta device imports the compiler."""


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
    """What a binarizer adds to its layer.

    Args:
        bits: of a code.
        num_bases: pairs of codes and scale.
        parameters: that it learns.
        scaled_bases: pairs whose scale multiplies outputs.
        scale_elements: numbers in all scales.
        kernel_scales: numbers in scales that multiply the kernel.
    """

    bits: int = REAL_BITS
    num_bases: int = 1
    parameters: int = 0
    scaled_bases: int = 0
    scale_elements: int = 0
    kernel_scales: int = 0


def binarizer_costs(
    binarization: Binarization, geometry: LayerGeometry, shape: Shape
) -> tuple[BinarizerCost, BinarizerCost]:
    """What the binarizers of activations and weights add in a layer of that geometry.

    Args:
        shape: (C, H, W) of the layer's input.
    """
    # a plug-in that is loaded anew is another factory under the same name
    read, kept = binarization.activation, binarization.weight
    return (
        _activation_cost(read, ACTIVATION_BINARIZERS[read.name], geometry, shape),
        _weight_cost(kept, WEIGHT_BINARIZERS[kept.name], _filters(geometry)),
    )


@lru_cache(maxsize=2**16)
def _activation_cost(
    spec: BinarizerSpec, factory: object, geometry: LayerGeometry, shape: Shape
) -> BinarizerCost:
    def cost() -> BinarizerCost:
        activation = Binarization(activation=spec).build_activation(geometry.in_channels).eval()
        activation.bind(geometry)
        return _cost(activation, activation(torch.zeros(1, *shape)))

    return _told(cost, math.prod(shape))


@lru_cache(maxsize=2**16)
def _weight_cost(spec: BinarizerSpec, factory: object, filters: torch.Size) -> BinarizerCost:
    def cost() -> BinarizerCost:
        weight = Binarization(weight=spec).build_weight(filters).eval()
        return _cost(weight, weight(torch.zeros(filters)))

    return _told(cost, filters.numel())


def _told(cost: Callable[[], BinarizerCost], numbers: int) -> BinarizerCost:
    """What a binarizer tells of itself when it runs on so many numbers."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        if numbers > FEW_NUMBERS:  # finding shapes alone takes longer than computing a few real numbers
            try:
                with torch.device("meta"):
                    return cost()
            except UserError:
                raise
            except Exception:
                pass
        with torch.device("cpu"):
            return cost()


def _filters(geometry: LayerGeometry) -> torch.Size:
    """The shape of a convolution's weight."""
    inputs = geometry.in_channels // geometry.groups
    return torch.Size((geometry.out_channels, inputs, geometry.kernel_size, geometry.kernel_size))


def _cost(binarizer: ActivationBinarizer | WeightBinarizer, bases: Bases) -> BinarizerCost:
    scales = [scale for _, scale in bases if scale is not None]
    elements = sum(scale.numel() for scale in scales)
    in_kernel = isinstance(binarizer, WeightBinarizer) and binarizer.scales == "kernel"
    return BinarizerCost(
        binarizer.bits,
        len(bases),
        sum(parameter.numel() for parameter in binarizer.parameters()),
        0 if in_kernel else len(scales),
        elements,
        elements if in_kernel else 0,
    )


def convolved(
    shape: Shape, channels: int, kernel: int, stride: int, padding: int, dilation: int = 1
) -> Shape:
    """The shape that a convolution or pool gives."""
    reach = dilation * (kernel - 1) + 1
    return (channels, *((length + 2 * padding - reach) // stride + 1 for length in shape[1:]))


def real_conv(
    name: str,
    shape: Shape,
    channels: int,
    kernel: int,
    stride: int,
    padding: int,
    bias: bool = False,
    why: str = "",
) -> LayerCost:
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
        kernel=Kernel.square(kernel, stride),
    )


def binary_conv(
    place: Place,
    name: str,
    shape: Shape,
    channels: int,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int = 1,
    groups: int = 1,
) -> LayerCost:
    """A `BinaryConv2d` under the binarization and the switches of a place."""
    binarization = place.context.binarizations[0]
    geometry = LayerGeometry(kernel, stride, padding, dilation, groups, shape[0], channels)
    # the parameters of both binarizers are the layer's, whether a switch turns it off or not
    activation, weight = binarizer_costs(binarization, geometry, shape)
    own = activation.parameters + weight.parameters
    activation = activation if place.binarize_activations else BinarizerCost()
    weight = weight if place.binarize_weights else BinarizerCost()
    output = convolved(shape, channels, kernel, stride, padding, dilation)
    weights = _filters(geometry).numel()
    passes = activation.num_bases * weight.num_bases
    macs = weights * math.prod(output[1:]) * passes
    bitwise = max(activation.bits, weight.bits) <= MAX_BITWISE
    scalings = activation.num_bases * (weight.scaled_bases + weight.kernel_scales)
    scalings += weight.num_bases * activation.scaled_bases
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
        kernel=Kernel.square(kernel, stride, dilation, groups),
        input_bases=activation.num_bases,
        weight_bases=weight.num_bases,
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
