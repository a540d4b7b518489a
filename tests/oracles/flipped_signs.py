"""How many binarized activations of one step have another sign in ours than in the oracle.

In float32 two right orders of summation may put a number on either side of zero, and what follows sees
another sign; so the share is reported, not forbidden. Both versions start from equal weights and inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from torch import Tensor, nn

from binas.binarize import BinaryConv2d
from binas.binarize.schemes.straight_through import Sign
from binas.kernels.sign_conv import sign_conv
from oracles.binary_layers import BinaryConv

Signs = dict[str, Tensor]
"""By a convolution's name, whether each number of its binarized input is positive: (N, C, H, W)."""


def flipped_signs(
    ours: nn.Module, oracle: nn.Module, step: Callable[[], Any], oracle_step: Callable[[], Any]
) -> tuple[int, int]:
    """How many signs differ in one step, and how many there are.

    Inputs that several of our convolutions share count once; those that only the oracle has do not.
    """
    with signs_of_ours(ours) as mine:
        step()
    with signs_of_oracle(oracle) as theirs:
        oracle_step()
    assert mine
    pairs = [(_read(signs, theirs[name]), theirs[name]) for name, signs in mine.items()]
    return sum(int((ours != other).sum()) for ours, other in pairs), sum(other.numel() for _, other in pairs)


def _read(mine: Tensor, theirs: Tensor) -> Tensor:
    """The pixels that are read: the oracle's strided 1×1 convolutions are given no others."""
    return mine if mine.shape == theirs.shape else mine[:, :, ::2, ::2]


@contextmanager
def signs_of_ours(model: nn.Module) -> Iterator[Signs]:
    """Inside, the first binarized input of each convolution is kept."""
    found: Signs = {}
    names = {
        module.activation_binarizer: name
        for name, module in model.named_modules()
        if isinstance(module, BinaryConv2d)
    }
    binarize, pack = Sign.forward, sign_conv.pack_signs

    def plain(self: Sign, x: Tensor) -> Any:
        bases = binarize(self, x)
        found.setdefault(names[self], bases[0][0].detach() > 0)
        return bases

    def packed(conv: BinaryConv2d, *arguments: Any) -> Any:
        signs = pack(conv, *arguments)
        found.setdefault(names[conv.activation_binarizer], signs.unpacked())
        return signs

    with patch.object(Sign, "forward", plain), patch.object(sign_conv, "pack_signs", packed):
        yield found


@contextmanager
def signs_of_oracle(model: nn.Module) -> Iterator[Signs]:
    """Inside, the first binarized input of each convolution is kept."""
    found: Signs = {}

    def keep(module: BinaryConv, given: tuple[Tensor, ...]) -> None:
        found.setdefault(module.origin, given[0].detach() >= 0)

    handles = [
        module.register_forward_pre_hook(keep) for module in model.modules() if isinstance(module, BinaryConv)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
