"""BNN+: SwishSign, an estimator of activations, and the regularizer that pulls weights towards ±α."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from binas.binarize.contract import ACTIVATION_BINARIZERS, ActivationBinarizer, Bases
from binas.binarize.options import positive
from binas.binarize.sign import sign, with_slope


def swish_slope(x: Tensor, beta: float) -> Tensor:
    """The derivative of SwishSign: β(2 − βx tanh(βx/2)) / (1 + cosh(βx)).

    Shape: any -> same.
    """
    z = beta * x
    # 1/(1 + cosh z) = 2σ(z)σ(−z), which does not overflow
    return 2 * beta * (2 - z * torch.tanh(z / 2)) * torch.sigmoid(z) * torch.sigmoid(-z)


@ACTIVATION_BINARIZERS.register("swish_sign")
class SwishSign(ActivationBinarizer):
    """Sign with the gradient of SwishSign, which is slightly negative at some distance from 0.

    forward   y = +1 if x >= 0 else −1
    backward  dy/dx = β(2 − βx tanh(βx/2)) / (1 + cosh(βx)), the derivative of
              2σ(βx)(1 + βx(1 − σ(βx))) − 1; at 0 it is β

    Args:
        channels: channels of the input; not used.
        beta: steepness β, above 0.
    Shape: any -> codes of the same shape, no scale.
    Reference: Darabi et al., Regularized Binary Network Training (BNN+), arXiv:1812.11800, sec. 3.1.
    Uncertain: β = 5 is the value of public code; the paper tries several.
    """

    same_for_all_edges = True
    paper = "Darabi et al., BNN+, arXiv:1812.11800"
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"beta": 10.0})

    def __init__(self, channels: int, beta: float = 5.0) -> None:
        super().__init__()
        self.beta = positive("activation binarizer 'swish_sign'", "beta", beta)

    def forward(self, x: Tensor) -> Bases:
        return [(with_slope(x, sign(x), lambda x: swish_slope(x, self.beta)), None)]


def bnn_plus_penalty(
    weight: Tensor, scale: Tensor | None = None, norm: Literal["manhattan", "euclidean"] = "manhattan"
) -> Tensor:
    """How far latent weights are from ±α, summed over a layer.

    forward   manhattan: R1 = Σ |α − |w||; euclidean: R2 = Σ (α − |w|)²
    backward  dR1/dw = sign(|w| − α) sign(w), dR2/dw = 2 (|w| − α) sign(w), with sign(w) = +1 at w = 0, so
              that a weight of 0 is pulled too; dR/dα is minus the sum of the same without sign(w)

    Args:
        weight: the latent weight.
        scale: α, one number or one for each filter, e.g. a learned scale or a binarizer's; it gets its
            gradient. None: for each filter the α that makes the penalty least, the median of |w| for
            manhattan and the mean for euclidean; a minimum, so it has no gradient.
    Shape: (O, …) with α (), (O,) or (O, 1, 1) -> ().
    Reference: Darabi et al., Regularized Binary Network Training (BNN+), arXiv:1812.11800, sec. 3.2.
    Uncertain: whether the paper sums or averages over a layer; it is a factor of the penalty's weight.
    """
    magnitude = (weight * sign(weight.detach())).flatten(1)
    if scale is None:
        detached = magnitude.detach()
        scale = detached.median(dim=1).values if norm == "manhattan" else detached.mean(dim=1)
    difference = magnitude - scale.reshape(-1, 1)
    return difference.abs().sum() if norm == "manhattan" else difference.square().sum()
