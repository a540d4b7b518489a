"""HWGQ: activations on the levels that suit the positive half of a normal distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from binas.binarize.contract import ACTIVATION_BINARIZERS, ActivationBinarizer, Bases
from binas.binarize.gaussian import half_wave_step
from binas.binarize.options import whole
from binas.binarize.straight_through import straight_through

PUBLISHED_STEP = 0.538
"""Spacing of the two-bit levels in the paper and its code."""


@ACTIVATION_BINARIZERS.register("hwgq")
class Hwgq(ActivationBinarizer):
    """Activations of k bits on evenly spaced levels that are best for half a normal distribution.

    forward   0 where x <= 0, else the nearest of Δ, 2Δ, … (2^k − 1)Δ, the lower of two equally near ones
    backward  dy/dx = 1 if 0 < x <= (2^k − 1)Δ else 0 (the clipped rectifier)

    Args:
        channels: channels of the input, which comes from a batch-norm; not used.
        bits: k; Δ = 0.538 for 2 as published, the least-squares one for others.
    Shape: (N, C, H, W) -> codes 0 … 2^k − 1 of that shape and a scalar.
    Reference: Cai et al., Half-Wave Gaussian Quantization, arXiv:1702.00953, sec. 4; values and thresholds
        as in the authors' code.
    """

    paper = "Cai et al., Half-Wave Gaussian Quantization, arXiv:1702.00953"
    variants = ({}, {"bits": 1}, {"bits": 3})

    def __init__(self, channels: int, bits: int = 2) -> None:
        super().__init__()
        self.bits = whole("hwgq", "bits", bits, 1, 8)
        self.levels = tuple(range(2**bits))
        self.step = PUBLISHED_STEP if bits == 2 else half_wave_step(self.levels[-1])

    def forward(self, x: Tensor) -> Bases:
        return [half_wave_codes(x, self.levels[-1], self.step, 0.0)]


def half_wave_codes(x: Tensor, top: int, step: float, threshold: float) -> tuple[Tensor, Tensor]:
    """Codes 0 … top and their scale: 0 up to the threshold, the nearest of 1 … top times the step above.

    backward  the value has gradient 1 where threshold < x <= top·step, else 0
    """
    with torch.no_grad():
        between = (max((i + 0.5) * step, threshold) for i in range(1, top))
        edges = torch.tensor([threshold, *between], dtype=x.dtype, device=x.device)
        codes = torch.bucketize(x, edges).to(x.dtype)  # edges[i − 1] < x <= edges[i] gives i
        passes = ((x > threshold) & (x <= top * step)).to(x.dtype)
        scale = x.new_tensor(step)
    return straight_through(x * passes, codes, scale), scale
