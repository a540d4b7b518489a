"""Differentiable soft quantization (DSQ) of activations and weights, at one bit or several.

The interval [l, u] is cut into 2^b − 1 equal parts; within each a tanh leads from one level to the next.
Values are the hard levels, the gradient is that of the tanh; l, u and the tanh's shape are learned.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Size, Tensor, nn

from binas.binarize.contract import (
    ACTIVATION_BINARIZERS,
    WEIGHT_BINARIZERS,
    ActivationBinarizer,
    Bases,
    WeightBinarizer,
)
from binas.binarize.options import number_between, positive, whole
from binas.binarize.sign import sign

MIN_ALPHA, MAX_ALPHA = 0.01, 0.499
"""Bounds of α: the tanh is a step at 0; the paper keeps α below ½."""
MIN_WIDTH = 1e-3
"""Least width u − l, so that a step of learning cannot turn the interval over."""


def _within(x: Tensor, low: float, high: float) -> Tensor:
    # the gradient passes at the bounds too, so that a parameter beyond them can come back
    return x + (x.clamp(low, high) - x).detach()


class SoftInterval(nn.Module):
    """The soft staircase over a learned interval.

    With n = 2^b − 1, Δ = (u − l)/n, c = (u + l)/2 and m_j = c + jΔ the centre of the part that holds x:
    forward   y = c + Δ/2 · q, q = 2j + sign(x − m_j), j in {−(n−1)/2, …, (n−1)/2}: odd integers from −n
              to n; below l it is −n, above u it is n
    backward  dy/dx = Δ/2 · dφ/dx inside [l, u], else 0, with φ = tanh(k(x − m_j))/(1 − α) and
              k = log(2/α − 1)/Δ; l, u and α get the derivative of c + Δ/2 · q with the soft 2j + φ for q
              where q depends on them

    Args:
        bits: b.
        alpha: α at first, in (0, 0.5): how far φ is from the sign at the ends of a part; small is steep.
        bound: u and −l at first.
        symmetric: keep l = −u, so that values are codes times one scale. Else l is learned too, and
            c comes as a second pair: ones with scale c.
    """

    def __init__(self, bits: int, alpha: float, bound: float, symmetric: bool) -> None:
        super().__init__()
        self.num_steps = 2**bits - 1
        self.alpha = nn.Parameter(torch.tensor(alpha))
        self.upper = nn.Parameter(torch.tensor(bound))
        self.lower = None if symmetric else nn.Parameter(torch.tensor(-bound))

    @torch.no_grad()
    def set_bound(self, bound: float) -> None:
        """Let the interval be [−bound, bound]."""
        self.upper.fill_(bound)
        if self.lower is not None:
            self.lower.fill_(-bound)

    def forward(self, x: Tensor) -> Bases:
        """The pairs of codes and scale of the hard levels, with the soft gradient."""
        upper = self.upper.to(x.dtype)
        lower = -upper if self.lower is None else self.lower.to(x.dtype)
        width = _within(upper - lower, MIN_WIDTH, float("inf"))
        centre = (upper + lower) / 2
        step = width / self.num_steps
        alpha = _within(self.alpha.to(x.dtype), MIN_ALPHA, MAX_ALPHA)
        # positions in steps from the centre, where parts have their centres at whole numbers
        position = (x - centre) / step
        half = self.num_steps / 2
        inside = (position.abs() <= half).detach()
        nearest = (position.detach() + 0.5).floor().clamp(0.5 - half, half - 0.5)
        distance = torch.where(inside, position - nearest, 0.0)
        soft = torch.tanh(torch.log(2 / alpha - 1) * distance) / (1 - alpha)
        hard = 2 * nearest + sign(position.detach() - nearest)
        codes = hard + (soft - soft.detach())
        pairs: Bases = [(codes, step / 2)]
        return pairs if self.lower is None else [*pairs, (torch.ones_like(codes), centre)]


def _interval(owner: str, bits: int, alpha: float, bound: float, symmetric: bool) -> SoftInterval:
    alpha = number_between(owner, "alpha", alpha, 0, 0.5)
    return SoftInterval(bits, alpha, positive(owner, "bound", bound), symmetric)


def _odd_levels(bits: int, symmetric: bool) -> tuple[int, ...]:
    odd = tuple(range(1 - 2**bits, 2**bits, 2))
    return odd if symmetric else tuple(sorted({1, *odd}))


@ACTIVATION_BINARIZERS.register("dsq")
class DsqActivation(ActivationBinarizer):
    """Soft quantization of activations over a learned interval; see `SoftInterval` for the formulas.

    forward   y = c + Δ/2 · q, q an odd integer from −(2^b − 1) to 2^b − 1; one bit: ±u
    backward  that of a tanh between neighbouring levels; 0 outside [l, u]

    Args:
        channels: channels of the input; not used, interval and α are one for the layer.
        bits: b, 1 to 8.
        alpha: α at first, in (0, 0.5).
        bound: u at first, and −l; null: 1 for one bit, 2 for more, for an input of variance 1.
        symmetric: keep l = −u; else a second pair of ones carries the offset c.
    Shape: any -> codes of the same shape, scale ().
    Reference: Gong et al., Differentiable Soft Quantization, arXiv:1908.05852, sec. 3.1 to 3.3.
    Deviation: symmetric by default, so that one bit is {−1, +1} times a scale. α is kept in [0.01, 0.499]
        and u − l above 0.001 by clamps that let gradients pass.
    Uncertain: the values that l, u and α start from.
    """

    paper = "Gong et al., DSQ, arXiv:1908.05852"
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"bits": 2}, {"bits": 4, "symmetric": False})

    def __init__(
        self,
        channels: int,
        bits: int = 1,
        alpha: float = 0.2,
        bound: float | None = None,
        symmetric: bool = True,
    ) -> None:
        super().__init__()
        owner = "activation binarizer 'dsq'"
        self.bits = whole(owner, "bits", bits, 1, 8)
        self.levels, self.num_bases = _odd_levels(bits, symmetric), 1 if symmetric else 2
        default = 1.0 if bits == 1 else 2.0
        self.interval = _interval(owner, bits, alpha, default if bound is None else bound, symmetric)

    def forward(self, x: Tensor) -> Bases:
        return self.interval(x)  # type: ignore[no-any-return]


@WEIGHT_BINARIZERS.register("dsq")
class DsqWeight(WeightBinarizer):
    """Soft quantization of weights over a learned interval; see `SoftInterval` for the formulas.

    forward   ŵ = c + Δ/2 · q, q an odd integer from −(2^b − 1) to 2^b − 1; one bit: ±u
    backward  that of a tanh between neighbouring levels; 0 outside [l, u]

    Args:
        shape: shape of the latent weight; not used, interval and α are one for the layer.
        bits: b, 1 to 8.
        alpha: α at first, in (0, 0.5).
        bound: u at first, and −l; null: the largest magnitude among the initial latent weights.
        symmetric: keep l = −u; else a second pair of ones carries the offset c.
    Shape: (O, I, kH, kW) or (O, I) -> codes of that shape, scale ().
    Reference, deviation, uncertain: as for activations.
    Deviation: latent weights move at 0.3 of the learning rate. Beyond [l, u] they get no gradient and cannot
        come back; at a rate that suits signs most of them end there.
    """

    learning_rate_scale = 0.3
    paper = "Gong et al., DSQ, arXiv:1908.05852"
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"bits": 2}, {"bits": 4, "symmetric": False})

    def __init__(
        self,
        shape: Size,
        bits: int = 1,
        alpha: float = 0.2,
        bound: float | None = None,
        symmetric: bool = True,
    ) -> None:
        super().__init__()
        owner = "weight binarizer 'dsq'"
        self.bits = whole(owner, "bits", bits, 1, 8)
        self.levels, self.num_bases = _odd_levels(bits, symmetric), 1 if symmetric else 2
        self.from_weight = bound is None
        self.interval = _interval(owner, bits, alpha, 1.0 if bound is None else bound, symmetric)

    def initialise(self, weight: nn.Parameter) -> None:
        if self.from_weight:
            self.interval.set_bound(float(weight.abs().max()))

    def forward(self, weight: Tensor) -> Bases:
        return self.interval(weight)  # type: ignore[no-any-return]
