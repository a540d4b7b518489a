"""A cell whose inside is computed twice instead of being kept: activation checkpointing.

Paper: Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from binas.run.module_state import buffer_copies, buffers_unchanged


def run_checkpointed(cell: nn.Module, *arguments: Any) -> Tensor:
    """`cell(*arguments)`, of which only inputs and output are kept until the backward pass.

    The second run draws the same random numbers and starts from the buffers of the first one; afterwards
    the buffers are what the first run, or whatever came after it, has left. So loss, gradients and
    running statistics are those of an ordinary run, bit for bit where the device repeats itself.
    """
    before = buffer_copies(cell)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), buffers_unchanged(cell, before)

    function: Callable[..., Any] = cell
    output: Tensor = checkpoint(function, *arguments, use_reentrant=False, context_fn=contexts)
    return output
