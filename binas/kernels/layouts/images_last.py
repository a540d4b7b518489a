"""Images innermost in memory: a layout for CPUs, where whole vectors of images are computed alike.

A tensor (N, C, H, W) "images last" has the strides of a contiguous (H, W, C, N) one; torch's elementwise
operations keep it. Batch-norm needs no transposition in it, and signs become words of bits over images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from binas.kernels.compiled import is_available
from binas.kernels.layouts.channels_last import rearranged
from binas.kernels.threads import Team

MULTIPLE = 32
"""Batches must be multiples of this many images."""


def can_be_last(x: Tensor) -> bool:
    """Whether kernels for images last can work on x: float32 on the CPU, whole vectors of images."""
    return (
        type(x) is Tensor
        and not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.dim() == 4
        and x.shape[0] % MULTIPLE == 0
        and x.numel() > 0
        and is_available()
    )


def is_last(x: Tensor) -> bool:
    """Whether x has images innermost."""
    return x.shape[0] > 1 and x.permute(2, 3, 1, 0).is_contiguous()


def flat(x: Tensor) -> Any:
    """The (P, C, N) array of a tensor with images last, sharing its memory."""
    return x.detach().permute(2, 3, 1, 0).flatten(0, 1).numpy()


def empty_last(num_images: int, channels: int, size: Sequence[int]) -> Tensor:
    """An empty (N, C, H, W) tensor with images last."""
    return torch.empty(*size, channels, num_images).permute(3, 2, 0, 1)


def as_last(x: Tensor) -> Tensor:
    """A copy with images last, or x itself; not differentiable."""
    if is_last(x):
        return x
    if not (x.is_contiguous() and can_be_last(x)):
        return x.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
    num_images, channels, height, width = x.shape
    y = empty_last(num_images, channels, (height, width))
    _transpose(x, y, num_images, channels, height * width)
    return y


def as_first(x: Tensor) -> Tensor:
    """A contiguous copy, or x itself; not differentiable."""
    if x.is_contiguous():
        return x
    if not (is_last(x) and can_be_last(x)):
        return x.contiguous()
    num_images, channels, height, width = x.shape
    y = torch.empty(x.shape)
    _transpose(x, y, height * width, channels, num_images)
    return y


def _transpose(x: Tensor, y: Tensor, rows: int, channels: int, columns: int) -> None:
    """From memory (rows, channels, columns) to memory (columns, channels, rows)."""
    from binas.kernels.layouts.loops import transpose_all

    def part(begin: int, end: int) -> None:
        transpose_all(
            x.data_ptr() + begin * columns * 4,
            (columns * 4, channels * columns * 4),
            y.data_ptr() + begin * rows * 4,
            (rows * 4, channels * rows * 4),
            end - begin,
            rows,
            columns,
        )

    in_parts(part, channels)


def images_first(x: Tensor) -> Tensor:
    """x, contiguous; its gradient comes with images last. For what cannot read images last."""
    return rearranged(x, as_first, as_last) if can_be_last(x) and is_last(x) else x


def images_last(x: Tensor) -> Tensor:
    """x with images last; its gradient comes contiguous."""
    return x if is_last(x) else rearranged(x, as_last, as_first)


def in_parts(work: Callable[[int, int], object], length: int) -> None:
    """Runs work(begin, end) over a range, side by side in as many threads as torch uses."""
    with Team() as team:
        team.run_shares(work, length)


def run_all(work: Callable[..., object], arguments: Sequence[tuple[Any, ...]]) -> None:
    """Runs work(*arguments) for each, side by side."""
    with Team() as team:
        team.run(lambda part: work(*arguments[part]), len(arguments))
