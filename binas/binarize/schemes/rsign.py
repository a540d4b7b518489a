"""ReActNet's RSign: sign against a threshold that is learned for each channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from binas.binarize.contract import ACTIVATION_BINARIZERS, ActivationBinarizer, Bases
from binas.binarize.sign import approx_sign


@ACTIVATION_BINARIZERS.register("rsign")
class RSign(ActivationBinarizer):
    """Sign of the distance to a threshold learned for each channel.

    forward   y = +1 if x >= a_c else −1
    backward  dy/dx = 2 − 2|x − a_c| if |x − a_c| <= 1 else 0; dy/da_c = −dy/dx

    Args:
        channels: channels of the input, one threshold for each, 0 at first.
    Shape: (N, C, …) -> codes of the same shape, no scale.
    Reference: Liu et al., ReActNet, arXiv:2003.03488, eq. 1 to 5; the gradient of sign is Bi-Real's, as
        in the paper and its code.
    Deviation: at the threshold itself +1; the paper has −1 there.
    """

    paper = "Liu et al., ReActNet, arXiv:2003.03488"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Bases:
        return [(approx_sign(x - self.threshold.reshape(1, -1, *[1] * (x.dim() - 2))), None)]
