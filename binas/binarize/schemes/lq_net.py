"""LQ-Net: levels learned by alternating between nearest-level codes and least squares (QEM)."""

from __future__ import annotations

import itertools

import torch
from torch import Size, Tensor, nn

from binas.binarize.contract import (
    ACTIVATION_BINARIZERS,
    WEIGHT_BINARIZERS,
    ActivationBinarizer,
    Bases,
    WeightBinarizer,
    per_filter,
)
from binas.binarize.options import whole
from binas.binarize.straight_through import clipped, shared_straight_through

PAPER = "Zhang et al., LQ-Nets, arXiv:1807.10029"
MAX_BITS = 4
MOVING_AVERAGE = 0.9
RIDGE = 1e-4
"""Pulls the least squares to the old basis, where codes never differ and the equations are singular."""
QUARTILE = 0.6745
"""Third quartile of the standard normal distribution, from which the first levels are taken."""


def nearest_codes(rows: Tensor, basis: Tensor, digits: tuple[int, int]) -> Tensor:
    """The codes of the levels that lie nearest; a value on a threshold gets the lower level.

    Args:
        rows: (R, n).
        basis: v of each row, (R, k).
        digits: the two values of a code.
    Shape: -> (R, n, k).
    """
    words = torch.tensor(
        list(itertools.product(digits, repeat=basis.shape[1])), dtype=rows.dtype, device=rows.device
    )
    levels, order = (basis[:, None] * words).sum(dim=2).sort(dim=1)  # (R, 2^k)
    thresholds = (levels[:, 1:] + levels[:, :-1]) / 2
    place = torch.searchsorted(thresholds, rows.contiguous())
    return words[order.gather(1, place)]


def fitted_basis(rows: Tensor, codes: Tensor, basis: Tensor) -> Tensor:
    """The basis (R, k) of least squares for given codes (R, n, k)."""
    n, unit = rows.shape[1], torch.eye(basis.shape[1], dtype=rows.dtype, device=rows.device)
    with torch.autocast(rows.device.type, enabled=False):  # 16 bits hold neither the sums nor the inverse
        gram = codes.mT @ codes / n + RIDGE * unit
        target = (codes.mT @ rows[:, :, None])[:, :, 0] / n + RIDGE * basis
        fitted: Tensor = torch.linalg.solve(gram, target)
    return fitted


@ACTIVATION_BINARIZERS.register("lq_net")
class LqNetActivation(ActivationBinarizer):
    """Levels vᵀe with a basis v that follows the activations, one for the layer.

    forward   the level vᵀe nearest to x, e in {−1, 1}^k or, unsigned, in {0, 1}^k; as k bases, scales v_i
    backward  1 between the lowest and the highest level, 0 outside; v gets no gradient
    state     in training, before a batch is coded: v ← 0.9·v + 0.1·argmin_v ‖x − vᵀe(x)‖²

    Args:
        channels: channels of the input; not used.
        bits: k.
        unsigned: {0, 1} for inputs that come from a ReLU, as in the authors' code; otherwise {−1, 1}, as
            in the paper and for inputs that come from a batch-norm.
    Shape: (N, C, H, W) -> k pairs of codes of that shape and a scalar.
    Reference: arXiv:1807.10029, sec. 3, algorithm 1; averaging and starting values as in the authors' code.
    Deviation: the authors' code updates v after the batch, and lets the gradient pass below the lowest
        level, which a ReLU before it stops. A small ridge keeps the least squares solvable.
    """

    paper = PAPER
    variants = ({}, {"unsigned": True}, {"bits": 1}, {"bits": 3})
    basis: Tensor

    def __init__(self, channels: int, bits: int = 2, unsigned: bool = False) -> None:
        super().__init__()
        self.num_bases = whole("lq_net", "bits", bits, 1, MAX_BITS)
        self.levels = (0, 1) if unsigned else (-1, 1)
        self.track_running_stats = True
        spread = 2 * QUARTILE / (2**bits - 1) if unsigned else QUARTILE * 2 / 2**bits
        self.register_buffer("basis", spread * 2.0 ** torch.arange(bits))

    def forward(self, x: Tensor) -> Bases:
        with torch.no_grad():
            rows, digits = x.reshape(1, -1).to(self.basis.dtype), (self.levels[0], self.levels[1])
            codes = nearest_codes(rows, self.basis[None], digits)
            if self.training and self.track_running_stats:
                fitted = fitted_basis(rows, codes, self.basis[None])[0]
                self.basis.lerp_(fitted, 1 - MOVING_AVERAGE)
                codes = nearest_codes(rows, self.basis[None], digits)
            basis = self.basis.clone()
            top = basis.abs().sum() if digits[0] else basis.clamp_min(0).sum()
            bottom = -top if digits[0] else basis.clamp_max(0).sum()
        each = [code.reshape(x.shape).to(x.dtype) for code in codes[0].unbind(-1)]
        scales = list(basis)
        passed = shared_straight_through(clipped(x, bottom.to(x.dtype), top.to(x.dtype)), each, scales)
        return list(zip(passed, scales, strict=True))


