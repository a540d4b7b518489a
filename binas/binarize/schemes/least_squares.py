"""Least-squares binarization: the best scales for one base, two bases, three levels, or greedily many."""

from __future__ import annotations

from torch import Size, Tensor

from binas.binarize.contract import (
    ACTIVATION_BINARIZERS,
    WEIGHT_BINARIZERS,
    ActivationBinarizer,
    Bases,
    WeightBinarizer,
    per_filter,
)
from binas.binarize.optimal import best_ternary, best_two_bases
from binas.binarize.options import whole
from binas.binarize.sign import straight_through_sign

PAPER = "Pouransari et al., Least squares binary quantization, arXiv:2001.02786"
MAX_BASES = 8
SAMPLES = 2048
"""Elements of an image among which the best split of its activations is sought, see `best_two_bases`."""


def greedy_bases(x: Tensor, count: int) -> Bases:
    """Signs of x and of what is left, each scaled by the row's mean magnitude; rows along dimension 0.

    Constant scales; the gradient of each sign is 1{|r| <= 1} and passes through the residuals too.
    """
    bases: Bases = []
    others = tuple(range(1, x.dim()))
    for _ in range(count):
        scale = x.detach().abs().mean(dim=others, keepdim=True)
        codes = straight_through_sign(x)
        bases.append((codes, scale))
        x = x - scale * codes
    return bases


def two_bases(x: Tensor, samples: int | None) -> Bases:
    """sign(x) and sign(x − v₁·sign(x)) with the best v₁, v₂ of each row; gradient as `greedy_bases`."""
    first, second = best_two_bases(x.detach().flatten(1), samples)
    return two_bases_with(x, _column(first, x), _column(second, x))


def two_bases_with(x: Tensor, v1: Tensor, v2: Tensor) -> Bases:
    """The two bases with given scales. Shape: (N, …), (N, 1, …), (N, 1, …)."""
    s1 = straight_through_sign(x)
    return [(s1, v1), (straight_through_sign(x - v1 * s1), v2)]


def ternary_base(x: Tensor, samples: int | None) -> Bases:
    """The best −a, 0, +a of each row, as (s₁ + s₂)/2 with v₁ = v₂ = a/2; gradient as `greedy_bases`."""
    return ternary_base_with(x, _column(best_ternary(x.detach().flatten(1), samples), x))


def ternary_base_with(x: Tensor, level: Tensor) -> Bases:
    """The three levels with a given a. Shape: (N, …), (N, 1, …)."""
    s1 = straight_through_sign(x)
    s2 = straight_through_sign(x - level / 2 * s1)
    return [((s1 + s2) / 2, level)]


