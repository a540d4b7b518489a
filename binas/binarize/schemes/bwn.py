"""The binary weights of Binary-Weight-Networks, with the gradient of the mathematics or of the page."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Size, Tensor

from binas.binarize.contract import WEIGHT_BINARIZERS, Bases, WeightBinarizer, per_filter
from binas.binarize.options import one_of
from binas.binarize.schemes.xnor import signs_and_scale
from binas.binarize.sign import sign_with_slope


@WEIGHT_BINARIZERS.register("bwn")
class Bwn(WeightBinarizer):
    """Sign of the weight, scaled per filter by its mean magnitude; the paper's, without centring.

    forward   codes = sign(w), α = mean |w| per filter: the best α·B in least squares
    backward  exact:   dL/dw_i = α·1{|w_i| <= 1}·g_i + sign(w_i)/n · Σ_j sign(w_j) g_j
              printed: dL/dw_i = (1/n + α·1{|w_i| <= 1})·g_i
              where g is the gradient of the binary weight α·sign(w) and n the weights of a filter

    Args:
        shape: shape of the latent weight.
        gradient: exact, or as printed in the paper, which keeps only the diagonal of dα/dw.
    Reference: Rastegari et al., XNOR-Net, arXiv:1603.05279, sec. 3.1.
    """

    filter_by_filter = True
    paper = "Rastegari et al., XNOR-Net, arXiv:1603.05279"
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"gradient": "printed"})

    def __init__(self, shape: Size, gradient: str = "exact") -> None:
        super().__init__()
        self.printed = one_of("bwn", "gradient", gradient, ("exact", "printed")) == "printed"

    def forward(self, weight: Tensor) -> Bases:
        if not self.printed:
            codes, scale = signs_and_scale(weight, 1.0)
            return [(codes, per_filter(scale, weight.shape))]
        magnitude = weight.detach().abs()
        scale = magnitude.flatten(1).mean(dim=1)
        each = scale.reshape(-1, *([1] * (weight.dim() - 1))).clamp_min(torch.finfo(scale.dtype).tiny)
        # the codes' gradient is α·g already
        slope = (magnitude <= 1).to(weight.dtype) + 1 / (weight[0].numel() * each)
        codes = sign_with_slope(weight, slope)
        return [(codes, per_filter(scale, weight.shape))]
