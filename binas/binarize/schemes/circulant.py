"""Circulant filters: one learned filter gives several, by turning its kernel about the centre."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Size, Tensor, nn

from binas.binarize.contract import WEIGHT_BINARIZERS, Bases, WeightBinarizer, per_filter
from binas.binarize.sign import approx_sign
from binas.errors import UserError

ROTATIONS = (2, 4, 8)


def turned(size: int, step: int, rotations: int) -> list[int]:
    """Where each position of a kernel turned by step/rotations of a circle takes its value from.

    Every ring around the centre moves along itself by that part of its length, to the nearest whole
    position: a quarter of a circle is a rotation by 90°, an eighth moves a 3×3 kernel's ring by one.

    Args:
        size: height and width of the kernel.
    Returns:
        Position (row · size + column) of the source, for each position of the turned kernel.
    """
    source = list(range(size * size))
    for inset in range(size // 2):
        first, last = inset, size - 1 - inset
        ring = [
            *((first, column) for column in range(first, last)),
            *((row, last) for row in range(first, last)),
            *((last, column) for column in range(last, first, -1)),
            *((row, first) for row in range(last, first, -1)),
        ]
        flat = [row * size + column for row, column in ring]
        shift = (len(flat) * step + rotations // 2) // rotations
        for place, target in enumerate(flat):
            source[target] = flat[place - shift]
    return source


@WEIGHT_BINARIZERS.register("circulant")
class Circulant(WeightBinarizer):
    """Sign of learned filters and of their rotations, with a learned scale per filter.

    forward   filters come in groups of K; with w the first of a group and R_k the rotation by k/K of a
              circle, filter k of the group has codes sign(R_k w) and a scale α of its own
    backward  dL/dw = Σ_k R_k⁻¹ (s(R_k w)·α_k·g_k), where g_k is the gradient of α_k·sign(R_k w) and
              s = 2 − 2|w| inside [−1, 1], else 0; α by backpropagation
    state     after every optimizer step the other filters' latent weights become R_k w
    initial   they are R_k w, and α = mean |w| per filter

    So a group stores one filter only. Kernels of one position have nothing to turn and are not tied, nor
    are those that are not square; where the filters are no multiple of K, the last group is smaller.

    Args:
        shape: shape of the latent weight.
        rotations: K; 2, 4 or 8.
    Reference: Liu et al., Circulant Binary Convolutional Networks, arXiv:1910.10853, sec. 3.
    Deviation: the paper also widens the input by its orientations; here input channels stay as they are,
        each latent filter has the layer's own. Which filters form a group, the learned scale, and the
        rounding for rings that K does not divide are our reading; profile counts all filters' bits.
    """

    paper = "Liu et al., Circulant Binary Convolutional Networks, arXiv:1910.10853"
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"rotations": 8})

    leader: Tensor
    source: Tensor

    def __init__(self, shape: Size, rotations: int = 4) -> None:
        super().__init__()
        if rotations not in ROTATIONS:
            raise UserError(f"weight binarizer 'circulant': rotations {rotations} is not 2, 4 or 8")
        self.tied = len(shape) == 4 and shape[2] == shape[3] > 1
        self.scale = nn.Parameter(torch.ones(shape[0]))
        if self.tied:
            numbers = torch.arange(shape[0])
            sources = torch.tensor([turned(shape[2], step, rotations) for step in range(rotations)])
            self.register_buffer("leader", numbers - numbers % rotations, persistent=False)
            self.register_buffer("source", sources[numbers % rotations].unsqueeze(1), persistent=False)

    def rotated(self, weight: Tensor) -> Tensor:
        """The first filter of each group and its rotations, in the place of all filters."""
        if not self.tied:
            return weight
        leaders = weight.flatten(2)[self.leader]
        return leaders.gather(2, self.source.expand_as(leaders)).view_as(weight)

    @torch.no_grad()
    def initialise(self, weight: nn.Parameter) -> None:
        self.after_step(weight)
        self.scale.copy_(weight.abs().flatten(1).mean(dim=1))

    def forward(self, weight: Tensor) -> Bases:
        return [(approx_sign(self.rotated(weight)), per_filter(self.scale, weight.shape))]

    @torch.no_grad()
    def after_step(self, weight: nn.Parameter) -> None:
        if self.tied:
            weight.copy_(self.rotated(weight))
