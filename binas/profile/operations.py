"""The closed form of every candidate operation of the package, by its factory.

An operation's factory may carry its own: an attribute `cost`, a function from a `Place` to a sequence of
`LayerCost`, and `takes_normalized_input` as its module has it. A plug-in without one is built alone and
run once on torch's meta device, or on the CPU where it cannot run there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from binas.binarize import set_precision
from binas.errors import UserError
from binas.ops import OPS, build_op
from binas.ops.contract import OpFactory
from binas.ops.convolutions import CONVOLUTIONS, binary_separable_conv_3x3, binary_separable_conv_5x5
from binas.ops.parameter_free import avg_pool_3x3, max_pool_3x3, skip
from binas.profile.cost import LayerCost, Shape
from binas.profile.executed import executed_layers
from binas.profile.formulas import (
    Place,
    batch_norm,
    binary_conv,
    channel_gate,
    convolved,
    nonlinearity,
    pool,
)


class OpCost(NamedTuple):
    """The layers of an operation, and whether it reads an input that its cell has normalised."""

    layers: tuple[LayerCost, ...]
    takes_normalized_input: bool = False


def op_cost(op: str, place: Place) -> OpCost:
    """What an operation costs at a place."""
    factory: Any = OPS[op]
    if factory in CLOSED_FORMS:
        return CLOSED_FORMS[factory](place)
    if hasattr(factory, "cost"):
        return OpCost(tuple(factory.cost(place)), bool(getattr(factory, "takes_normalized_input", False)))
    return _built_cost(op, place)


def even(shape: Shape) -> Shape:
    """The shape after padding odd height and width by one."""
    return (shape[0], *(length + length % 2 for length in shape[1:]))


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


def _built_cost(op: str, place: Place) -> OpCost:
    try:
        return _run_alone(op, place, "meta")
    except UserError:
        raise
    except Exception:
        pass  # a plug-in may read numbers, which the meta device does not have
    try:
        return _run_alone(op, place, "cpu")
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"operation '{op}' cannot be counted: it raised {type(error).__name__} for an input of shape"
            f" {place.shape}, stride {place.stride}: {error}; try `binas ops check`"
        ) from error


def _run_alone(op: str, place: Place, device: str) -> OpCost:
    with torch.device(device), torch.random.fork_rng(devices=[]):
        module: nn.Module = build_op(op, place.shape[0], place.stride, place.context)
        set_precision(module, place.binarize_activations, place.binarize_weights)
        layers: Sequence[LayerCost] = executed_layers(module, torch.zeros(1, *place.shape), place.name)
    return OpCost(tuple(layers), bool(getattr(module, "takes_normalized_input", False)))
