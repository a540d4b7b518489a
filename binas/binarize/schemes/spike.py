"""EEDN's spiking neuron: activations of 0 and 1, with a triangle as gradient."""

from __future__ import annotations

from torch import Tensor

from binas.binarize.contract import ACTIVATION_BINARIZERS, ActivationBinarizer, Bases
from binas.binarize.sign import with_slope


@ACTIVATION_BINARIZERS.register("spike")
class Spike(ActivationBinarizer):
    """A spike where the input is not negative, with a triangular gradient.

    forward   y = 1 if x >= 0 else 0
    backward  dy/dx = max(0, 1 − |x|)

    Codes are 0 and 1, so padding with 0 adds no third value.

    Args:
        channels: channels of the input; not used.
    Shape: any -> codes of the same shape, no scale.
    Reference: Esser et al., Convolutional Networks for Fast, Energy-Efficient Neuromorphic Computing
        (EEDN), arXiv:1603.08270.
    Uncertain: the gradient follows secondary sources; the paper was not at hand.
    """

    same_for_all_edges = True
    levels = (0, 1)
    paper = "Esser et al., EEDN, arXiv:1603.08270"

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Bases:
        return [(with_slope(x, (x >= 0).to(x.dtype), _triangle), None)]


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp_min(0)
