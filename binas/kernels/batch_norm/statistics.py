"""Running statistics of a batch-norm whose batch was normalised by code of our own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def counted(norm: _BatchNorm) -> float:
    """Counts a batch; the weight of its statistics: the momentum, or 1 / batches so far without one."""
    if not norm.track_running_stats:
        return 0.0
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            return 1 / float(norm.num_batches_tracked)
    return norm.momentum or 0.0


@torch.no_grad()
def follow(norm: _BatchNorm, mean: Tensor, variance: Tensor, count: int | Tensor) -> None:
    """running = (1 − rate)·running + rate·of the batch, the variance as n / (n − 1) of it, as torch does.

    Args:
        mean, variance: Of the batch, biased, in float64.
        count: Numbers a channel they were made of.
    Shape: (C,), (C,).
    """
    rate = counted(norm)
    if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
        norm.running_mean.mul_(1 - rate).add_(mean.to(norm.running_mean.dtype), alpha=rate)
        unbiased = variance * count / (count - 1)
        norm.running_var.mul_(1 - rate).add_(unbiased.to(norm.running_var.dtype), alpha=rate)