def _column(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(-1, *([1] * (x.dim() - 1)))


def _for_output(bases: Bases, weight: Tensor) -> Bases:
    return [(codes, None if s is None else per_filter(s.flatten(), weight.shape)) for codes, s in bases]


@ACTIVATION_BINARIZERS.register("ls1")
class LeastSquaresActivation1(ActivationBinarizer):
    """Sign times the image's mean magnitude, the best single base.

    forward   v = mean |x| over an image; value v·sign(x)
    backward  v constant, d sign/dx = 1{|x| <= 1}

    Args:
        channels: channels of the input; not used.
    Shape: (N, C, H, W) -> codes of that shape and a scale (N, 1, 1, 1).
    Reference: arXiv:2001.02786, sec. 3; one scale for each image and its gradient as in the authors' code.
    Deviation: the code can also average scales over batches for evaluation; here they are the image's own.
    """

    paper = PAPER

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Bases:
        return greedy_bases(x, 1)


@WEIGHT_BINARIZERS.register("ls1")
class LeastSquaresWeight1(WeightBinarizer):
    """Sign times the filter's mean magnitude as a constant, the best single base.

    forward   v = mean |w| per filter; ŵ = v·sign(w)
    backward  dL/dw = v·1{|w| <= 1}·g: unlike `xnor` nothing passes through v, and nothing is centred

    Args:
        shape: shape of the latent weight.
    Shape: (O, I, kH, kW) -> codes of that shape and a scale (O, 1, 1).
    Reference: arXiv:2001.02786, sec. 3; gradient as in the authors' code.
    """

    filter_by_filter = True
    paper = PAPER

    def __init__(self, shape: Size) -> None:
        super().__init__()

    def forward(self, weight: Tensor) -> Bases:
        return _for_output(greedy_bases(weight, 1), weight)


@ACTIVATION_BINARIZERS.register("ls2")
class LeastSquaresActivation2(ActivationBinarizer):
    """Two bases with the best pair of scales for each image.

    forward   v₁·s₁ + v₂·s₂, s₁ = sign(x), s₂ = sign(x − v₁·s₁), with v₁, v₂ least in squared error
    backward  v₁, v₂ constant, each sign 1{|·| <= 1}, also through x − v₁·s₁

    Args:
        channels: channels of the input; not used.
    Shape: (N, C, H, W) -> two pairs of codes of that shape and a scale (N, 1, 1, 1).
    Reference: arXiv:2001.02786, sec. 3 (2-bit optimum); gradient as in the authors' code.
    Deviation: of images with more than 2048 values the split is sought among evenly spaced ones and then
        improved once on all of them; the authors' code looks at every third candidate instead.
    """

    num_bases = 2
    paper = PAPER

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Bases:
        return two_bases(x, SAMPLES)


@WEIGHT_BINARIZERS.register("ls2")
class LeastSquaresWeight2(WeightBinarizer):
    """Two bases with the best pair of scales for each filter, exactly.

    forward, backward  as the activations' `ls2`, a filter in place of an image, all weights looked at

    Args:
        shape: shape of the latent weight.
    Shape: (O, I, kH, kW) -> two pairs of codes of that shape and a scale (O, 1, 1).
    Reference: arXiv:2001.02786, sec. 3 (2-bit optimum).
    """

    num_bases = 2
    paper = PAPER

    def __init__(self, shape: Size) -> None:
        super().__init__()

    def forward(self, weight: Tensor) -> Bases:
        return _for_output(two_bases(weight, None), weight)


@ACTIVATION_BINARIZERS.register("ls_ternary")
class LeastSquaresTernaryActivation(ActivationBinarizer):
    """The best −a, 0, +a for each image.

    forward   v·(s₁ + s₂), s₁ = sign(x), s₂ = sign(x − v·s₁): 2v·sign(x) where |x| > v, 0 elsewhere
    backward  v constant, each sign 1{|·| <= 1}, also through x − v·s₁

    Args:
        channels: channels of the input; not used.
    Shape: (N, C, H, W) -> codes −1, 0, 1 of that shape and a scale (N, 1, 1, 1).
    Reference: arXiv:2001.02786, sec. 3 (ternary optimum); gradient as in the authors' code.
    Deviation: samples large images as `ls2` does.
    """

    bits = 2
    levels = (-1, 0, 1)
    paper = PAPER

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Bases:
        return ternary_base(x, SAMPLES)


@WEIGHT_BINARIZERS.register("ls_ternary")
class LeastSquaresTernaryWeight(WeightBinarizer):
    """The best −a, 0, +a for each filter, exactly.

    forward, backward  as the activations' `ls_ternary`, a filter in place of an image

    Args:
        shape: shape of the latent weight.
    Shape: (O, I, kH, kW) -> codes −1, 0, 1 of that shape and a scale (O, 1, 1).
    Reference: arXiv:2001.02786, sec. 3 (ternary optimum).
    """

    bits = 2
    levels = (-1, 0, 1)
    paper = PAPER

    def __init__(self, shape: Size) -> None:
        super().__init__()

    def forward(self, weight: Tensor) -> Bases:
        return _for_output(ternary_base(weight, None), weight)


@ACTIVATION_BINARIZERS.register("greedy")
class GreedyActivation(ActivationBinarizer):
    """Signs of the input and of what is left, each with its best scale for each image.

    forward   v_i = mean |r_i| over an image, r_1 = x, r_{i+1} = r_i − v_i·sign(r_i); value Σ v_i·sign(r_i)
    backward  v constant, each sign 1{|r_i| <= 1}, also through the residuals (`horq` has them constant)

    Args:
        channels: channels of the input; not used.
        bases: k.
    Shape: (N, C, H, W) -> k pairs of codes of that shape and a scale (N, 1, 1, 1).
    Reference: arXiv:2001.02786, sec. 3 (greedy foldable); gradient as in the authors' code.
    """

    paper = PAPER
    variants = ({}, {"bases": 1}, {"bases": 3})

    def __init__(self, channels: int, bases: int = 2) -> None:
        super().__init__()
        self.num_bases = whole("greedy", "bases", bases, 1, MAX_BASES)

    def forward(self, x: Tensor) -> Bases:
        return greedy_bases(x, self.num_bases)


@WEIGHT_BINARIZERS.register("greedy")
class GreedyWeight(WeightBinarizer):
    """Signs of the weight and of what is left, each with its best scale for each filter.

    forward, backward  as the activations' `greedy`, a filter in place of an image

    Args:
        shape: shape of the latent weight.
        bases: k.
    Shape: (O, I, kH, kW) -> k pairs of codes of that shape and a scale (O, 1, 1).
    Reference: arXiv:2001.02786, sec. 3 (greedy foldable).
    """

    paper = PAPER
    variants = ({}, {"bases": 1}, {"bases": 3})

    def __init__(self, shape: Size, bases: int = 2) -> None:
        super().__init__()
        self.num_bases = whole("greedy", "bases", bases, 1, MAX_BASES)

    def forward(self, weight: Tensor) -> Bases:
        return _for_output(greedy_bases(weight, self.num_bases), weight)
