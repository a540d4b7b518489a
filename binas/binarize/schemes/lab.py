"""Loss-aware binarization: the scale weighs each weight by the curvature of the loss along it."""

from __future__ import annotations

import torch
from torch import Size, Tensor, nn

from binas.binarize.contract import WEIGHT_BINARIZERS, Bases, WeightBinarizer
from binas.binarize.options import number_between
from binas.binarize.sign import sign_with_slope

EPSILON = 1e-8
"""Added to the curvature, as in the authors' code; while there is none yet, all weights count alike."""


@WEIGHT_BINARIZERS.register("lab")
class Lab(WeightBinarizer):
    """Sign of the weight, scaled per layer by a mean magnitude that the loss's curvature weighs.

    forward   codes = sign(w), α = Σ |d·w| / Σ d over the layer, d = √v + 1e-8
    backward  dL/dw = g, where g is the gradient of the binary weight α·sign(w)
    state     after every optimizer step v ← β₂·v + (1 − β₂)·g², and w is clamped to [−1, 1]

    √v stands for the diagonal of the Hessian, as in Adam; the scale is the closed-form solution of a
    proximal Newton step.

    Args:
        shape: shape of the latent weight.
        beta2: how slowly v follows, as of Adam, above 0 and below 1.
    Reference: Hou et al., Loss-aware Binarization, arXiv:1611.01600, sec. 3.1, and the released code.
    Deviation: v is the binarizer's own, so that any optimizer goes with it; the authors read that of
        Adam, which is the same number, without Adam's correction of the bias, which cancels in α.
    """

    paper = "Hou et al., Loss-aware Binarization, arXiv:1611.01600"

    second_moment: Tensor

    def __init__(self, shape: Size, beta2: float = 0.999) -> None:
        super().__init__()
        self.beta2 = number_between("lab", "beta2", beta2, 0, 1)
        self.register_buffer("second_moment", torch.zeros(shape))

    def forward(self, weight: Tensor) -> Bases:
        curvature = self.second_moment.sqrt() + EPSILON
        scale = (curvature * weight.detach().abs()).sum() / curvature.sum()
        # the product with the scale multiplies the codes' gradient by it; this takes the factor out again
        slope = 1 / scale.clamp_min(torch.finfo(scale.dtype).tiny)
        return [(sign_with_slope(weight, slope), scale)]

    @torch.no_grad()
    def after_step(self, weight: nn.Parameter) -> None:
        if weight.grad is not None:
            self.second_moment.mul_(self.beta2).addcmul_(weight.grad, weight.grad, value=1 - self.beta2)
        weight.clamp_(-1, 1)
