"""Trained ternary quantization: the two magnitudes are learned."""

from __future__ import annotations

import torch
from torch import Size, Tensor, nn

from binas.binarize.contract import WEIGHT_BINARIZERS, Bases, WeightBinarizer
from binas.binarize.options import number
from binas.binarize.straight_through import straight_through

FLOOR = 1e-3
"""Least value of a learned magnitude in forward: they are to stay positive."""


@WEIGHT_BINARIZERS.register("ttq")
class Ttq(WeightBinarizer):
    """Ternary weights −W_n, 0, +W_p with both magnitudes learned.

    forward   Δ = threshold·max |w|; ŵ = W_p where w > Δ, −W_n where w < −Δ, 0 between, per layer; as two
              bases, 1{w > Δ} with scale W_p and 1{w < −Δ} with scale −W_n
    backward  dL/dW_p = Σ g over w > Δ; dL/dW_n = −Σ g over w < −Δ; dL/dw = W_p·g, g or W_n·g above,
              between and below, g the gradient of ŵ

    Args:
        shape: shape of the latent weight.
        threshold: share of the largest magnitude, above 0 and below 1.
    Shape: (O, I, kH, kW) -> two pairs of codes 0, 1 of that shape and a scalar.
    Reference: Zhu et al., Trained Ternary Quantization, arXiv:1612.01064, sec. 3, eqs. 6-8.
    Deviation: public code leaves out the minus sign of dL/dW_n, so that W_n moves the wrong way; here it is
        the true derivative. W_p and W_n start from the mean magnitudes of what they stand for, and count
        as 0.001 at least, with the gradient passing straight through.
    """

    num_bases = 2
    levels = (0, 1)
    paper = "Zhu et al., Trained Ternary Quantization, arXiv:1612.01064"
    variants = ({}, {"threshold": 0.3})

    def __init__(self, shape: Size, threshold: float = 0.05) -> None:
        super().__init__()
        self.threshold = number("ttq", "threshold", threshold, 0, 0.999)
        self.positive = nn.Parameter(torch.ones(()))
        self.negative = nn.Parameter(torch.ones(()))

    def initialise(self, weight: nn.Parameter) -> None:
        above, below = self._regions(weight.detach())
        for scale, region in ((self.positive, above), (self.negative, below)):
            scale.data.copy_((weight.detach().abs() * region).sum() / region.sum().clamp_min(1))

    def _regions(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        threshold = self.threshold * weight.abs().max()
        return weight > threshold, weight < -threshold

    def forward(self, weight: Tensor) -> Bases:
        above, below = self._regions(weight.detach())
        positive = straight_through(self.positive, self.positive.clamp_min(FLOOR))
        negative = straight_through(self.negative, self.negative.clamp_min(FLOOR))
        # the gradient between the thresholds goes through the first base, divided by its scale
        slope = torch.where(above, 1.0, torch.where(below, 0.0, 1 / positive.detach())).to(weight.dtype)
        first = straight_through(weight * slope, above.to(weight.dtype))
        second = straight_through(weight * -below.to(weight.dtype), below.to(weight.dtype))
        return [(first, positive), (second, -negative)]
