"""Two-step quantization: sparse low-bit activations first, then ternary weights fitted to them."""

from __future__ import annotations

import torch
from torch import Size, Tensor

from binas.binarize.contract import (
    ACTIVATION_BINARIZERS,
    WEIGHT_BINARIZERS,
    ActivationBinarizer,
    Bases,
    WeightBinarizer,
    per_filter,
)
from binas.binarize.gaussian import half_wave_step, normal_quantile
from binas.binarize.optimal import best_ternary
from binas.binarize.options import number, whole
from binas.binarize.schemes.hwgq import half_wave_codes
from binas.binarize.straight_through import straight_through

PAPER = "Wang et al., Two-Step Quantization, CVPR 2018, doi:10.1109/CVPR.2018.00460"


@ACTIVATION_BINARIZERS.register("two_step")
class TwoStepActivation(ActivationBinarizer):
    """Sparse activations of k bits: only the largest share of a normal distribution is kept.

    forward   0 where x <= ε, ε the `sparsity` quantile of the standard normal; else the nearest of
              Δ, 2Δ, … (2^k − 1)Δ, Δ least in squared error for x > ε
    backward  dy/dx = 1 if ε < x <= (2^k − 1)Δ else 0

    This is the first step: train with real weights (a stage with `binarize_weights: false`), so that the
    codes are learned; the second step is the weights'.

    Args:
        channels: channels of the input, which comes from a batch-norm; not used.
        bits: k.
        sparsity: share of zeros, at least ½.
    Shape: (N, C, H, W) -> codes 0 … 2^k − 1 of that shape and a scalar.
    Reference: Wang et al., Two-Step Quantization for Low-bit Neural Networks, CVPR 2018, sec. 3.2.
    Deviation: that levels are multiples of Δ and the default sparsity are not verified against the paper.
    """

    paper = PAPER
    variants = ({}, {"bits": 1}, {"bits": 3, "sparsity": 0.75})

    def __init__(self, channels: int, bits: int = 2, sparsity: float = 0.6875) -> None:
        super().__init__()
        self.bits = whole("two_step", "bits", bits, 1, 8)
        self.levels = tuple(range(2**bits))
        self.threshold = max(normal_quantile(number("two_step", "sparsity", sparsity, 0.4999, 0.99)), 0.0)
        self.step = half_wave_step(self.levels[-1], self.threshold)

    def forward(self, x: Tensor) -> Bases:
        return [half_wave_codes(x, self.levels[-1], self.step, self.threshold)]


@WEIGHT_BINARIZERS.register("two_step")
class TwoStepWeight(WeightBinarizer):
    """Ternary weights, the nearest to each filter, for the second step.

    forward   ŵ = α·codes, codes in {−1, 0, 1} and α per filter least in ‖w − α·codes‖², found exactly
    backward  the gradient of ŵ passes to w unchanged

    Args:
        shape: shape of the latent weight.
    Shape: (O, I, kH, kW) -> codes of that shape and a scale (O, 1, 1).
    Reference: Wang et al., Two-Step Quantization for Low-bit Neural Networks, CVPR 2018, sec. 3.3.
    Deviation: the paper solves for α and codes layer by layer, so that the quantized outputs of the first
        step are kept on training images; here the second step is a stage of training that starts from the
        first one's weights, each filter fitted to its latent weight.
    """

    bits = 2
    levels = (-1, 0, 1)
    paper = PAPER

    def __init__(self, shape: Size) -> None:
        super().__init__()

    def forward(self, weight: Tensor) -> Bases:
        with torch.no_grad():
            alpha = best_ternary(weight.flatten(1))
            column = alpha.reshape(-1, *([1] * (weight.dim() - 1)))
            codes = weight.sign() * (weight.abs() > column / 2)
        return [(straight_through(weight, codes, column), per_filter(alpha, weight.shape))]
