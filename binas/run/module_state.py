"""Buffers of modules (running statistics, a binarizer's own state) set aside and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def buffer_copies(module: nn.Module) -> list[Tensor]:
    """A copy of every buffer of a module, in order."""
    return [buffer.detach().clone() for buffer in module.buffers()]


@torch.no_grad()
def put_back(module: nn.Module, copies: list[Tensor]) -> None:
    """Give a module's buffers the values of the copies."""
    for buffer, copy in zip(module.buffers(), copies, strict=True):
        buffer.copy_(copy)


@contextmanager
def buffers_unchanged(module: nn.Module, start: list[Tensor] | None = None) -> Iterator[None]:
    """Inside, buffers may change; afterwards they are what they were.

    Args:
        start: values that the buffers have at first inside, for running something as it ran before.
    """
    before = buffer_copies(module)
    if start is not None:
        put_back(module, start)
    try:
        yield
    finally:
        put_back(module, before)
