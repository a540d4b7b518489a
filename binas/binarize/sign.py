"""The one sign, its two common surrogate gradients, and codes with any other slope as gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def sign(x: Tensor) -> Tensor:
    """+1 where x >= 0 (also at −0.0), −1 elsewhere; never 0, unlike `torch.sign`."""
    x = x.detach()
    # a comparison into the input's own type is vectorised on CPUs, one into booleans is not: 20 times faster
    return torch.ge(x, 0, out=torch.empty_like(x)).mul_(2).sub_(1)


class _StraightThroughSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, window: float | None) -> Tensor:
        ctx.window = window
        if window is not None:
            ctx.save_for_backward(x)
        return sign(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if ctx.window is None:
            return gradient, None
        x: Tensor = ctx.saved_tensors[0]
        if x.dtype not in (torch.float32, torch.float64):
            return gradient * (x.abs() <= ctx.window), None
        # one pass, without a mask; its window is open, so that it ends at the next number
        end = float(torch.nextafter(torch.tensor(ctx.window, dtype=x.dtype), torch.tensor(torch.inf)))
        return torch.ops.aten.hardtanh_backward(gradient, x, -end, end), None


class _ApproxSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return sign(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x: Tensor = ctx.saved_tensors[0]
        return gradient * (2 - 2 * x.abs()).clamp_min(0)


class _WithSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, slope: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        return codes.view_as(codes)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient * ctx.slope(ctx.saved_tensors[0]), None, None


def with_slope(x: Tensor, codes: Tensor, slope: Callable[[Tensor], Tensor]) -> Tensor:
    """Codes that were computed from x, with a gradient of one's own choice.

    forward   y = codes
    backward  dy/dx = slope(x)

    Memory holds x until then; nothing is computed for a pass without gradients.

    Args:
        slope: gives the derivative for each element of x; only called in the backward pass.
    Shape: x, codes and slope(x) alike.
    """
    return _WithSlope.apply(x, codes, slope)  # type: ignore[no-any-return]


def tanh_slope(z: Tensor) -> Tensor:
    """The derivative 1 − tanh²(z), as 4σ(2z)σ(−2z): small values keep their digits.

    Shape: any -> same.
    """
    return 4 * torch.sigmoid(2 * z) * torch.sigmoid(-2 * z)


def sign_with_slope(x: Tensor, slope: Tensor) -> Tensor:
    """Sign with a gradient that is known in the forward pass already.

    forward   y = +1 if x >= 0 else −1
    backward  dy/dx = slope, held constant

    Shape: x and slope alike, or slope broadcasts to x.
    """
    return with_slope(x, sign(x), lambda _: slope)


def straight_through_sign(x: Tensor, window: float | None = 1.0) -> Tensor:
    """Sign whose gradient passes unchanged inside a window.

    forward   y = +1 if x >= 0 else −1
    backward  dy/dx = 1 if |x| <= window else 0; 1 everywhere when window is None

    Shape: any -> same.
    Reference: Hubara et al., Binarized Neural Networks, arXiv:1602.02830, sec. 1.3.
    """
    return _StraightThroughSign.apply(x, window)  # type: ignore[no-any-return]


def approx_sign(x: Tensor) -> Tensor:
    """Sign with the gradient of a piecewise quadratic that approximates it.

    forward   y = +1 if x >= 0 else −1
    backward  dy/dx = 2 − 2|x| if |x| <= 1 else 0

    Shape: any -> same.
    Reference: Liu et al., Bi-Real Net, arXiv:1808.00278, sec. 3.3.
    Deviation: 0 maps to +1; the authors' code maps it to 0.
    """
    return _ApproxSign.apply(x)  # type: ignore[no-any-return]
