"""Sign estimators for activations, by name."""

from __future__ import annotations

from torch import Tensor

from binas.binarize.contract import ACTIVATION_BINARIZERS, ActivationBinarizer, Bases
from binas.binarize.sign import approx_sign, straight_through_sign
from binas.errors import UserError


@ACTIVATION_BINARIZERS.register("sign")
class Sign(ActivationBinarizer):
    """Sign with the clipped straight-through gradient.

    forward   y = +1 if x >= 0 else −1
    backward  dy/dx = 1 if |x| <= window else 0; window null: 1 everywhere (vanilla straight-through)

    Args:
        channels: channels of the input; not used.
        window: half width of the interval in which the gradient passes, or None for no clipping.
    Reference: Hubara et al., Binarized Neural Networks, arXiv:1602.02830, sec. 1.3.
    """

    same_for_all_edges = True
    paper = "arXiv:1602.02830"

    def __init__(self, channels: int, window: float | None = 1.0) -> None:
        super().__init__()
        if window is not None and not window > 0:
            raise UserError(f"activation binarizer 'sign': window {window} is not above 0; null means none")
        self.window = window

    def forward(self, x: Tensor) -> Bases:
        return [(straight_through_sign(x, self.window), None)]


@ACTIVATION_BINARIZERS.register("approx_sign")
class ApproxSign(ActivationBinarizer):
    """Sign with Bi-Real's polynomial gradient, see `binas.binarize.sign.approx_sign`.

    Args:
        channels: channels of the input; not used.
    """

    same_for_all_edges = True
    paper = "arXiv:1808.00278"

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Bases:
        return [(approx_sign(x), None)]
