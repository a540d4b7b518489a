"""PACT: activations clipped at a learned value."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from binas.binarize.contract import ACTIVATION_BINARIZERS, ActivationBinarizer, Bases
from binas.binarize.options import number, whole
from binas.binarize.straight_through import straight_through

FLOOR = 1e-3
"""Least value of the clip in forward: it is to stay positive."""


@ACTIVATION_BINARIZERS.register("pact")
class Pact(ActivationBinarizer):
    """Activations of k bits between 0 and a learned clip.

    forward   y = clip(x, 0, α); value round(y·(2^k − 1)/α)·α/(2^k − 1)
    backward  d/dx = 1 if 0 <= x < α else 0; d/dα = 1 if x >= α else 0

    Args:
        channels: channels of the input; not used: α holds for the whole layer.
        bits: k.
        initial: first value of α.
    Shape: (N, C, H, W) -> codes 0 … 2^k − 1 of that shape and a scalar.
    Reference: Choi et al., PACT, arXiv:1805.06085, sec. 3, eqs. 1-3. Halves are rounded to even.
    Deviation: the paper starts α high and lets an L2 penalty lower it; the penalty is the optimizer's
        weight decay, which reaches α as every parameter, and the start is near the best clip of
        batch-norm's outputs. α counts as 0.001 at least.
    """

    paper = "Choi et al., PACT, arXiv:1805.06085"
    variants = ({}, {"bits": 1}, {"bits": 4, "initial": 6.0})

    def __init__(self, channels: int, bits: int = 2, initial: float = 2.0) -> None:
        super().__init__()
        self.bits = whole("pact", "bits", bits, 1, 8)
        self.levels = tuple(range(2**bits))
        self.alpha = nn.Parameter(torch.tensor(number("pact", "initial", initial, 0)))

    def forward(self, x: Tensor) -> Bases:
        steps = self.levels[-1]
        alpha = straight_through(self.alpha, self.alpha.clamp_min(FLOOR))
        y = torch.where(x < alpha, torch.where(x >= 0, x, torch.zeros_like(x)), alpha)
        scale = alpha.detach() / steps
        codes = (y.detach() / scale).round()
        return [(straight_through(y, codes, scale), scale)]
