"""The cost of every candidate operation of the package in closed form, by its factory."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from binas.ops import OPS
from binas.ops.contract import OpFactory
from binas.ops.convolutions import CONVOLUTIONS, binary_separable_conv_3x3, binary_separable_conv_5x5
from binas.ops.gating import WHY_GATE
from binas.ops.nonlinearities import build_nonlinearity
from binas.ops.parameter_free import avg_pool_3x3, max_pool_3x3, skip
from binas.profile.closed_form import even
from binas.profile.cost import LayerCost, Shape
from binas.profile.executed import executed_layers
from binas.profile.formulas import Place, activation, batch_norm, binary_conv, convolved, pool
from binas.profile.operations import OpCost


def closed_op_cost(op: str, place: Place) -> OpCost:
    """As `op_cost`, without building anything."""
    return CLOSED_FORMS[OPS[op]](place)


def _binary_block(
    place: Place, name: str, shape: Shape, kernel: int, stride: int, dilation: int, groups: int, norm: bool
) -> list[LayerCost]:
    channels = shape[0]
    padding = dilation * (kernel - 1) // 2
    conv = binary_conv(place, f"{name}.conv", shape, channels, kernel, stride, padding, dilation, groups)
    layers = [batch_norm(f"{name}.norm", shape, place.context.batch_norm_affine)] if norm else []
    layers.append(conv)
    gating = place.context.gating
    if gating is not None:
        layers += channel_gate(f"{name}.gating", shape, conv.output_shape, gating.reduction)
    layers += nonlinearity(f"{name}.activation", conv.output_shape, place.context.activation)
    return layers


def _conv(kernel: int, dilation: int, grouped: bool) -> Callable[[Place], OpCost]:
    def cost(place: Place) -> OpCost:
        groups = place.context.num_groups(place.shape[0]) if grouped else 1
        norm = not place.context.normalized_input
        return OpCost(
            tuple(
                _binary_block(place, place.name, place.shape, kernel, place.stride, dilation, groups, norm)
            ),
            takes_normalized_input=True,
        )

    return cost


def _separable(kernel: int) -> Callable[[Place], OpCost]:
    def cost(place: Place) -> OpCost:
        shape, channels = place.shape, place.shape[0]
        small = convolved(shape, channels, kernel, place.stride, kernel // 2)
        parts = (
            ("depthwise", shape, kernel, place.stride, channels, not place.context.normalized_input),
            ("pointwise", small, 1, 1, 1, True),
            ("second_depthwise", small, kernel, 1, channels, True),
            ("second_pointwise", small, 1, 1, 1, True),
        )
        layers: list[LayerCost] = []
        for part, part_shape, part_kernel, stride, groups, norm in parts:
            name = f"{place.name}.{part}"
            layers += _binary_block(place, name, part_shape, part_kernel, stride, 1, groups, norm)
        return OpCost(tuple(layers), takes_normalized_input=True)

    return cost


def _pool(place: Place) -> OpCost:
    layers = [pool(f"{place.name}.pool", place.shape, 3, place.stride, 1)]
    if place.context.batch_norm_after_pool:
        layers.append(batch_norm(f"{place.name}.norm", layers[0].output_shape, affine=False))
    return OpCost(tuple(layers))


def _skip(place: Place) -> OpCost:
    if place.stride == 1:
        return OpCost(())
    channels = place.shape[0]
    first = (channels + 1) // 2
    padded = even(place.shape)
    shifted = (channels, *(length - 1 for length in padded[1:]))
    layers = []
    if not place.context.normalized_input:
        layers.append(batch_norm(f"{place.name}.norm", place.shape, place.context.batch_norm_affine))
    layers.append(binary_conv(place, f"{place.name}.first", padded, first, 1, 2, 0))
    if channels > 1:
        layers.append(binary_conv(place, f"{place.name}.second", shifted, channels - first, 1, 2, 0))
    return OpCost(tuple(layers), takes_normalized_input=True)


CLOSED_FORMS: dict[OpFactory, Callable[[Place], OpCost]] = {
    factory: _conv(*form) for form, factory in CONVOLUTIONS.items()
} | {
    binary_separable_conv_3x3: _separable(3),
    binary_separable_conv_5x5: _separable(5),
    max_pool_3x3: _pool,
    avg_pool_3x3: _pool,
    skip: _skip,
}


def nonlinearity(name: str, shape: Shape, kind: str) -> tuple[LayerCost, ...]:
    """An activation by its registered name: relu, prelu and none in closed form, others as they run alone."""
    if kind in ("relu", "prelu"):
        return (activation(name, shape, shape[0] if kind == "prelu" else 0),)
    if kind == "none":
        return ()
    with torch.device("meta"):
        module = build_nonlinearity(kind, shape[0])
        return tuple(executed_layers(module, torch.zeros(1, *shape), name))


def channel_gate(
    name: str, shape: Shape, output_shape: Shape, reduction: int
) -> tuple[LayerCost, LayerCost, LayerCost]:
    """A `ChannelGate`: its two linear layers, then average, activations and multiplication."""
    hidden = max(1, shape[0] // reduction)
    extra = math.prod(shape) + hidden + output_shape[0] + math.prod(output_shape)
    return (
        _bias_free(f"{name}.squeeze", shape[0], hidden),
        _bias_free(f"{name}.expand", hidden, output_shape[0]),
        LayerCost(name, "pool", output_shape, output_shape, extra_operations=extra),
    )


def _bias_free(name: str, inputs: int, outputs: int) -> LayerCost:
    weights = inputs * outputs
    return LayerCost(
        name, "linear", (inputs,), (outputs,), real_parameters=weights, flops=weights, why_real=WHY_GATE
    )
