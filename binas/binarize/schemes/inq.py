"""Incremental network quantization: powers of two, the largest weights first, which then stay as they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Size, Tensor, nn

from binas.binarize.contract import WEIGHT_BINARIZERS, Bases, WeightBinarizer
from binas.binarize.options import number, whole
from binas.binarize.straight_through import straight_through
from binas.errors import UserError


@WEIGHT_BINARIZERS.register("inq")
class Inq(WeightBinarizer):
    """Weights 0 and ± powers of two, quantized and frozen portion by portion.

    forward   n₁ = ⌊log₂(4/3·max |w|)⌋ over the layer, n₂ = n₁ + 1 − 2^(k−2); levels 0 and ±2^n for n₂ … n₁:
              |w| from ¾·2^n to 1½·2^n becomes 2^n, below ½·2^n₂ it becomes 0.
              In training frozen weights are quantized and the others raw; in evaluation all are quantized
    backward  0 for frozen weights, 1 for the others
    state     which are frozen and as what; n₁ is fixed with the first portion. After every optimizer step
              the portion that progress asks for is frozen, largest magnitudes first, and
              frozen latent weights are set to their values, whatever momentum or weight decay did

    Args:
        shape: shape of the latent weight.
        bits: k: one bit for 0, the others for sign and power, so 2^(k−2) powers.
        portions: shares that are frozen in all after each step, rising to 1.
        warm_up: share of progress without any; the portions divide the rest evenly. 0 for a network that
            has been trained with real weights before.
    Shape: (O, I, kH, kW) -> codes 0, ±1, ±2, ±4, … of that shape and the scalar 2^n₂. In training the codes
        of weights that are not frozen yet are real numbers.
    Reference: Zhou et al., Incremental Network Quantization, arXiv:1702.03044, sec. 3; portions of its
        algorithm, 0.5, 0.75, 0.875, 1.
    Deviation: the paper starts from a trained network, hence `warm_up` for training in one go.
    """

    annealed = True
    smooth_in_training = True
    paper = "Zhou et al., Incremental Network Quantization, arXiv:1702.03044"
    variants = ({}, {"bits": 2}, {"bits": 3, "portions": (0.5, 1.0), "warm_up": 0.0})
    frozen: Tensor
    codes: Tensor
    exponent: Tensor

    def __init__(
        self,
        shape: Size,
        bits: int = 5,
        portions: Sequence[float] = (0.5, 0.75, 0.875, 1.0),
        warm_up: float = 0.2,
    ) -> None:
        super().__init__()
        self.bits = whole("inq", "bits", bits, 2, 6)
        self.portions = _rising(portions)
        self.warm_up = 0.0 if warm_up == 0 else number("inq", "warm_up", warm_up, 0, 0.99)
        self.asked: float | None = None
        """The share that a training procedure asks for, in place of what progress and portions would."""
        powers = [2**n for n in range(2 ** (bits - 2))]
        self.levels = (*(-power for power in reversed(powers)), 0, *powers)
        self.register_buffer("frozen", torch.zeros(shape, dtype=torch.bool))
        self.register_buffer("codes", torch.zeros(shape))
        self.register_buffer("exponent", torch.zeros(()))

    def portion(self, progress: float) -> float:
        """The share of weights that is frozen at that progress, or that a procedure asks for."""
        if self.asked is not None:
            return self.asked
        if progress < self.warm_up:
            return 0.0
        reached = (progress - self.warm_up) / (1 - self.warm_up) * len(self.portions)
        return self.portions[min(int(reached), len(self.portions) - 1)]

    @torch.no_grad()
    def freeze(self, weight: nn.Parameter, portion: float) -> None:
        """Quantize and freeze the largest weights that are still free, until that share is frozen."""
        wanted = round(portion * weight.numel()) - int(self.frozen.sum())
        if wanted <= 0:
            return
        scale = self._scale(weight)
        self.exponent.copy_(scale.log2().round())
        free = torch.where(self.frozen, -1.0, weight.abs()).flatten()
        chosen = torch.zeros_like(free, dtype=torch.bool)
        chosen[free.topk(wanted).indices] = True
        chosen = chosen.reshape(weight.shape)
        self.codes.copy_(torch.where(chosen, self._quantized(weight, scale), self.codes))
        self.frozen.logical_or_(chosen)

    def _scale(self, weight: Tensor) -> Tensor:
        """2^n₂: that of the first portion once there is one."""
        highest = torch.frexp(weight.abs().max() * 4 / 3).exponent - 1
        lowest = highest + 1 - 2 ** (self.bits - 2)
        lowest = torch.where(self.frozen.any(), self.exponent, lowest.to(weight.dtype))
        # normal numbers only, so that dividing by it is exact; all-zero weights stay zero
        return torch.ldexp(torch.ones_like(lowest), lowest.clamp(-100, 100).int())

    def _quantized(self, weight: Tensor, scale: Tensor) -> Tensor:
        powers = torch.tensor(self.levels[len(self.levels) // 2 :], dtype=weight.dtype, device=weight.device)
        edges = 0.75 * powers[1:]
        edges[0] = 0.5
        return powers[torch.bucketize(weight.abs() / scale, edges, right=True)] * weight.sign()

    def forward(self, weight: Tensor) -> Bases:
        with torch.no_grad():
            scale = self._scale(weight)
            free = self._quantized(weight, scale) if not self.training else weight / scale
            codes = torch.where(self.frozen, self.codes, free)
            trained = (~self.frozen).to(weight.dtype)
        return [(straight_through(weight * trained, codes, scale), scale)]

    @torch.no_grad()
    def after_step(self, weight: nn.Parameter) -> None:
        self.freeze(weight, self.portion(self.progress))
        weight.copy_(torch.where(self.frozen, self.codes * self._scale(weight), weight))


def _rising(portions: Sequence[float]) -> tuple[float, ...]:
    numbers = isinstance(portions, list | tuple) and all(isinstance(p, int | float) for p in portions)
    rising = numbers and all(a < b for a, b in zip((0, *portions), portions, strict=False))
    if not portions or not rising or portions[-1] != 1:
        raise UserError(f"binarizer 'inq': portions {portions!r} are no list of shares that rise to 1")
    return tuple(float(p) for p in portions)
