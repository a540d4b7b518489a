"""What an operation is made of: what its class or factory says, or what it builds, never what its name says.

An operation may say it itself, by `register_op(NAME, kind=…)` or an attribute `kind`. One name alone has a
meaning of its own, `zeroise`: it is part of the genotype, where it stands for an edge that is not there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from binas.binarize import BinaryConv2d
from binas.errors import UserError
from binas.ops.contract import KINDS, OPS, Kind, OpContext, OpFactory, build_op

DEFAULT_CHANNELS = 16
"""What an operation is built with to look at it; a multiple of the usual groups."""


def operation_kind(
    op: str | OpFactory,
    stride: int = 1,
    channels: int = DEFAULT_CHANNELS,
    context: OpContext | None = None,
) -> Kind:
    """What an operation is made of: what it declares, else what the modules that it builds show.

    A layer that binarizes makes it `binary`, other parameters make it `real`, none `weightless`; `none`
    is no connection at all.

    Args:
        op: its registered name, or its factory.
        stride: 1 or 2; a strided skip is binary.
        channels: to build it with, where it declares nothing.
        context: to build it in.
    Raises:
        UserError: an unknown name, a declared kind that is none, or an operation that cannot be built.
    """
    declared = getattr(OPS.resolve(op), "kind", None)
    if declared is not None:
        if declared not in KINDS:
            raise UserError(f"operation '{op}': kind: '{declared}' is none of {', '.join(KINDS)}")
        return declared  # type: ignore[no-any-return]
    modules = list(_built(op, stride, channels, context or OpContext()).modules())
    if any(isinstance(module, BinaryConv2d) for module in modules):
        return "binary"
    has_weights = any(True for module in modules for _ in module.parameters(recurse=False))
    return "real" if has_weights else "weightless"


def is_skip(op: str | OpFactory, channels: int = DEFAULT_CHANNELS, context: OpContext | None = None) -> bool:
    """Whether an operation that is not strided hands on its input as it is."""
    declared = getattr(OPS.resolve(op), "kind", "weightless")
    return declared == "weightless" and isinstance(
        _built(op, 1, channels, context or OpContext()), nn.Identity
    )


def _built(op: str | OpFactory, stride: int, channels: int, context: OpContext) -> nn.Module:
    """The operation's module, on the meta device where it can be built there."""
    try:
        return _built_on("meta", op, channels, stride, context)
    except UserError:
        raise
    except Exception:
        pass  # a plug-in may read numbers, which the meta device does not have
    try:
        return _built_on("cpu", op, channels, stride, context)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"operation '{op}' cannot be built for {channels} channels, stride {stride}: it raised"
            f" {type(error).__name__}: {error}; declare its kind, or try `binas ops check`"
        ) from error


def _built_on(device: str, *arguments: Any) -> nn.Module:
    with torch.device(device), torch.random.fork_rng(devices=[]):
        return build_op(*arguments)
