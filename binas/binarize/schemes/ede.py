"""IR-Net's error decay estimator: sign with the gradient of a tanh that sharpens during training."""

from __future__ import annotations

import math

from torch import Tensor

from binas.binarize.contract import ACTIVATION_BINARIZERS, ActivationBinarizer, Bases
from binas.binarize.options import positive
from binas.binarize.sign import sign, tanh_slope, with_slope
from binas.errors import UserError


def ede_sharpness(progress: float, start: float, end: float) -> tuple[float, float]:
    """(t, k) of the surrogate k·tanh(t·x): t from start to end on a logarithmic scale, k = max(1/t, 1).

    Args:
        progress: of training, in [0, 1].
    """
    t = 10 ** (math.log10(start) + (math.log10(end) - math.log10(start)) * progress)
    return t, max(1 / t, 1.0)


def ede_sign(x: Tensor, t: float, k: float) -> Tensor:
    """Sign with the gradient of k·tanh(t·x).

    forward   y = +1 if x >= 0 else −1
    backward  dy/dx = k·t·(1 − tanh²(t·x))

    Shape: any -> same.
    Reference: Qin et al., IR-Net, arXiv:1909.10788, sec. 3.3.
    """
    return with_slope(x, sign(x), lambda x: k * t * tanh_slope(t * x))


@ACTIVATION_BINARIZERS.register("ede")
class Ede(ActivationBinarizer):
    """Sign with the gradient of a tanh that goes from nearly linear to nearly sign during training.

    forward   y = +1 if x >= 0 else −1
    backward  dy/dx = k·t·(1 − tanh²(t·x)), t from `start` to `end` on a logarithmic scale as training
              goes on, k = max(1/t, 1)

    Args:
        channels: channels of the input; not used.
        start: t at the beginning.
        end: t at the end.
    Shape: any -> codes of the same shape, no scale.
    Reference: Qin et al., IR-Net, arXiv:1909.10788, sec. 3.3 and eq. 11 to 13.
    Deviation: t moves with every step; the released trainers move it once an epoch, and one of them
        starts at 0.001 instead of 0.1.
    """

    same_for_all_edges = True
    annealed = True
    paper = "Qin et al., IR-Net, arXiv:1909.10788"

    def __init__(self, channels: int, start: float = 0.1, end: float = 10.0) -> None:
        super().__init__()
        name = "activation binarizer 'ede'"
        self.start, self.end = positive(name, "start", start), positive(name, "end", end)
        if self.end < self.start:
            raise UserError(f"{name}: end {end} is below start {start}; the surrogate sharpens")

    def forward(self, x: Tensor) -> Bases:
        return [(ede_sign(x, *ede_sharpness(self.progress, self.start, self.end)), None)]
