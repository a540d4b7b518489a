"""Weights that are binary themselves, for the optimizer `bop`, which flips them instead of moving them."""

from __future__ import annotations

import torch
from torch import Size, Tensor, nn

from binas.binarize.contract import WEIGHT_BINARIZERS, Bases, WeightBinarizer
from binas.binarize.sign import sign, straight_through_sign


@WEIGHT_BINARIZERS.register("bop")
class Bop(WeightBinarizer):
    """The weight is its own code, −1 or +1: no latent weight, no scale; the optimizer `bop` flips it.

    forward   codes = w, written as sign(w), so that codes are binary even under another optimizer
    backward  dL/dw = dL/dcodes

    Args:
        shape: shape of the weight.
    Reference: Helwegen et al., Latent Weights Do Not Exist, arXiv:1906.02107, sec. 3 and algorithm 1.
    Deviation: under any other optimizer it is a sign with the vanilla straight-through gradient.
    """

    filter_by_filter = True
    paper = "Helwegen et al., Latent Weights Do Not Exist, arXiv:1906.02107"

    def __init__(self, shape: Size) -> None:
        super().__init__()

    @torch.no_grad()
    def initialise(self, weight: nn.Parameter) -> None:
        weight.copy_(sign(weight))

    def forward(self, weight: Tensor) -> Bases:
        return [(straight_through_sign(weight, None), None)]
