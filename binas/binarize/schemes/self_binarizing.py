"""Self-binarizing networks: tanh(ν·x) as the value itself, sharpened during training until it is sign."""

from __future__ import annotations

import torch
from torch import Size, Tensor

from binas.binarize.contract import (
    ACTIVATION_BINARIZERS,
    WEIGHT_BINARIZERS,
    ActivationBinarizer,
    Bases,
    WeightBinarizer,
)
from binas.binarize.options import positive
from binas.binarize.sign import sign, tanh_slope, with_slope
from binas.errors import UserError


def sharpened_tanh(x: Tensor, sharpness: float, binary: bool) -> Tensor:
    """tanh(ν·x), or its sign where it has to be binary; the gradient is that of the tanh either way.

    forward   y = tanh(ν·x); binary: +1 if x >= 0 else −1
    backward  dy/dx = ν(1 − tanh²(ν·x))

    Args:
        sharpness: ν.
    Shape: any -> same.
    """
    if not binary:
        return torch.tanh(sharpness * x)
    return with_slope(x, sign(x), lambda x: sharpness * tanh_slope(sharpness * x))


class _Sharpness:
    """ν between its two ends, on a logarithmic scale."""

    def __init__(self, owner: str, start: float, end: float) -> None:
        self.start, self.end = positive(owner, "start", start), positive(owner, "end", end)
        if self.end < self.start:
            raise UserError(f"{owner}: end {end} is below start {start}; tanh is sharpened")

    def at(self, progress: float) -> float:
        """ν after that share of training."""
        return float(self.start * (self.end / self.start) ** progress)


@ACTIVATION_BINARIZERS.register("tanh_sign")
class TanhSign(ActivationBinarizer):
    """A tanh sharpened during training until it is the sign; evaluation is binary at all times.

    forward   training: y = tanh(ν·x), ν from `start` to `end` on a logarithmic scale; at the end of
              training and in evaluation: +1 if x >= 0 else −1
    backward  dy/dx = ν(1 − tanh²(ν·x)), exact in training

    While training, codes are real numbers between the levels. A validation early in training measures
    the sign of a network that does not yet compute with it.

    Args:
        channels: channels of the input; not used.
        start: ν at the beginning.
        end: ν just before it becomes the sign; 30 brings inputs above 0.09 in magnitude
            within 0.01 of ±1.
    Shape: any -> codes of the same shape, no scale.
    Reference: Lahoud et al., Self-Binarizing Networks, arXiv:1902.00730.
    Deviation: ordinary batch-norm instead of the paper's binary one; in evaluation batch-norm followed by
        sign is the comparison with a threshold that the paper's becomes.
    Uncertain: the paper's schedule of ν, which was not at hand; here it grows by equal factors and ends
        where many inputs still get a gradient.
    """

    annealed = True
    smooth_in_training = True
    paper = "Lahoud et al., Self-Binarizing Networks, arXiv:1902.00730"

    def __init__(self, channels: int, start: float = 1.0, end: float = 30.0) -> None:
        super().__init__()
        self.sharpness = _Sharpness("activation binarizer 'tanh_sign'", start, end)

    def forward(self, x: Tensor) -> Bases:
        binary = not self.training or self.progress >= 1
        return [(sharpened_tanh(x, self.sharpness.at(self.progress), binary), None)]


@WEIGHT_BINARIZERS.register("self_binarizing")
class SelfBinarizing(WeightBinarizer):
    """A tanh of the latent weight, sharpened during training until it is the sign, without a scale.

    forward   training: ŵ = tanh(ν·w), ν from `start` to `end` on a logarithmic scale; at the end of
              training and in evaluation: +1 if w >= 0 else −1
    backward  dŵ/dw = ν(1 − tanh²(ν·w)), exact in training

    Args:
        shape: shape of the latent weight; not used.
        start: ν at the beginning.
        end: ν at the end; 1000 makes ±1 of all weights above 0.003 in magnitude.
    Shape: (O, I, kH, kW) or (O, I) -> codes of that shape, no scale.
    Reference: Lahoud et al., Self-Binarizing Networks, arXiv:1902.00730.
    Uncertain: the paper's schedule of ν, which was not at hand; here it grows by equal factors.
    """

    annealed = True
    smooth_in_training = True
    paper = "Lahoud et al., Self-Binarizing Networks, arXiv:1902.00730"

    def __init__(self, shape: Size, start: float = 1.0, end: float = 1000.0) -> None:
        super().__init__()
        self.sharpness = _Sharpness("weight binarizer 'self_binarizing'", start, end)

    def forward(self, weight: Tensor) -> Bases:
        binary = not self.training or self.progress >= 1
        return [(sharpened_tanh(weight, self.sharpness.at(self.progress), binary), None)]
