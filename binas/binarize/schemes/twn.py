"""Ternary weight networks: a fixed multiple of the mean magnitude decides what becomes zero."""

from __future__ import annotations

import torch
from torch import Size, Tensor

from binas.binarize.contract import WEIGHT_BINARIZERS, Bases, WeightBinarizer
from binas.binarize.straight_through import straight_through

THRESHOLD = 0.7
"""Share of the mean magnitude, from the paper's approximation for uniform and normal weights."""


@WEIGHT_BINARIZERS.register("twn")
class Twn(WeightBinarizer):
    """Ternary weights −a, 0, +a with the threshold at 0.7 of the mean magnitude.

    forward   Δ = 0.7·mean |w|, codes = sign(w)·1{|w| > Δ}, a = mean of |w| over |w| > Δ, all per layer
    backward  the gradient of ŵ = a·codes passes to w unchanged

    Args:
        shape: shape of the latent weight.
    Shape: (O, I, kH, kW) -> codes −1, 0, 1 of that shape and a scalar.
    Reference: Li et al., Ternary Weight Networks, arXiv:1605.04711, sec. 2; scale per layer as in the
        authors' code.
    """

    bits = 2
    levels = (-1, 0, 1)
    paper = "Li et al., Ternary Weight Networks, arXiv:1605.04711"

    def __init__(self, shape: Size) -> None:
        super().__init__()

    def forward(self, weight: Tensor) -> Bases:
        with torch.no_grad():
            magnitudes = weight.abs()
            kept = magnitudes > THRESHOLD * magnitudes.mean()
            scale = (magnitudes * kept).sum() / kept.sum().clamp_min(1)
            codes = weight.sign() * kept
        return [(straight_through(weight, codes, scale), scale)]
