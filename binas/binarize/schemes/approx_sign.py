"""Bi-Real Net's estimator of activations: sign with the gradient of a piecewise quadratic."""

from __future__ import annotations

from torch import Tensor

from binas.binarize.contract import ACTIVATION_BINARIZERS, ActivationBinarizer, Bases
from binas.binarize.sign import approx_sign


@ACTIVATION_BINARIZERS.register("approx_sign")
class ApproxSign(ActivationBinarizer):
    """Sign with Bi-Real's polynomial gradient.

    forward   y = +1 if x >= 0 else −1
    backward  dy/dx = 2 − 2|x| if |x| <= 1 else 0

    Args:
        channels: channels of the input; not used.
    Shape: any -> codes of the same shape, no scale.
    Reference: Liu et al., Bi-Real Net, arXiv:1808.00278, sec. 3.3.
    """

    same_for_all_edges = True
    paper = "Liu et al., Bi-Real Net, arXiv:1808.00278"

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Bases:
        return [(approx_sign(x), None)]
