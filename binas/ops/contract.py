"""The contract of a candidate operation, and the registry `OPS`.

An operation is a factory `(channels, stride)` or `(channels, stride, context)` that gives a module from
(N, C, H, W) to (N, C, ceil(H/stride), ceil(W/stride)). A module class with such a constructor is one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from torch import nn

from binas.binarize import Binarization, BinarizerSpec
from binas.errors import UserError
from binas.ops.gating import GatingConfig
from binas.registry import Registry

OpFactory = Callable[..., nn.Module]
Kind = Literal["binary", "real", "weightless", "none"]
"""What an operation is made of, see `binas.ops.kind`."""
KINDS: tuple[Kind, ...] = get_args(Kind)

OPS: Registry[OpFactory] = Registry("operation")


@dataclass(frozen=True)
class OpContext:
    """What an operation is told about the network it is built for.

    Args:
        binarizations: of all stages, the first one active at first.
        activation: what follows a binary convolution, a name of `binas.ops.nonlinearities`.
        gating: of the channels of each binary convolution's output, or None for none.
        batch_norm_affine: whether batch-norms inside the operation learn scale and shift.
        batch_norm_after_pool: whether a pool is followed by a batch-norm.
        normalized_input: whether modules with `takes_normalized_input = True` are given an input that the
            cell has batch-normalised already, once for all of them.
        channels_per_group, groups: how group convolutions divide channels; exactly one is set.
        channel_shuffle: whether a group convolution is followed by a channel shuffle.
    """

    binarizations: tuple[Binarization, ...] = (Binarization(),)
    activation: str = "relu"
    gating: GatingConfig | None = None
    batch_norm_affine: bool = False
    batch_norm_after_pool: bool = True
    normalized_input: bool = False
    channels_per_group: int | None = 4
    groups: int | None = None
    channel_shuffle: bool = False

    def num_groups(self, channels: int) -> int:
        """The groups of a group convolution on so many channels; raises where they do not divide."""
        key, value = (
            ("channels_per_group", self.channels_per_group)
            if self.groups is None
            else ("groups", self.groups)
        )
        assert value is not None
        if value < 1 or channels % value:
            divisors = [d for d in range(1, channels + 1) if channels % d == 0]
            below = [d for d in divisors if d < value]
            above = [d for d in divisors if d > value]
            near = " or ".join(str(d) for d in [*below[-1:], *above[:1]])
            raise UserError(
                f"grouping.{key}: {value} does not divide {channels} channels; the nearest that do are {near}"
            )
        return channels // value if self.groups is None else value

    def with_choices(self, activation: str | None, estimator: BinarizerSpec | None) -> OpContext:
        """The same with what was chosen for one operation alone; None leaves what there is."""
        context = self if activation is None else replace(self, activation=activation)
        if estimator is None:
            return context
        chosen = tuple(binarization.with_activation(estimator) for binarization in self.binarizations)
        return replace(context, binarizations=chosen)

    def without_normalized_input(self) -> OpContext:
        """The same for an operation that stands alone and normalises its own input."""
        return replace(self, normalized_input=False)


def register_op(
    name: str, *, kind: Kind | None = None, replace: bool = False
) -> Callable[[OpFactory], OpFactory]:
    """Decorator that makes a function or module class a candidate operation under `name`.

    Args:
        kind: what it is made of; None: the modules that it builds tell.
        replace: whether to take the place of another's operation of that name.
    Raises:
        UserError: the name is taken, or the kind is none.
    """
    if kind is not None and kind not in KINDS:
        raise UserError(f"operation '{name}': kind: '{kind}' is none of {', '.join(KINDS)}")

    def decorate(factory: OpFactory) -> OpFactory:
        if kind is not None:
            factory.kind = kind  # type: ignore[attr-defined]
        return OPS.register(name, replace=replace)(factory)

    return decorate


def build_op(op: str | OpFactory, channels: int, stride: int, context: OpContext) -> nn.Module:
    """The module of an operation given by name or as a factory; by name, it says so in `operation`."""
    factory: Any = OPS.resolve(op)
    if len(inspect.signature(factory).parameters) >= 3:
        module = factory(channels, stride, context)
    else:
        module = factory(channels, stride)
    if not isinstance(module, nn.Module):
        raise UserError(f"operation '{op}': its factory gave {type(module).__name__}, not a torch.nn.Module")
    if isinstance(op, str):
        module.operation = op  # type: ignore[assignment]
    return module


def describe_op(name: str) -> str:
    """The first sentence of an operation's docstring."""
    text = inspect.getdoc(OPS[name]) or ""
    return " ".join(text.split("\n\n")[0].split())
