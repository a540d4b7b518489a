"""Straight-through estimators of sign: vanilla, clipped to a window, and as the gradient of hard tanh."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from binas.binarize.contract import ACTIVATION_BINARIZERS, ActivationBinarizer, Bases
from binas.binarize.options import positive
from binas.binarize.sign import straight_through_sign


@ACTIVATION_BINARIZERS.register("ste")
class StraightThrough(ActivationBinarizer):
    """Sign with the vanilla straight-through gradient: it passes everywhere.

    forward   y = +1 if x >= 0 else −1
    backward  dy/dx = 1

    Args:
        channels: channels of the input; not used.
    Shape: any -> codes of the same shape, no scale.
    Reference: Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons,
        arXiv:1308.3432, sec. 4 (the straight-through estimator).
    """

    same_for_all_edges = True
    paper = "Bengio et al., Estimating or Propagating Gradients, arXiv:1308.3432"

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Bases:
        return [(straight_through_sign(x, None), None)]


@ACTIVATION_BINARIZERS.register("sign")
class Sign(ActivationBinarizer):
    """Sign with the clipped straight-through gradient.

    forward   y = +1 if x >= 0 else −1
    backward  dy/dx = 1 if |x| <= window else 0; window null: 1 everywhere (vanilla straight-through)

    Args:
        channels: channels of the input; not used.
        window: half width of the interval in which the gradient passes, or None for no clipping; 1 in
            the reference, 1.25 and 1.3 are in use too.
    Shape: any -> codes of the same shape, no scale.
    Reference: Hubara et al., Binarized Neural Networks, arXiv:1602.02830, sec. 1.3.
    """

    same_for_all_edges = True
    paper = "Hubara et al., Binarized Neural Networks, arXiv:1602.02830"
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"window": 1.25}, {"window": 1.3}, {"window": None})

    def __init__(self, channels: int, window: float | None = 1.0) -> None:
        super().__init__()
        name = "activation binarizer 'sign'"
        self.window = None if window is None else positive(name, "window (null means none)", window)

    def forward(self, x: Tensor) -> Bases:
        return [(straight_through_sign(x, self.window), None)]


@ACTIVATION_BINARIZERS.register("hard_tanh")
class HardTanhSign(ActivationBinarizer):
    """Sign with the gradient of hard tanh, as binarized neural networks introduced it.

    forward   y = +1 if x >= 0 else −1
    backward  dy/dx = d clip(x, −1, 1)/dx = 1 if |x| <= 1 else 0

    Args:
        channels: channels of the input; not used.
    Shape: any -> codes of the same shape, no scale.
    Reference: Hubara et al., Binarized Neural Networks, arXiv:1602.02830, sec. 1.3. Computes what `sign`
        with window 1 computes; at |x| = 1 the gradient passes, as the reference's indicator has it.
    """

    same_for_all_edges = True
    paper = "Hubara et al., Binarized Neural Networks, arXiv:1602.02830"

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Bases:
        return [(straight_through_sign(x, 1.0), None)]
