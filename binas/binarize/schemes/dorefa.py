"""DoReFa: weights, activations and gradients of any small number of bits."""

from __future__ import annotations

import torch
from torch import Size, Tensor

from binas.binarize.contract import (
    ACTIVATION_BINARIZERS,
    GRADIENT_QUANTIZERS,
    WEIGHT_BINARIZERS,
    ActivationBinarizer,
    Bases,
    GradientQuantizer,
    WeightBinarizer,
)
from binas.binarize.options import whole
from binas.binarize.sign import sign
from binas.binarize.straight_through import clipped, straight_through

PAPER = "Zhou et al., DoReFa-Net, arXiv:1606.06160"
MAX_BITS = 8


@WEIGHT_BINARIZERS.register("dorefa")
class DorefaWeight(WeightBinarizer):
    """Weights of k bits between −1 and 1; of one bit, signs times the layer's mean magnitude.

    forward   k = 1: ŵ = sign(w)·mean |w| over the layer
              k > 1: ŵ = 2·q(tanh(w) / (2 max |tanh w|) + ½) − 1, q(r) = round((2^k − 1)·r) / (2^k − 1)
    backward  k = 1: the gradient of ŵ passes to w unchanged
              k > 1: q passes it unchanged, the rest by the chain rule, the maximum included

    Args:
        shape: shape of the latent weight.
        bits: k.
    Shape: (O, I, kH, kW) -> codes of that shape, odd integers from 1 − 2^k to 2^k − 1, and a scalar, which
        is 1 / (2^k − 1) for k > 1.
    Reference: arXiv:1606.06160, sec. 2.3-2.4, eqs. 7-9. Halves are rounded to even.
    """

    paper = PAPER
    variants = ({}, {"bits": 2}, {"bits": 4})

    def __init__(self, shape: Size, bits: int = 1) -> None:
        super().__init__()
        self.bits = whole("dorefa", "bits", bits, 1, MAX_BITS)
        self.steps = 2**bits - 1
        self.levels = tuple(range(-self.steps, self.steps + 1, 2))

    def forward(self, weight: Tensor) -> Bases:
        if self.bits == 1:
            scale = weight.detach().abs().mean()
            return [(straight_through(weight, sign(weight.detach()), scale), scale)]
        squashed = weight.tanh()
        # zeros only where all weights are: they stay in the middle
        unit = squashed / (2 * squashed.abs().max().clamp_min(torch.finfo(weight.dtype).tiny)) + 0.5
        codes = 2 * (self.steps * unit.detach()).round() - self.steps
        scale = weight.new_tensor(1 / self.steps)
        return [(straight_through(2 * unit, codes, scale), scale)]


@ACTIVATION_BINARIZERS.register("dorefa")
class DorefaActivation(ActivationBinarizer):
    """Activations of k bits between 0 and 1.

    forward   y = round((2^k − 1)·clip(x, 0, 1)) / (2^k − 1)
    backward  dy/dx = 1 if 0 <= x <= 1 else 0

    Args:
        channels: channels of the input; not used.
        bits: k.
    Shape: (N, C, H, W) -> codes 0 … 2^k − 1 of that shape and a scalar.
    Reference: arXiv:1606.06160, sec. 2.5, eq. 11. Halves are rounded to even.
    """

    paper = PAPER
    variants = ({}, {"bits": 1}, {"bits": 4})

    def __init__(self, channels: int, bits: int = 2) -> None:
        super().__init__()
        self.bits = whole("dorefa", "bits", bits, 1, MAX_BITS)
        self.levels = tuple(range(2**bits))

    def forward(self, x: Tensor) -> Bases:
        steps, y = self.levels[-1], clipped(x, 0, 1)
        scale = x.new_tensor(1 / steps)
        return [(straight_through(y, (steps * y.detach()).round(), scale), scale)]


@GRADIENT_QUANTIZERS.register("dorefa")
class DorefaGradient(GradientQuantizer):
    """Gradients of k bits, scaled by the largest of each image, with noise that keeps the mean.

    forward   g' = 2m·(q(clip(g / (2m) + ½ + u / (2^k − 1), 0, 1)) − ½), m = max |g| over an image,
              u uniform in [−½, ½], q(r) = round((2^k − 1)·r) / (2^k − 1); no noise in evaluation

    Args:
        bits: k.
    Shape: (N, C, H, W) -> same.
    Reference: arXiv:1606.06160, sec. 2.6, eq. 12; the clipping as in the authors' code.
    """

    paper = PAPER
    variants = ({}, {"bits": 2})

    def __init__(self, bits: int = 6) -> None:
        super().__init__()
        self.bits = whole("dorefa", "bits", bits, 1, MAX_BITS)
        self.steps = 2**bits - 1
        self.levels = tuple(range(-self.steps, self.steps + 1, 2))

    def forward(self, gradient: Tensor) -> Tensor:
        others = tuple(range(1, gradient.dim()))
        largest = gradient.abs().amax(dim=others, keepdim=True)
        unit = gradient / (2 * largest.clamp_min(torch.finfo(gradient.dtype).tiny)) + 0.5
        if self.training:
            unit = unit + (torch.rand_like(unit) - 0.5) / self.steps
        codes = 2 * (self.steps * unit.clamp(0, 1)).round() - self.steps
        quantized: Tensor = codes * (largest / self.steps)
        return quantized
