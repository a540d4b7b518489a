"""WRPN: plain clipping and rounding, made up for by wider layers."""

from __future__ import annotations

import math

from torch import Size, Tensor, nn

from binas.binarize.contract import (
    ACTIVATION_BINARIZERS,
    WEIGHT_BINARIZERS,
    ActivationBinarizer,
    Bases,
    WeightBinarizer,
    per_filter,
)
from binas.binarize.options import whole
from binas.binarize.sign import sign, straight_through_sign
from binas.binarize.straight_through import clipped, straight_through

PAPER = "Mishra et al., WRPN, arXiv:1709.01134"
MAX_BITS = 8


@WEIGHT_BINARIZERS.register("wrpn")
class WrpnWeight(WeightBinarizer):
    """Weights of k bits between −1 and 1; of one bit, signs times the filter's mean magnitude.

    forward   k = 1: ŵ = sign(w)·mean |w| per filter
              k > 1: ŵ = round((2^(k−1) − 1)·clip(w, −1, 1)) / (2^(k−1) − 1)
    backward  1 if |w| <= 1 else 0, the scale being constant

    The other half of the method is width: give the network two or three times the channels. Where it is
    the layer's first binarizer and k > 1, latent weights are stretched to reach ±1, since small ones would
    all be 0; as the binarizer of a later stage only, give it in the earlier ones too. They are then about
    √n times as large as usual, n the weights of a filter, and so is their learning rate.

    Args:
        shape: shape of the latent weight.
        bits: k.
    Shape: (O, I, kH, kW) -> codes of that shape, integers from 1 − 2^(k−1) to 2^(k−1) − 1 (±1 for k = 1),
        and a scalar (k = 1: (O, 1, 1)).
    Reference: arXiv:1709.01134, sec. 3, k = 1 as in XNOR-Net (there called BWN). Halves are rounded to even.
    """

    paper = PAPER
    variants = ({}, {"bits": 1}, {"bits": 4})

    def __init__(self, shape: Size, bits: int = 2) -> None:
        super().__init__()
        self.bits = whole("wrpn", "bits", bits, 1, MAX_BITS)
        self.steps = 2 ** (bits - 1) - 1
        self.levels = (-1, 1) if bits == 1 else tuple(range(-self.steps, self.steps + 1))
        self.learning_rate_scale = math.sqrt(shape[1:].numel()) if bits > 1 else 1.0

    def initialise(self, weight: nn.Parameter) -> None:
        if self.bits > 1:
            weight.data.div_(weight.data.abs().max())

    def forward(self, weight: Tensor) -> Bases:
        w = clipped(weight, -1, 1)
        if self.bits == 1:
            alpha = weight.detach().abs().flatten(1).mean(dim=1)
            column = alpha.reshape(-1, *([1] * (weight.dim() - 1)))
            codes = straight_through(w, sign(weight.detach()), column)
            return [(codes, per_filter(alpha, weight.shape))]
        scale = weight.new_tensor(1 / self.steps)
        return [(straight_through(w, (self.steps * w.detach()).round(), scale), scale)]


@ACTIVATION_BINARIZERS.register("wrpn")
class WrpnActivation(ActivationBinarizer):
    """Activations of k bits between 0 and 1; of one bit, signs.

    forward   k = 1: sign(x); k > 1: round((2^k − 1)·clip(x, 0, 1)) / (2^k − 1)
    backward  k = 1: 1 if |x| <= 1 else 0; k > 1: 1 if 0 <= x <= 1 else 0

    Args:
        channels: channels of the input; not used.
        bits: k.
    Shape: (N, C, H, W) -> codes 0 … 2^k − 1 (±1 for k = 1) of that shape and a scalar (k = 1: none).
    Reference: arXiv:1709.01134, sec. 3. Halves are rounded to even.
    """

    paper = PAPER
    variants = ({}, {"bits": 1}, {"bits": 4})

    def __init__(self, channels: int, bits: int = 2) -> None:
        super().__init__()
        self.bits = whole("wrpn", "bits", bits, 1, MAX_BITS)
        self.levels = (-1, 1) if bits == 1 else tuple(range(2**bits))
        self.same_for_all_edges = bits == 1

    def forward(self, x: Tensor) -> Bases:
        if self.bits == 1:
            return [(straight_through_sign(x), None)]
        steps, y = self.levels[-1], clipped(x, 0, 1)
        scale = x.new_tensor(1 / steps)
        return [(straight_through(y, (steps * y.detach()).round(), scale), scale)]
