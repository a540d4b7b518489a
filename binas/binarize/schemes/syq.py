"""SYQ: symmetric binary or ternary weights with a learned scale for each position of the kernel."""

from __future__ import annotations

import torch
from torch import Size, Tensor, nn

from binas.binarize.contract import WEIGHT_BINARIZERS, Bases, WeightBinarizer
from binas.binarize.options import one_of, whole
from binas.binarize.sign import sign
from binas.binarize.straight_through import straight_through

THRESHOLD = 0.05
"""Share of the largest magnitude below which a ternary weight is 0."""


@WEIGHT_BINARIZERS.register("syq")
class Syq(WeightBinarizer):
    """Binary or ternary weights with a learned scale for each pixel or row of the kernel.

    forward   codes = sign(w), and with two bits 0 where |w| <= 0.05·max |w| over the layer;
              ŵ = α·codes with one α for each kernel position (pixel), each kernel row, or the layer
    backward  dL/dw = α·g; dL/dα = Σ codes·g over what shares it, g the gradient of ŵ

    Args:
        shape: shape of the latent weight.
        bits: 1 for binary, 2 for ternary.
        scaling: pixel, row or layer.
    Shape: (O, I, kH, kW) -> codes of that shape and a scale (1, 1, kH, kW), (1, 1, kH, 1) or (1, 1, 1, 1),
        which multiplies the kernel; it starts from the mean magnitude of what shares it.
    Reference: Faraone et al., SYQ, arXiv:1807.00301, sec. 3.
    Deviation: the authors' code leaves binary weights below the threshold unscaled and passes their
        gradient, and that of ternary zeros, unscaled too; here α multiplies all, as written in the paper.
    """

    scales = "kernel"
    paper = "Faraone et al., SYQ, arXiv:1807.00301"
    variants = ({}, {"bits": 1}, {"scaling": "row"}, {"scaling": "layer", "bits": 1})

    def __init__(self, shape: Size, bits: int = 2, scaling: str = "pixel") -> None:
        super().__init__()
        self.bits = whole("syq", "bits", bits, 1, 2)
        self.levels = (-1, 1) if bits == 1 else (-1, 0, 1)
        kept = {"pixel": 2, "row": 1, "layer": 0}[
            one_of("syq", "scaling", scaling, ("pixel", "row", "layer"))
        ]
        self.alpha = nn.Parameter(torch.ones(_shared_shape(shape, kept)))

    def initialise(self, weight: nn.Parameter) -> None:
        shared = [axis for axis, size in enumerate(self.alpha.shape) if size == 1]
        self.alpha.data.copy_(weight.detach().abs().mean(dim=shared, keepdim=True))

    def forward(self, weight: Tensor) -> Bases:
        w = weight.detach()
        codes = sign(w)
        if self.bits == 2:
            codes = codes * (w.abs() > THRESHOLD * w.abs().max())
        return [(straight_through(weight, codes), self.alpha)]


def _shared_shape(shape: Size, kept: int) -> list[int]:
    """1 everywhere but in the first `kept` of the kernel's axes, which follow the channels'."""
    return [size if 2 <= axis < 2 + kept else 1 for axis, size in enumerate(shape)]
