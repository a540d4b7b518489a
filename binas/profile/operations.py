"""What a candidate operation costs at a place: built alone, run once, and kept.

A factory may say so itself: an attribute `cost`, a function from a `Place` to a sequence of `LayerCost`, and
`takes_normalized_input` as its module has it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import nn

from binas.binarize import ACTIVATION_BINARIZERS, WEIGHT_BINARIZERS, set_precision
from binas.errors import UserError
from binas.ops import OPS, build_op
from binas.ops.nonlinearities import NONLINEARITIES
from binas.profile.cost import LayerCost
from binas.profile.executed import executed_layers
from binas.profile.formulas import FEW_NUMBERS, Place

ALONE = "operation"
"""The name under which an operation is run."""


class OpCost(NamedTuple):
    """The layers of an operation, and whether it reads an input that its cell has normalised."""

    layers: tuple[LayerCost, ...]
    takes_normalized_input: bool = False


def op_cost(op: str, place: Place) -> OpCost:
    """What an operation costs at a place.

    Raises:
        UserError: it cannot be built or run there.
    """
    factory: Any = OPS[op]
    if hasattr(factory, "cost"):
        return OpCost(tuple(factory.cost(place)), bool(getattr(factory, "takes_normalized_input", False)))
    binarization = place.context.binarizations[0]
    meant = (  # a plug-in that is loaded anew is another factory under the same name
        factory,
        NONLINEARITIES[place.context.activation],
        ACTIVATION_BINARIZERS[binarization.activation.name],
        WEIGHT_BINARIZERS[binarization.weight.name],
    )
    found = _measured(op, meant, replace(place, name=ALONE))
    layers = (replace(layer, name=place.name + layer.name[len(ALONE) :]) for layer in found.layers)
    return OpCost(tuple(layers), found.takes_normalized_input)


@lru_cache(maxsize=2**14)
def _measured(op: str, meant: tuple[object, ...], place: Place) -> OpCost:
    """Run on the CPU, where many numbers would be computed on torch's meta device if it can run there."""
    if math.prod(place.shape) > FEW_NUMBERS:
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
