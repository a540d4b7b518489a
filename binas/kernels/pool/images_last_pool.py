"""3×3 pools with images innermost: the numbers of torch's pools, without changing the layout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from binas.kernels.layouts.images_last import as_last, can_be_last, empty_last, in_parts, is_last


def _size(length: int, stride: int) -> int:
    return (length - 1) // stride + 1


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int) -> Tensor:
        from binas.kernels.pool.loops import max_pool

        num_images, channels, height, width = x.shape
        size = _size(height, stride), _size(width, stride)
        y = empty_last(num_images, channels, size)
        places = torch.empty(*size, channels, num_images, dtype=torch.int8)
        arrays = _array(x), _array(y), places.numpy()
        in_parts(lambda begin, end: max_pool(*arrays, stride, begin, end), size[0])
        ctx.save_for_backward(places)
        ctx.stride, ctx.shape = stride, x.shape
        return y

    @staticmethod
    def backward(ctx: Any, by_y: Tensor) -> tuple[Tensor, None]:
        from binas.kernels.pool.loops import add_max_gradient

        (places,) = ctx.saved_tensors
        by_x = _zeros(ctx.shape)
        arrays = _array(as_last(by_y)), places.numpy(), _array(by_x)
        in_parts(lambda begin, end: add_max_gradient(*arrays, ctx.stride, begin, end), ctx.shape[1])
        return by_x, None


class _AveragePool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int) -> Tensor:
        from binas.kernels.pool.loops import average_pool

        num_images, channels, height, width = x.shape
        size = _size(height, stride), _size(width, stride)
        y = empty_last(num_images, channels, size)
        arrays = _array(x), _array(y)
        in_parts(lambda begin, end: average_pool(*arrays, stride, begin, end), size[0])
        ctx.stride, ctx.shape = stride, x.shape
        return y

    @staticmethod
    def backward(ctx: Any, by_y: Tensor) -> tuple[Tensor, None]:
        from binas.kernels.pool.loops import add_average_gradient

        by_x = _zeros(ctx.shape)
        arrays = _array(as_last(by_y)), _array(by_x)
        in_parts(lambda begin, end: add_average_gradient(*arrays, ctx.stride, begin, end), ctx.shape[1])
        return by_x, None


def _array(x: Tensor) -> Any:
    return x.detach().permute(2, 3, 1, 0).numpy()


def _zeros(shape: torch.Size) -> Tensor:
    num_images, channels, height, width = shape
    return torch.zeros(height, width, channels, num_images).permute(3, 2, 0, 1)


def can_pool_last(pool: nn.Module, x: Tensor) -> bool:
    """Whether `pooled_last` may stand for a pool in training."""
    match pool:
        case nn.MaxPool2d(kernel_size=3, padding=1, dilation=1, ceil_mode=False):
            known = not pool.return_indices
        case nn.AvgPool2d(kernel_size=3, padding=1, ceil_mode=False, divisor_override=None):
            known = not pool.count_include_pad
        case _:
            known = False
    return (
        known
        and isinstance(pool.stride, int)
        and not (pool._forward_hooks or pool._forward_pre_hooks)
        and is_last(x)
        and can_be_last(x)
    )


def pooled_last(pool: nn.Module, x: Tensor) -> Tensor:
    """What a 3×3 pool with a border of 1 that does not count gives; x and the output have images last.

    Shape: (N, C, H, W) -> (N, C, ⌈H/stride⌉, ⌈W/stride⌉).
    """
    kind = _MaxPool if isinstance(pool, nn.MaxPool2d) else _AveragePool
    y: Tensor = kind.apply(x, pool.stride)
    return y
