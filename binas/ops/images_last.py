"""Images innermost in memory: a layout for CPUs, where whole vectors of images are computed alike.

A tensor (N, C, H, W) "images last" has the strides of a contiguous (H, W, C, N) one; torch's elementwise
operations keep it. Batch-norm needs no transposition in it, and signs become words of bits over images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from torch import Tensor

MULTIPLE = 32
"""Batches must be multiples of this many images."""


@cache
def is_available() -> bool:
    """Whether numba is installed."""
    try:
        import binas.ops.images_last_kernels
        import binas.ops.sign_conv_kernels  # noqa: F401
    except ImportError:
        return False
    return True


def can_be_last(x: Tensor) -> bool:
    """Whether kernels for images last can work on x: float32 on the CPU, whole vectors of images."""
    return (
        type(x) is Tensor
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
    from binas.ops.images_last_kernels import to_last

    y = empty_last(x.shape[0], x.shape[1], x.shape[2:])
    source, target = x.flatten(2).numpy(), flat(y)
    in_parts(lambda begin, end: to_last(source, target, begin, end), x.shape[1])
    return y


def as_first(x: Tensor) -> Tensor:
    """A contiguous copy, or x itself; not differentiable."""
    if x.is_contiguous():
        return x
    if not (is_last(x) and can_be_last(x)):
        return x.contiguous()
    from binas.ops.images_last_kernels import to_first

    y = torch.empty(x.shape)
    source, target = flat(x), y.flatten(2).numpy()
    in_parts(lambda begin, end: to_first(source, target, begin, end), x.shape[1])
    return y


class _ToFirst(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return as_first(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return as_last(gradient)


class _ToLast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return as_last(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return as_first(gradient)


def images_first(x: Tensor) -> Tensor:
    """x, contiguous; its gradient comes with images last. For what cannot read images last."""
    return _ToFirst.apply(x) if can_be_last(x) and is_last(x) else x  # type: ignore[no-any-return]


def images_last(x: Tensor) -> Tensor:
    """x with images last; its gradient comes contiguous."""
    return x if is_last(x) else _ToLast.apply(x)  # type: ignore[no-any-return]


def in_parts(work: Callable[[int, int], None], length: int) -> None:
    """Runs work(begin, end) over a range, in as many threads as torch uses."""
    parts = max(1, min(torch.get_num_threads(), length))
    ends = [length * part // parts for part in range(parts + 1)]
    run_all(work, [(ends[part], ends[part + 1]) for part in range(parts)])


def run_all(work: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> None:
    """Runs work(*arguments) for each, side by side."""
    threads = min(torch.get_num_threads(), len(arguments))
    if threads <= 1:
        for each in arguments:
            work(*each)
        return
    with ThreadPoolExecutor(threads) as executor:
        for done in [executor.submit(work, *each) for each in arguments]:
            done.result()