@WEIGHT_BINARIZERS.register("lq_net")
class LqNetWeight(WeightBinarizer):
    """Levels vᵀe with a basis v that follows the weights, one for each filter.

    forward   the level vᵀe nearest to w, e in {−1, 1}^k; as k bases with scales v_i per filter
    backward  the gradient of ŵ passes to w unchanged; v gets none
    state     after every optimizer step v ← 0.9·v + 0.1·argmin_v ‖w − vᵀe(w)‖²

    Args:
        shape: shape of the latent weight.
        bits: k.
    Shape: (O, I, kH, kW) -> k pairs of codes of that shape and a scale (O, 1, 1).
    Reference: arXiv:1807.10029, sec. 3, algorithm 1; averaging as in the authors' code.
    Deviation: v starts from ten alternations on the initial weights, a small ridge keeps the least squares
        solvable; the authors' code starts from a normal distribution.
    """

    paper = PAPER
    variants = ({}, {"bits": 1}, {"bits": 3})
    basis: Tensor

    def __init__(self, shape: Size, bits: int = 2) -> None:
        super().__init__()
        self.num_bases = whole("lq_net", "bits", bits, 1, MAX_BITS)
        self.register_buffer("basis", torch.ones(shape[0], bits))

    def initialise(self, weight: nn.Parameter) -> None:
        rows = weight.detach().flatten(1)
        deviation = rows.square().mean(dim=1, keepdim=True).sqrt()
        powers = 2.0 ** torch.arange(self.num_bases, device=rows.device)
        self.basis.copy_(QUARTILE * 2 / 2**self.num_bases * deviation * powers)
        for _ in range(10):
            self.basis.copy_(self._fitted(rows))

    def _fitted(self, rows: Tensor) -> Tensor:
        return fitted_basis(rows, nearest_codes(rows, self.basis, (-1, 1)), self.basis)

    def forward(self, weight: Tensor) -> Bases:
        with torch.no_grad():
            codes = nearest_codes(weight.detach().flatten(1), self.basis, (-1, 1))
            each = [code.reshape(weight.shape) for code in codes.unbind(-1)]
            scales = [v.clone() for v in self.basis.unbind(-1)]
        columns = [v.reshape(-1, *([1] * (weight.dim() - 1))) for v in scales]
        passed = shared_straight_through(weight, each, columns)
        return [(code, per_filter(v, weight.shape)) for code, v in zip(passed, scales, strict=True)]

    @torch.no_grad()
    def after_step(self, weight: nn.Parameter) -> None:
        self.basis.lerp_(self._fitted(weight.detach().flatten(1)), 1 - MOVING_AVERAGE)
