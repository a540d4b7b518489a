"""Bi-Real Net's weights: the scale counts as a constant, so that a gradient knows the weights' magnitude."""

from __future__ import annotations

from torch import Size, Tensor

from binas.binarize.contract import WEIGHT_BINARIZERS, Bases, WeightBinarizer, per_filter
from binas.binarize.sign import sign_with_slope


@WEIGHT_BINARIZERS.register("magnitude_aware")
class MagnitudeAware(WeightBinarizer):
    """Sign of the weight, scaled per filter by its mean magnitude, which passes no gradient.

    forward   codes = sign(w), α = mean |w| per filter
    backward  dL/dw = α·1{|w| < 1}·g, where g is the gradient of the binary weight α·sign(w)

    Args:
        shape: shape of the latent weight; not used.
    Reference: Liu et al., Bi-Real Net, arXiv:1808.00278, sec. 3.3, magnitude-aware sign.
    Deviation: the authors train with it and then drop α, which batch-norm absorbs; here it stays. Their
        later PyTorch code has the gradient of `react`.
    """

    filter_by_filter = True
    paper = "Liu et al., Bi-Real Net, arXiv:1808.00278"

    def __init__(self, shape: Size) -> None:
        super().__init__()

    def forward(self, weight: Tensor) -> Bases:
        magnitude = weight.detach().abs()
        codes = sign_with_slope(weight, (magnitude < 1).to(weight.dtype))
        return [(codes, per_filter(magnitude.flatten(1).mean(dim=1), weight.shape))]
