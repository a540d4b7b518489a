"""BinaryConnect: signs, or ±1 drawn at random, of a latent weight kept within a range."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Size, Tensor, nn

from binas.binarize.contract import WEIGHT_BINARIZERS, Bases, WeightBinarizer, per_filter
from binas.binarize.options import one_of
from binas.binarize.sign import straight_through_sign


def glorot_limit(shape: Size) -> float:
    """√(1.5 / (fan in + fan out)), with both fans counted over the whole kernel.

    Reference: Glorot and Bengio, AISTATS 2010; the constant is that of the released BinaryConnect code.
    """
    kernel = math.prod(shape[2:])
    return math.sqrt(1.5 / (shape[1] * kernel + shape[0] * kernel))


@WEIGHT_BINARIZERS.register("binary_connect")
class BinaryConnect(WeightBinarizer):
    """±H by the weight's sign, or drawn at random by its size; the gradient passes straight through.

    forward   deterministic: codes = sign(w)
              stochastic: codes = +1 with probability clip((w/H + 1)/2, 0, 1), else −1, drawn for every
              pass in training; the sign in evaluation
              the scale H is 1 or Glorot's limit, one for the layer
    backward  dL/dw = g, where g is the gradient of the binary weight H·codes
    state     after every optimizer step w is clamped to [−H, H], unless clip is off
    initial   with mode stochastic, or a Glorot limit or rate, w is drawn uniformly from [−H, H]

    Args:
        shape: shape of the latent weight.
        mode: deterministic or stochastic.
        clip: whether to clamp after each step.
        limit: H; unit (1) or glorot, √(1.5 / (fan in + fan out)).
        rate: what the learning rate of the latent weight is multiplied by: unit (1), glorot (one over
            Glorot's limit; the paper's choice with Adam) or glorot_squared (with SGD and Nesterov).
            None is unit where signs are taken, glorot where weights are drawn: probabilities only leave
            the middle once latent weights have gone far.
    Reference: Courbariaux et al., BinaryConnect, arXiv:1511.00363, sec. 2.2-2.6, and the released code.
    Deviation: in evaluation the stochastic mode uses signs, where the authors use the real weights, so
        that what is evaluated is binary. With a deterministic unit limit the layer's own initialisation
        stays, where the authors draw from [−1, 1]: it moves from one sign to the other in fewer steps.
    """

    paper = "Courbariaux et al., BinaryConnect, arXiv:1511.00363"
    variants: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"mode": "stochastic"},
        {"clip": False},
        {"mode": "stochastic", "limit": "glorot"},
        {"limit": "glorot", "rate": "glorot"},
    )

    def __init__(
        self,
        shape: Size,
        mode: str = "deterministic",
        clip: bool = True,
        limit: str = "unit",
        rate: str | None = None,
    ) -> None:
        super().__init__()
        name = "binary_connect"
        self.stochastic = one_of(name, "mode", mode, ("deterministic", "stochastic")) == "stochastic"
        self.clip = clip
        glorot = glorot_limit(shape)
        self.limit = {"unit": 1.0, "glorot": glorot}[one_of(name, "limit", limit, ("unit", "glorot"))]
        rate = rate or ("glorot" if self.stochastic else "unit")
        scales = {"unit": 1.0, "glorot": 1 / glorot, "glorot_squared": 1 / glorot**2}
        self.learning_rate_scale = scales[one_of(name, "rate", rate, tuple(scales))]
        self.draws_initial_weights = self.stochastic or limit != "unit" or rate != "unit"
        self.filter_by_filter = not self.stochastic

    @torch.no_grad()
    def initialise(self, weight: nn.Parameter) -> None:
        if self.draws_initial_weights:
            nn.init.uniform_(weight, -self.limit, self.limit)

    def forward(self, weight: Tensor) -> Bases:
        # divided by H, so that the scale leaves the gradient of H·codes as it is
        relative = weight if self.limit == 1 else weight / self.limit
        if self.stochastic and self.training:
            # in (−1, 1]: at ±1 the outcome is certain
            relative = relative - (1 - 2 * torch.rand_like(relative))
        codes = straight_through_sign(relative, None)
        if self.limit == 1:
            return [(codes, None)]
        return [(codes, per_filter(weight.new_full((len(weight),), self.limit), weight.shape))]

    @torch.no_grad()
    def after_step(self, weight: nn.Parameter) -> None:
        if self.clip:
            weight.clamp_(-self.limit, self.limit)
