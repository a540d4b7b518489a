"""Exact codes with the gradient of something smooth: what most quantizers with several levels share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, surrogate: Tensor, codes: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return codes.expand_as(surrogate)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient * ctx.saved_tensors[0], None, None


def straight_through(surrogate: Tensor, codes: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """The codes, so that codes × scale has the gradient of the surrogate, the scale being constant.

    forward   y = codes
    backward  dy/d(surrogate) = 1 / scale; 0 where the scale is 0

    Args:
        surrogate: what the gradient passes to, usually x clipped to a range.
        codes: integers, of the surrogate's shape; they get no gradient.
        scale: what the codes are multiplied by later, in a shape that broadcasts against them.
    """
    return shared_straight_through(surrogate, [codes], [torch.as_tensor(scale, dtype=surrogate.dtype)])[0]


def shared_straight_through(surrogate: Tensor, codes: list[Tensor], scales: list[Tensor]) -> list[Tensor]:
    """The codes of several bases, so that Σ codes × scale has the gradient of the surrogate.

    forward   y_i = codes_i
    backward  dy_i/d(surrogate) = scale_i / Σ_j scale_j², which Σ_i scale_i · dy_i makes 1; scales constant
    """
    with torch.no_grad():
        device = surrogate.device
        scales = [scale.detach().to(device) for scale in scales]
        total = sum(
            (scale.square() for scale in scales), torch.zeros((), dtype=surrogate.dtype, device=device)
        )
        factors = [torch.where(total > 0, scale / total, torch.zeros_like(total)) for scale in scales]
    return [
        _StraightThrough.apply(surrogate, code.detach(), factor)
        for code, factor in zip(codes, factors, strict=True)
    ]


def clipped(x: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """x clipped to a range, with the gradient passing at both ends of it too.

    forward   y = min(max(x, low), high)
    backward  dy/dx = 1 if low <= x <= high else 0; the ends get none

    `torch.clamp` has a gradient at the ends that differs from version to version.
    """
    ends = torch.clamp(x.detach(), low, high)  # type: ignore[arg-type]
    return torch.where((x >= low) & (x <= high), x, ends)
