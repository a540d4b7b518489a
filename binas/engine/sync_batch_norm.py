"""Batch-norm over the images of all ranks: its statistics are those that one process would see.

Modules stay what they are, so names, types and checkpoints do not change; only their forward is another one.
On CUDA torch's own synchronised batch-norm computes, which refuses tensors of the CPU; there it is done here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from binas.engine.batch_norm import batch_norms
from binas.kernels.batch_norm.statistics import counted, follow
from binas.run.distributed import all_reduce_sum, num_ranks


class _Normalize(torch.autograd.Function):
    """Batch-norm whose sum, square sum and count, and the two sums of its gradient, are added up over ranks.

    forward   y = weight·n + bias,  n = (x − mean) / sqrt(variance + ε), over images and pixels of all
    backward  dL/dx = weight / sqrt(variance + ε) · (g − mean(g) − n·mean(g·n)), g = dL/dy, means over all;
              dL/dweight and dL/dbias are this rank's part: gradients of parameters are averaged later

    Shape: (N, C, ...), (C,), (C,) -> (N, C, ...); mean, variance and count (C,) of float64.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
        # torch's own kernel for the sums of this rank: several times faster than var_mean on a CPU
        own_mean, own_variance = torch.batch_norm_update_stats(wide, None, None, 0.0)
        center, count = own_mean.double(), float(x.numel() // x.shape[1])
        # square sums around each rank's mean, widened before they are joined: large means would drown them
        sums = torch.stack([center, own_variance.double() + center.square(), torch.ones_like(center)])
        sums = all_reduce_sum(sums * count)
        everywhere = sums[2]
        middle = sums[0] / everywhere
        spread = (sums[1] / everywhere - middle.square()).clamp_min(0)
        mean, variance = middle.to(wide.dtype), spread.to(wide.dtype)
        y = F.batch_norm(x, mean, variance, weight, bias, False, 0.0, epsilon)
        ctx.save_for_backward(wide, weight, mean, variance, everywhere)
        ctx.epsilon, ctx.dtype = epsilon, x.dtype
        ctx.mark_non_differentiable(middle, spread, everywhere)
        return y, middle, spread, everywhere

    @staticmethod
    def backward(ctx: Any, by_y: Tensor, *_: Any) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight, mean, variance, everywhere = ctx.saved_tensors
        # with the statistics held fixed: g·scale, and this rank's sums of g·n and g
        by_x, *own = torch.ops.aten.native_batch_norm_backward(
            by_y.to(x.dtype), x, weight, mean, variance, None, None, False, ctx.epsilon, [True, True, True]
        )
        along, middle = all_reduce_sum(torch.stack(own).double()) / everywhere
        factor = torch.rsqrt(variance.double() + ctx.epsilon)
        scale = factor if weight is None else factor * weight
        shape = (1, -1, *(1,) * (x.dim() - 2))
        slope, offset = (
            (part.to(x.dtype).view(shape)) for part in (-scale * factor * along, -scale * middle)
        )
        by_x.addcmul_(x - mean.view(shape), slope).add_(offset)
        if weight is None:
            return by_x.to(ctx.dtype), None, None, None
        return by_x.to(ctx.dtype), own[0].to(weight.dtype), own[1].to(weight.dtype), None


class _Forward:
    """The forward of a batch-norm that looks at all ranks while it trains."""

    def __init__(self, module: _BatchNorm) -> None:
        self.module = module

    def __call__(self, x: Tensor) -> Tensor:
        module = self.module
        if not (module.training and module.across_ranks and num_ranks() > 1):
            return type(module).forward(module, x)
        if x.is_cuda:
            return _on_cuda(module, x)
        y, mean, variance, count = _Normalize.apply(x, module.weight, module.bias, module.eps)
        follow(module, mean, variance, count)
        return y  # type: ignore[no-any-return]


def _on_cuda(module: _BatchNorm, x: Tensor) -> Tensor:
    from torch.nn.modules._functions import SyncBatchNorm

    rate = counted(module)
    running = (module.running_mean, module.running_var) if module.track_running_stats else (None, None)
    return SyncBatchNorm.apply(  # type: ignore[no-any-return]
        x, module.weight, module.bias, *running, module.eps, rate, dist.group.WORLD, num_ranks()
    )


def synchronise(model: nn.Module, batch_norm: bool = True) -> None:
    """Makes batch-norms, and whatever else of a model declares `across_ranks`, look at all ranks in training.

    Nothing changes where there is a single one.

    Args:
        batch_norm: False leaves batch-norms to the images of their own rank.
    """
    if num_ranks() == 1:
        return
    for norm in batch_norms(model) if batch_norm else []:
        norm.across_ranks = True  # type: ignore[assignment]
        norm.forward = _Forward(norm)  # type: ignore[method-assign, assignment]
    for module in model.modules():
        if hasattr(module, "across_ranks"):
            module.across_ranks = True  # type: ignore[assignment]


@contextmanager
def each_rank_alone(model: nn.Module) -> Iterator[None]:
    """Inside, no module waits for other ranks: for trials that not all of them make."""
    together = [module for module in model.modules() if getattr(module, "across_ranks", False)]
    for module in together:
        module.across_ranks = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in together:
            module.across_ranks = True  # type: ignore[assignment]


def waits_for_ranks(model: nn.Module) -> bool:
    """Whether a forward pass of the model waits for other ranks."""
    return any(getattr(module, "across_ranks", False) for module in model.modules())
