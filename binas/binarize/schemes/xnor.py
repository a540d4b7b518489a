"""XNOR-Net's weights: signs with one scale for each filter, and what the released BNAS code makes of them."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Size, Tensor, nn

from binas.binarize.contract import WEIGHT_BINARIZERS, Bases, WeightBinarizer, per_filter
from binas.binarize.sign import straight_through_sign

MIN_CHANNELS_TO_CENTER = 4
"""Below this many input channels in a group, centring would erase most of a filter."""


def signs_and_scale(weight: Tensor, window: float | None) -> tuple[Tensor, Tensor]:
    """sign(w) and α = mean |w| of each filter (O,), with the exact gradient of both."""
    codes = straight_through_sign(weight, window)
    # |w| written as w·sign(w), so that its gradient at 0 is that of the formula, sign(0) = +1
    return codes, (weight * codes.detach()).flatten(1).mean(dim=1)


@WEIGHT_BINARIZERS.register("xnor")
class Xnor(WeightBinarizer):
    """Sign of the centred weight, scaled per filter by its mean magnitude.

    forward   ŵ = w − mean of w over the group's input channels; codes = sign(ŵ); α = mean |ŵ| per filter
    backward  dL/dŵ_i = α·1{|ŵ_i| <= window}·g_i + sign(ŵ_i)/n · Σ_j sign(ŵ_j) g_j, and through the mean,
              where g is the gradient of the binary weight α·sign(ŵ) and n the weights of a filter

    Args:
        shape: shape of the latent weight.
        center: whether to centre; never done below 4 input channels per group.
        window: half width of the interval in which the gradient of sign passes, or None.
    Reference: Rastegari et al., XNOR-Net, arXiv:1603.05279, sec. 3; centring and the exact gradient as in
        public XNOR-Net code. `bwn` is the paper's binary weight, without centring.
    Deviation: centring happens in forward only; the latent weight is never overwritten.
    """

    filter_by_filter = True
    paper = "Rastegari et al., XNOR-Net, arXiv:1603.05279"
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"center": False, "window": None})

    def __init__(self, shape: Size, center: bool = True, window: float | None = 1.0) -> None:
        super().__init__()
        self.center = center and shape[1] >= MIN_CHANNELS_TO_CENTER
        self.window = window

    def forward(self, weight: Tensor) -> Bases:
        if self.center:
            weight = weight - weight.mean(dim=1, keepdim=True)
        codes, scale = signs_and_scale(weight, self.window)
        return [(codes, per_filter(scale, weight.shape))]


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


@WEIGHT_BINARIZERS.register("xnor_released")
class XnorReleased(WeightBinarizer):
    """XNOR weights as the released BNAS code computes them: extra gradient factors, centring in place.

    forward   codes = sign(w), α = mean |w| per filter
    backward  the gradient of `xnor` without centring × (1 − 1/C_in) × n, n the weights of a filter
    state     after every optimizer step w is centred over its input channels and clamped to [−1, 1]

    Args:
        shape: shape of the latent weight.
    Reference: gistvision/bnas, src/bin_utils.py; the factors come from public XNOR-Net code.
    Deviation: the released code centres before each forward pass; after each step is the same but for
        the freshly initialised weights of the very first pass.
    """

    filter_by_filter = True
    paper = "Kim et al., BNAS (released code), arXiv:2002.06963"

    def __init__(self, shape: Size) -> None:
        super().__init__()
        self.factor = (1 - 1 / shape[1]) * shape[1:].numel()

    def forward(self, weight: Tensor) -> Bases:
        scaled: Tensor = _ScaleGradient.apply(weight, self.factor)
        codes, scale = signs_and_scale(scaled, 1.0)
        return [(codes, per_filter(scale, weight.shape))]

    @torch.no_grad()
    def after_step(self, weight: nn.Parameter) -> None:
        if weight.shape[1] > 1:
            weight.sub_(weight.mean(dim=1, keepdim=True))
        weight.clamp_(-1, 1)
