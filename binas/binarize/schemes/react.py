"""ReActNet's weights: a scaled sign whose gradient is that of clamping the latent weight."""

from __future__ import annotations

import torch
from torch import Size, Tensor

from binas.binarize.contract import WEIGHT_BINARIZERS, Bases, WeightBinarizer, per_filter
from binas.binarize.sign import sign_with_slope


@WEIGHT_BINARIZERS.register("react")
class React(WeightBinarizer):
    """Sign of the weight, scaled per filter by its mean magnitude, with the gradient of clamp.

    forward   codes = sign(w), α = mean |w| per filter
    backward  dL/dw = 1{|w| <= 1}·g, where g is the gradient of the binary weight α·sign(w)

    Args:
        shape: shape of the latent weight; not used.
    Reference: Liu et al., ReActNet, arXiv:2003.03488, sec. 3 (forward); the gradient is that of the
        authors' code. `rsign` is the activation that goes with it.
    """

    filter_by_filter = True
    paper = "Liu et al., ReActNet, arXiv:2003.03488"

    def __init__(self, shape: Size) -> None:
        super().__init__()

    def forward(self, weight: Tensor) -> Bases:
        magnitude = weight.detach().abs()
        scale = magnitude.flatten(1).mean(dim=1)
        each = scale.reshape(-1, *([1] * (weight.dim() - 1))).clamp_min(torch.finfo(scale.dtype).tiny)
        # the product with the scale multiplies the codes' gradient by it; this takes the factor out again
        codes = sign_with_slope(weight, (magnitude <= 1) / each)
        return [(codes, per_filter(scale, weight.shape))]
