"""IR-Net's weights: balanced and standardised before the sign, so that codes carry most information."""

from __future__ import annotations

import torch
from torch import Size, Tensor

from binas.binarize.contract import WEIGHT_BINARIZERS, Bases, WeightBinarizer, per_filter
from binas.binarize.options import positive
from binas.binarize.schemes.ede import ede_sharpness, ede_sign
from binas.errors import UserError


@WEIGHT_BINARIZERS.register("libra")
class Libra(WeightBinarizer):
    """Sign of the standardised weight, scaled per filter by a power of two.

    forward   ŵ = (w − mean of w) / std of w over each filter; codes = sign(ŵ); scale 2^s with
              s = round(log₂ mean |ŵ|), an integer, so that scaling is a shift of bits
    backward  dL/dŵ = 2^s·k·t·(1 − tanh²(t·ŵ))·g, where g is the gradient of the binary weight 2^s·codes;
              then exactly through std and mean; s passes no gradient. t goes from `start` to `end` on a
              logarithmic scale as training goes on, k = max(1/t, 1)

    Args:
        shape: shape of the latent weight. A filter of a single weight is neither centred nor divided,
            nothing would be left of it.
        start: t at the beginning.
        end: t at the end.
    Reference: Qin et al., IR-Net, arXiv:1909.10788, sec. 3.2 and 3.3; std counts n − 1 as the authors'
        code does.
    Deviation: t moves with every step, see `ede`, the activation that goes with it.
    """

    annealed = True
    filter_by_filter = True
    paper = "Qin et al., IR-Net, arXiv:1909.10788"

    def __init__(self, shape: Size, start: float = 0.1, end: float = 10.0) -> None:
        super().__init__()
        name = "weight binarizer 'libra'"
        self.start, self.end = positive(name, "start", start), positive(name, "end", end)
        if self.end < self.start:
            raise UserError(f"{name}: end {end} is below start {start}; the surrogate sharpens")
        self.standardises = shape[1:].numel() > 1

    def forward(self, weight: Tensor) -> Bases:
        if self.standardises:
            over = list(range(1, weight.dim()))
            centred = weight - weight.mean(dim=over, keepdim=True)
            # a filter of equal weights has no spread; without a floor its codes would be lost in NaN
            weight = centred / centred.std(dim=over, keepdim=True).clamp_min(1e-8)
        mean = weight.detach().abs().flatten(1).mean(dim=1)
        scale = mean.clamp_min(torch.finfo(mean.dtype).tiny).log2().round().exp2()
        codes = ede_sign(weight, *ede_sharpness(self.progress, self.start, self.end))
        return [(codes, per_filter(scale, weight.shape))]
