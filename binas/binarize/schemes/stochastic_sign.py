"""BNN's stochastic estimator of activations: +1 with the probability that a hard sigmoid gives."""

from __future__ import annotations

import torch
from torch import Tensor

from binas.binarize.contract import ACTIVATION_BINARIZERS, ActivationBinarizer, Bases
from binas.binarize.sign import sign, with_slope


@ACTIVATION_BINARIZERS.register("stochastic_sign")
class StochasticSign(ActivationBinarizer):
    """A random sign, +1 with the probability of a hard sigmoid; plain sign in evaluation.

    forward   training: y = +1 with probability clip((x + 1)/2, 0, 1), else −1; its mean is clip(x, −1, 1).
              Evaluation: +1 if x >= 0 else −1
    backward  dy/dx = 1 if |x| <= 1 else 0, the derivative of that mean

    Draws from torch's global generator.

    Args:
        channels: channels of the input; not used.
    Shape: any -> codes of the same shape, no scale.
    Reference: Hubara et al., Binarized Neural Networks, arXiv:1602.02830, sec. 1.1 and 1.3.
    """

    paper = "Hubara et al., Binarized Neural Networks, arXiv:1602.02830"

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Bases:
        return [(with_slope(x, self._draw(x) if self.training else sign(x), _passes), None)]

    @torch.no_grad()
    def _draw(self, x: Tensor) -> Tensor:
        probability = ((x + 1) / 2).clamp(0, 1)
        return torch.where(torch.rand_like(probability) < probability, 1.0, -1.0).to(x.dtype)


def _passes(x: Tensor) -> Tensor:
    return (x.abs() <= 1).to(x.dtype)
