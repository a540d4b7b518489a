"""A binary fully connected layer: the binary convolution on images of one pixel."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from binas.binarize.conv import BinaryConv2d
from binas.binarize.spec import Binarization


class BinaryLinear(BinaryConv2d):
    """Product of a binarized input with binarized weights, for layers of a multi-layer perceptron.

    forward   y = Σ over bases of α · (codes of w) · (codes of x), without bias
    backward  as in `BinaryConv2d`, of which it is the 1×1 case

    Being one, it is found, switched, counted and checked as every other binary layer. Its weight has the
    shape (O, I, 1, 1).

    Args:
        in_features, out_features: numbers of inputs and outputs.
        binarizations: the binarizations of all stages; the first one is active at first.
    Shape: (N, in_features) -> (N, out_features).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        binarizations: Sequence[Binarization] = (Binarization(),),
    ) -> None:
        super().__init__(in_features, out_features, 1, binarizations=binarizations)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return super().forward(x[:, :, None, None]).flatten(1)
