"""The weights of Binarized Neural Networks: plain signs of a clipped latent weight."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Size, Tensor, nn

from binas.binarize.contract import WEIGHT_BINARIZERS, Bases, WeightBinarizer
from binas.binarize.options import positive
from binas.binarize.sign import straight_through_sign


@WEIGHT_BINARIZERS.register("bnn")
class Bnn(WeightBinarizer):
    """Sign of the weight without a scale; the latent weight is clipped after each step.

    forward   codes = sign(w)
    backward  dL/dw = 1{|w| <= window}·g, where g is the gradient of the codes; window null: g
    state     after every optimizer step w is clamped to [−clip, clip]; clip null: it is not

    Args:
        shape: shape of the latent weight; not used.
        window: half width of the interval in which the gradient passes, or None. From the clip on it
            changes nothing.
        clip: largest magnitude of a latent weight, or None.
    Reference: Hubara et al., Binarized Neural Networks, arXiv:1602.02830, sec. 1.3 and algorithm 1. With
        the window alone it is the gradient clipping of Alizadeh et al., ICLR 2019.
    """

    filter_by_filter = True
    paper = "Hubara et al., Binarized Neural Networks, arXiv:1602.02830"
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"window": None, "clip": None}, {"window": 0.5})

    def __init__(self, shape: Size, window: float | None = 1.0, clip: float | None = 1.0) -> None:
        super().__init__()
        name = "weight binarizer 'bnn'"
        self.window = None if window is None else positive(name, "window (null means none)", window)
        self.clip = None if clip is None else positive(name, "clip (null means none)", clip)

    def forward(self, weight: Tensor) -> Bases:
        return [(straight_through_sign(weight, self.window), None)]

    def after_step(self, weight: nn.Parameter) -> None:
        if self.clip is not None:
            weight.clamp_(-self.clip, self.clip)
