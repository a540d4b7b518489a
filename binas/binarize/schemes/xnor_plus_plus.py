"""XNOR-Net++: one learned scale in place of XNOR-Net's two computed ones, in four shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Size, Tensor, nn

from binas.binarize.contract import WEIGHT_BINARIZERS, Bases, WeightBinarizer
from binas.binarize.options import one_of
from binas.binarize.sign import straight_through_sign
from binas.errors import UserError

FACTORS = ("filter", "dense", "filter_and_map", "rank_one")


@WEIGHT_BINARIZERS.register("xnor_plus_plus")
class XnorPlusPlus(WeightBinarizer):
    """Sign of the weight with a learned scale Γ of the layer's output.

    forward   codes = sign(w); y = Γ ⊙ conv(sign(x), codes), where, for O filters and an output H'×W',
              filter: Γ = α (O); dense: Γ (O, H', W'); filter_and_map: Γ = α (O) ⊗ β (H', W');
              rank_one: Γ = α (O) ⊗ β (H') ⊗ γ (W')
    backward  dL/dw = 1{|w| <= 1}·Γ·dL/d(Γ·codes), summed over the output; Γ's factors by backpropagation
    initial   α = mean |w| per filter, β = γ = 1

    Args:
        shape: shape of the latent weight.
        factors: the shape of Γ; all but `filter` need the size of the layer's output.
        size: height and width of the layer's output in pixels, or one number for both.
    Reference: Bulat and Tzimiropoulos, XNOR-Net++, arXiv:1909.13863, sec. 3.1, cases 1 to 4; rank_one is
        the one they keep.
    Deviation: α starts from XNOR-Net's scale, so that a layer's output starts at the usual size; the
        authors' library starts from 1.
    """

    paper = "Bulat and Tzimiropoulos, XNOR-Net++, arXiv:1909.13863"

    def __init__(self, shape: Size, factors: str = "filter", size: int | Sequence[int] | None = None) -> None:
        super().__init__()
        one_of("xnor_plus_plus", "factors", factors, FACTORS)
        height, width = (1, 1) if factors == "filter" else _pixels(factors, size)
        filters = (shape[0], 1, 1)
        shapes = {
            "filter": [filters],
            "dense": [(shape[0], height, width)],
            "filter_and_map": [filters, (1, height, width)],
            "rank_one": [filters, (1, height, 1), (1, 1, width)],
        }[factors]
        self.factors = nn.ParameterList(nn.Parameter(torch.ones(one)) for one in shapes)

    @torch.no_grad()
    def initialise(self, weight: nn.Parameter) -> None:
        first = self.factors[0]
        first.copy_(weight.abs().flatten(1).mean(dim=1).reshape(-1, 1, 1).expand_as(first))

    def forward(self, weight: Tensor) -> Bases:
        scale = math.prod(self.factors[1:], start=self.factors[0])
        if weight.dim() == 2:
            scale = scale.flatten()
        return [(straight_through_sign(weight, 1.0), scale)]


def _pixels(factors: str, size: int | Sequence[int] | None) -> tuple[int, int]:
    both = [size, size] if isinstance(size, int) else list(size or ())
    if len(both) != 2 or not all(type(pixels) is int and pixels > 0 for pixels in both):
        raise UserError(
            f"weight binarizer 'xnor_plus_plus': factors '{factors}' need size, the height and width of the"
            f" layer's output in pixels, e.g. size: [8, 8], not {size!r}; factors 'filter' need none"
        )
    return both[0], both[1]
