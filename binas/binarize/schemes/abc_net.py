"""ABC-Net: weights and activations as linear combinations of several binary bases."""

from __future__ import annotations

import torch
from torch import Size, Tensor, nn

from binas.binarize.contract import (
    ACTIVATION_BINARIZERS,
    WEIGHT_BINARIZERS,
    ActivationBinarizer,
    Bases,
    WeightBinarizer,
)
from binas.binarize.options import whole
from binas.binarize.sign import sign
from binas.binarize.straight_through import clipped, straight_through

PAPER = "Lin et al., ABC-Net, arXiv:1711.11294"
MAX_BASES = 8


@WEIGHT_BINARIZERS.register("abc_net")
class AbcNetWeight(WeightBinarizer):
    """Several shifted signs of the weight, combined by least squares over the layer.

    forward   B_i = sign(w − mean(w) + u_i·std(w)), u_i = −1 + 2(i − 1)/(M − 1), u = 0 for M = 1;
              α = argmin ‖w − Σ α_i B_i‖², one vector for the layer, so that ŵ = Σ α_i B_i
    backward  dL/dw = Σ_i α_i g, where g is the gradient of ŵ: each B_i passes its gradient unchanged, and
              α, mean and standard deviation (over all n weights) are constants

    Args:
        shape: shape of the latent weight.
        bases: M.
    Shape: (O, I, kH, kW) -> M pairs of codes of that shape and a scalar.
    Reference: arXiv:1711.11294, sec. 3.1, eqs. 2-6, scale per layer.
    Deviation: where bases are equal, α is the shortest of the best vectors.
    """

    paper = PAPER
    variants = ({}, {"bases": 1}, {"bases": 5})

    def __init__(self, shape: Size, bases: int = 3) -> None:
        super().__init__()
        self.num_bases = whole("abc_net", "bases", bases, 1, MAX_BASES)

    def forward(self, weight: Tensor) -> Bases:
        w = weight.detach()
        shifts = torch.linspace(-1, 1, self.num_bases).tolist() if self.num_bases > 1 else [0.0]
        centred, deviation = w - w.mean(), w.std(correction=0)
        codes = [sign(centred + shift * deviation) for shift in shifts]
        alphas = _least_squares(torch.stack([code.flatten() for code in codes]), w.flatten())
        return [(straight_through(weight, code), alpha) for code, alpha in zip(codes, alphas, strict=True)]


def _least_squares(bases: Tensor, target: Tensor) -> Tensor:
    """The α (M,) for which Σ α_i · bases_i (M, n) is nearest to the target, the shortest one if several."""
    with torch.autocast(target.device.type, enabled=False):  # 16 bits hold neither the sums nor the inverse
        gram, products = bases @ bases.T / len(target), bases @ target / len(target)
        # equal bases make the matrix singular; 1e-5 is well above float32's rounding of its entries
        alphas: Tensor = torch.linalg.pinv(gram, rtol=1e-5, hermitian=True) @ products
        return alphas


@ACTIVATION_BINARIZERS.register("abc_net")
class AbcNetActivation(ActivationBinarizer):
    """Several signs with learned thresholds and learned scales.

    forward   H_n = +1 if clip(x + v_n, 0, 1) >= ½ else −1; value Σ β_n H_n
    backward  dH_n/dx = dH_n/dv_n = 1{0 <= x + v_n <= 1}; dL/dβ_n = Σ g·H_n, g the gradient of the value

    Args:
        channels: channels of the input; not used: v and β hold for the whole layer.
        bases: N. At first thresholds ½ − v_n are spread evenly over [−1, 1] and β_n = 1/N, for inputs
            that come from a batch-norm.
    Shape: (N, C, H, W) -> N pairs of codes of that shape and a scalar.
    Reference: arXiv:1711.11294, sec. 3.2, eqs. 7-10.
    Deviation: eq. 10 prints the window as 0 <= x − v <= 1, which does not fit eq. 8; x + v is taken.
        The paper gives no starting values of general use.
    """

    paper = PAPER
    variants = ({}, {"bases": 1}, {"bases": 5})

    def __init__(self, channels: int, bases: int = 3) -> None:
        super().__init__()
        self.num_bases = whole("abc_net", "bases", bases, 1, MAX_BASES)
        spread = torch.linspace(-1, 1, self.num_bases) if self.num_bases > 1 else torch.zeros(1)
        self.shift = nn.Parameter(0.5 - spread)
        self.beta = nn.Parameter(torch.full((self.num_bases,), 1 / self.num_bases))

    def forward(self, x: Tensor) -> Bases:
        bases: Bases = []
        for shift, beta in zip(self.shift, self.beta, strict=True):
            h = clipped(x + shift, 0, 1)
            bases.append((straight_through(h, sign(h.detach() - 0.5)), beta))
        return bases
