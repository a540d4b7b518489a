"""Pools, skip and zeroise as candidate operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binas.binarize import BinaryConv2d
from binas.kernels.batch_norm.plain import PlainBatchNorm2d
from binas.kernels.layouts.channels_last import channels_first, channels_last
from binas.kernels.layouts.images_last import images_first, images_last
from binas.kernels.pool.images_last_pool import can_pool_last, pooled_last
from binas.ops.contract import OpContext, register_op
from binas.ops.convolutions import PreActivation


def padded_to_even(x: Tensor) -> Tensor:
    """x with odd height and width padded by one zero row and column, bottom and right."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, width % 2, 0, height % 2)) if height % 2 or width % 2 else x


class _AveragePool(torch.autograd.Function):
    """3×3 mean with stride 1, borders not counted; its gradient is such a pool too, which CPUs do faster."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        ones = gradient.new_ones(1, 1, *gradient.shape[2:])
        shares = F.avg_pool2d(ones, 3, 1, 1)
        return F.avg_pool2d(channels_last(gradient / shares), 3, 1, 1)


class Pool(nn.Module):
    """A 3×3 pool, followed by a batch-norm without affine parameters where the space asks for it.

    Shape: (N, C, H, W) -> (N, C, ceil(H/stride), ceil(W/stride)).
    """

    def __init__(self, pool: nn.Module, channels: int, context: OpContext) -> None:
        super().__init__()
        self.pool = pool
        self.norm: nn.Module = PlainBatchNorm2d(channels) if context.batch_norm_after_pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if self.training and can_pool_last(self.pool, x):
            y = pooled_last(self.pool, x)
            return y if isinstance(self.norm, nn.Identity) else images_last(self.norm(images_first(y)))
        if self.pool.stride == 1 and not x.is_cuda:
            # several times faster channels last on a CPU, the same numbers; batch-norm is not accurate there
            last = channels_last(x)
            average = isinstance(self.pool, nn.AvgPool2d) and self.training and torch.is_grad_enabled()
            y = channels_first(_AveragePool.apply(last) if average else self.pool(last))
        else:
            y = self.pool(x)
        return self.norm(y)  # type: ignore[no-any-return]

    @staticmethod
    def forward_edges(modules: Sequence[nn.Module], x: Tensor) -> Tensor | list[Tensor]:
        """One pool and one batch-norm for all edges that leave a node; running statistics stay with each."""
        first = modules[0]
        if not first.training:
            return [module(x) for module in modules]
        norms = [m.norm for m in modules if isinstance(m, Pool) and isinstance(m.norm, nn.BatchNorm2d)]
        tracking = [norm for norm in norms if norm.track_running_stats]
        before = {key: value.clone() for key, value in tracking[0].named_buffers()} if tracking else {}
        y: Tensor = first(x)
        for norm in tracking[1:]:
            decay = 1 - (norm.momentum or 0.0)
            for key, after in tracking[0].named_buffers():
                kept = decay if after.is_floating_point() else 1
                norm.get_buffer(key).mul_(kept).add_(after - kept * before[key])
        return y


@register_op("max_pool_3x3", kind="weightless")
def max_pool_3x3(channels: int, stride: int, context: OpContext) -> nn.Module:
    """Maximum over 3×3 pixels, borders ignored."""
    return Pool(nn.MaxPool2d(3, stride, padding=1), channels, context)


@register_op("avg_pool_3x3", kind="weightless")
def avg_pool_3x3(channels: int, stride: int, context: OpContext) -> nn.Module:
    """Mean over 3×3 pixels, borders not counted."""
    return Pool(nn.AvgPool2d(3, stride, padding=1, count_include_pad=False), channels, context)


class FactorisedSkip(PreActivation):
    """A strided skip: two 1×1 binary convolutions on two shifted grids, concatenated.

    Shape: (N, C, H, W) -> (N, C, ceil(H/2), ceil(W/2)); odd sizes are padded by one, bottom and right.
    Reference: Liu et al., DARTS, arXiv:1806.09055 (factorised reduction).
    Deviation: both convolutions are binary, as everything else inside a cell.
    """

    def __init__(self, channels: int, context: OpContext) -> None:
        super().__init__(channels, context)
        first = (channels + 1) // 2
        self.first = BinaryConv2d(channels, first, 1, stride=2, binarizations=context.binarizations)
        self.second = (
            BinaryConv2d(channels, channels - first, 1, stride=2, binarizations=context.binarizations)
            if channels > 1
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = padded_to_even(self.norm(x))
        outputs = [self.first(x)]
        if self.second is not None:
            outputs.append(self.second(x[:, :, 1:, 1:]))
        return torch.cat(outputs, dim=1)


@register_op("skip")
def skip(channels: int, stride: int, context: OpContext) -> nn.Module:
    """The input itself; where strided, two shifted 1×1 binary convolutions of stride 2 (factorised)."""
    return nn.Identity() if stride == 1 else FactorisedSkip(channels, context)


@register_op("zeroise", kind="none")
class Zeroise(nn.Module):
    """Zeros: no connection; cells and networks do not run it."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])
