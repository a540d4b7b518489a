"""Residual binarization: ReBNet's learned scales and HORQ's means."""

from __future__ import annotations

import torch
from torch import Size, Tensor, nn

from binas.binarize.contract import (
    ACTIVATION_BINARIZERS,
    WEIGHT_BINARIZERS,
    ActivationBinarizer,
    Bases,
    WeightBinarizer,
)
from binas.binarize.options import whole
from binas.binarize.sign import straight_through_sign

REBNET = "Ghasemzadeh et al., ReBNet, arXiv:1711.01243"
MAX_BASES = 8


@ACTIVATION_BINARIZERS.register("rebnet")
class RebnetActivation(ActivationBinarizer):
    """Signs of the input and of what is left of it, with learned positive scales.

    forward   r_1 = x; e_l = sign(r_l); r_{l+1} = r_l − |γ_l|·e_l; value Σ |γ_l|·e_l
    backward  de_l/dr_l = 1{|r_l| <= 1}, everything else by the chain rule, so that the gradient also
              passes through the residuals, to x and to γ

    Args:
        channels: channels of the input; not used: γ holds for the whole layer.
        bases: M; at first γ_l = (M + 1 − l) / (1 + … + M).
    Shape: (N, C, H, W) -> M pairs of codes of that shape and a scalar.
    Reference: arXiv:1711.01243, sec. 3; gradient and starting values as in the authors' code.
    Deviation: 0 maps to +1; the authors' code maps it to 0.
    """

    paper = REBNET
    variants = ({}, {"bases": 1}, {"bases": 3})

    def __init__(self, channels: int, bases: int = 2) -> None:
        super().__init__()
        self.num_bases = whole("rebnet", "bases", bases, 1, MAX_BASES)
        falling = torch.arange(bases, 0, -1.0)
        self.gamma = nn.Parameter(falling / falling.sum())

    def forward(self, x: Tensor) -> Bases:
        bases: Bases = []
        for gamma in self.gamma.abs():
            codes = straight_through_sign(x)
            bases.append((codes, gamma))
            x = x - gamma * codes
        return bases


@WEIGHT_BINARIZERS.register("rebnet")
class RebnetWeight(WeightBinarizer):
    """Sign of the weight times one learned positive scale for the layer.

    forward   ŵ = |γ|·sign(w)
    backward  dL/dw = |γ|·1{|w| <= 1}·g; dL/dγ = sign(γ)·Σ sign(w)·g, g the gradient of ŵ

    Args:
        shape: shape of the latent weight.
    Shape: (O, I, kH, kW) -> codes of that shape and a scalar, which starts at 1.
    Reference: arXiv:1711.01243; the scale and its start as in the authors' code.
    """

    paper = REBNET

    def __init__(self, shape: Size) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(()))

    def forward(self, weight: Tensor) -> Bases:
        return [(straight_through_sign(weight), self.gamma.abs())]


@ACTIVATION_BINARIZERS.register("horq")
class Horq(ActivationBinarizer):
    """Signs of the input and of what is left of it, scaled by the mean magnitude in each image.

    forward   R_0 = x; H_i = sign(R_{i−1}); β_i = mean |R_{i−1}| over an image; R_i = R_{i−1} − β_i·H_i
    backward  dH_i/dx = 1{|R_{i−1}| <= 1}; β and what was subtracted are constants

    The weights that go with it are those of XNOR-Net.

    Args:
        channels: channels of the input; not used.
        bases: the order, 2 in the paper.
    Shape: (N, C, H, W) -> pairs of codes of that shape and a scale (N, 1, 1, 1).
    Reference: Li et al., HORQ, arXiv:1708.08687, sec. 3.
    Deviation: the paper approximates each row of the unfolded input, a patch, by itself. Codes of the
        second order would then differ from patch to patch where patches overlap, and the layer would be
        no convolution; here an image has one β for each order. The gradient is the usual straight-through
        one; whether the paper's own has other factors is not verified.
    """

    paper = "Li et al., HORQ, arXiv:1708.08687"
    variants = ({}, {"bases": 1}, {"bases": 3})

    def __init__(self, channels: int, bases: int = 2) -> None:
        super().__init__()
        self.num_bases = whole("horq", "bases", bases, 1, MAX_BASES)

    def forward(self, x: Tensor) -> Bases:
        bases: Bases = []
        others = tuple(range(1, x.dim()))
        for _ in range(self.num_bases):
            beta = x.detach().abs().mean(dim=others, keepdim=True)
            codes = straight_through_sign(x)
            bases.append((codes, beta))
            x = x - beta * codes.detach()
        return bases
