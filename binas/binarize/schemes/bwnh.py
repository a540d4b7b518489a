"""Binary weights by hashing: codes and scales that keep a layer's inner products with its real inputs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Size, Tensor, nn
from torch.nn import functional as F

from binas.binarize.contract import WEIGHT_BINARIZERS, Bases, LayerGeometry, WeightBinarizer, per_filter
from binas.binarize.sign import sign, straight_through_sign

PATCHES_AT_A_TIME = 1 << 22
"""Numbers of unfolded patches held at once (32 MiB of float64)."""


def inner_products(inputs: Tensor, geometry: LayerGeometry) -> Iterator[Tensor]:
    """X·Xᵀ for each group of channels, where the columns of X (S, P) are the patches under the kernel.

    Args:
        inputs: what the layer convolves (N, C, H, W), binarized where its input is.
    Shape: one (S, S) for each group, S = C/groups · kH · kW, in float64.
    """
    size, groups = geometry.kernel_size, geometry.groups
    length = geometry.in_channels // groups * size**2
    totals = inputs.new_zeros(groups, length, length, dtype=torch.float64)
    images = max(1, PATCHES_AT_A_TIME // max(1, inputs[0].numel() * size**2))
    for block in torch.split(inputs, images):
        patches = F.unfold(block.double(), size, geometry.dilation, geometry.padding, geometry.stride)
        x = patches.view(len(block), groups, length, -1)
        totals += torch.einsum("ngsp,ngtp->gst", x, x)
    yield from totals


@torch.no_grad()
def hashing_initialisation(
    weight: Tensor, inputs: Tensor, geometry: LayerGeometry, iterations: int = 20
) -> tuple[Tensor, Tensor]:
    """Codes and scales of a layer's filters whose inner products with its inputs are nearest to the real.

    For each filter w it minimises ‖Xᵀw − α Xᵀb‖² over b in {−1, +1}ⁿ and α >= 0, X the patches of the
    inputs, by turns: α = bᵀq / bᵀGb with G = XXᵀ and q = Gw; then bit by bit, all others fixed,
    b_j = sign(q_j − α Σ_{i≠j} G_ji b_i). Neither turn makes it larger. It starts from sign(w) and stops
    when no bit changes.

    Args:
        weight: the real weights (O, I, kH, kW).
        inputs: what the layer convolves (N, C, H, W), binarized where its input is.
        geometry: of the layer.
        iterations: most turns.
    Shape: codes as weight, scale (O,).
    Reference: Hu et al., From Hashing to CNNs, arXiv:1802.02733, sec. 3: inner-product preserving hashing
        by alternating optimisation.
    Deviation: that the scale is kept non-negative, that ties keep their bit, and the start are ours; the
        paper's own details were not at hand.
    """
    real = weight.double().flatten(1).view(geometry.groups, -1, weight[0].numel())
    codes, scales = [], []
    for w, gram in zip(real, inner_products(inputs, geometry), strict=True):
        b, alpha = _hash(w, gram, iterations)
        codes.append(b)
        scales.append(alpha)
    return torch.cat(codes).view_as(weight).to(weight.dtype), torch.cat(scales).to(weight.dtype)


def _hash(w: Tensor, gram: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """The same for one group: filters w (O, S), G (S, S)."""
    b, alpha, target = sign(w), w.abs().mean(dim=1), w @ gram
    for turn in range(iterations + 1):
        length = ((b @ gram) * b).sum(dim=1)
        best = (b * target).sum(dim=1) / length
        alpha = torch.where(length > 0, best, alpha)
        b, alpha = torch.where(alpha[:, None] < 0, -b, b), alpha.abs()
        before = b.clone()
        if turn == iterations:
            break
        for j in range(b.shape[1]):
            others = b @ gram[j] - b[:, j] * gram[j, j]
            wanted = target[:, j] - alpha * others
            b[:, j] = torch.where(wanted == 0, b[:, j], sign(wanted))
        if torch.equal(b, before):
            break
    return b, alpha


@WEIGHT_BINARIZERS.register("bwnh")
class Bwnh(WeightBinarizer):
    """Sign of the weight with a learned scale per filter, both of which hashing can set.

    forward   codes = sign(w), times α per filter
    backward  dL/dw = 1{|w| <= 1}·α·g, where g is the gradient of the binary weight α·sign(w);
              dL/dα = Σ sign(w)·g
    initial   α = mean |w| per filter, until `hash` is called with the layer's inputs

    Args:
        shape: shape of the latent weight.
    Reference: Hu et al., From Hashing to CNNs, arXiv:1802.02733.
    Deviation: after hashing a latent weight keeps its magnitude and takes its code's sign; how the paper
        fine-tunes weights and scales was not at hand.
    """

    paper = "Hu et al., From Hashing to CNNs, arXiv:1802.02733"

    def __init__(self, shape: Size) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(shape[0]))

    @torch.no_grad()
    def initialise(self, weight: nn.Parameter) -> None:
        self.scale.copy_(weight.abs().flatten(1).mean(dim=1))

    @torch.no_grad()
    def hash(
        self, weight: nn.Parameter, inputs: Tensor, geometry: LayerGeometry, iterations: int = 20
    ) -> None:
        """Set the scale, and the signs of the latent weight, by `hashing_initialisation`."""
        codes, scale = hashing_initialisation(weight, inputs, geometry, iterations)
        weight.copy_(codes * weight.abs().clamp_min(torch.finfo(weight.dtype).tiny))
        self.scale.copy_(scale)

    def forward(self, weight: Tensor) -> Bases:
        return [(straight_through_sign(weight, 1.0), per_filter(self.scale, weight.shape))]
