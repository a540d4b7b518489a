"""Batch-norm without scale and shift, as supernets use it: fewer passes than torch's on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from binas.kernels.batch_norm.statistics import follow
from binas.kernels.compiled import is_available
from binas.kernels.layouts.channels_last import channels_first
from binas.kernels.threads import Team

SMALLEST_SIZE = 1 << 16
"""Numbers below which torch's own batch-norm is as fast."""


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
        from binas.kernels.batch_norm.loops import normalize

        x = channels_first(x)
        y = torch.empty_like(x)
        mean, variance = torch.empty(2, x.shape[1], dtype=torch.float64).unbind()
        flat = x.flatten(2).numpy(), y.flatten(2).numpy(), mean.numpy(), variance.numpy()
        with Team() as team:
            team.run_shares(lambda begin, end: normalize(*flat, epsilon, begin, end), x.shape[1])
        ctx.save_for_backward(y, variance)
        ctx.epsilon = epsilon
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, by_y: Tensor, *_: Any) -> tuple[Tensor, None]:
        from binas.kernels.batch_norm.loops import gradient

        y, variance = ctx.saved_tensors
        by_x, by_y = torch.empty_like(y), channels_first(by_y)
        flat = y.flatten(2).numpy(), by_y.flatten(2).numpy(), by_x.flatten(2).numpy(), variance.numpy()
        with Team() as team:
            team.run_shares(lambda begin, end: gradient(*flat, ctx.epsilon, begin, end), y.shape[1])
        return by_x, None


class PlainBatchNorm2d(nn.BatchNorm2d):
    """Batch-norm without affine parameters; the same numbers as torch's, statistics summed in float64.

    forward   y = (x − mean) / sqrt(variance + eps), over images and pixels of the batch in training
    backward  exact

    Args:
        channels: C.
    Shape: (N, C, H, W) -> same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=False)

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        if not self._is_fast(input):
            return super().forward(input)
        y, mean, variance = _Normalize.apply(input, self.eps)
        follow(self, mean, variance, input.numel() // input.shape[1])
        return y  # type: ignore[no-any-return]

    def _is_fast(self, x: Tensor) -> bool:
        return (
            self.training
            and self.momentum is not None
            and x.device.type == "cpu"
            and x.dtype in (torch.float32, torch.float64)
            and x.numel() >= SMALLEST_SIZE
            and type(x) is Tensor
            and is_available()
        )
