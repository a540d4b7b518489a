"""EEDN: trinary weights that change only once the hidden weight has passed well beyond the threshold."""

from __future__ import annotations

import math

import torch
from torch import Size, Tensor, nn

from binas.binarize.contract import WEIGHT_BINARIZERS, Bases, WeightBinarizer
from binas.binarize.options import number
from binas.binarize.straight_through import straight_through


@WEIGHT_BINARIZERS.register("eedn")
class EednWeight(WeightBinarizer):
    """Trinary weights −1, 0, 1 with hysteresis, the state kept from step to step.

    forward   −1 where w <= −½ − h, 0 where |w| <= ½ − h, 1 where w >= ½ + h; in between as it was
    backward  the gradient of the trinary weight passes to w unchanged
    state     the trinary weights; after every optimizer step they are taken over and w is clipped to [−1, 1]

    Where it is the layer's first binarizer, latent weights start uniform in [−1, 1]: small ones would all
    be 0. As the binarizer of a later stage only, give it in the earlier ones too.
    They are √n times as large as usual, n the weights of a filter, and so is their learning rate.

    Args:
        shape: shape of the latent weight.
        hysteresis: h, above 0 and at most ½.
    Shape: (O, I, kH, kW) -> codes of that shape without scale.
    Reference: Esser et al., Convolutional networks for fast, energy-efficient neuromorphic computing,
        arXiv:1603.08270, with h = 0.1. The rule is rebuilt from its description and not verified against
        the authors' code.
    """

    bits = 2
    levels = (-1, 0, 1)
    paper = "Esser et al., Energy-efficient neuromorphic computing, arXiv:1603.08270"
    state: Tensor

    def __init__(self, shape: Size, hysteresis: float = 0.1) -> None:
        super().__init__()
        self.hysteresis = number("eedn", "hysteresis", hysteresis, 0, 0.5)
        self.learning_rate_scale = math.sqrt(shape[1:].numel())
        self.register_buffer("state", torch.zeros(shape))

    def initialise(self, weight: nn.Parameter) -> None:
        weight.data.uniform_(-1, 1)
        self.state.copy_(weight.round())

    def restart(self, weight: Tensor) -> None:
        self.state.copy_(weight.clamp(-1, 1).round())

    def _trinary(self, weight: Tensor) -> Tensor:
        outer, inner = 0.5 + self.hysteresis, 0.5 - self.hysteresis
        magnitude = weight.abs()
        kept = torch.where(magnitude <= inner, torch.zeros_like(weight), self.state)
        return torch.where(magnitude >= outer, weight.sign(), kept)

    def forward(self, weight: Tensor) -> Bases:
        return [(straight_through(weight, self._trinary(weight.detach())), None)]

    @torch.no_grad()
    def after_step(self, weight: nn.Parameter) -> None:
        self.state.copy_(self._trinary(weight))
        weight.clamp_(-1, 1)
