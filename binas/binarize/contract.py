"""What a binarizer promises: codes and scales, with their width declared, and its two registries.

A binarizer turns a tensor into one or several pairs (codes, scale): the codes are small integers held in
a float tensor, the scale is a tensor that broadcasts against the codes, or None for 1. The value that
the pairs stand for is the sum of codes × scale. Layers convolve the codes and apply scales afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Size, Tensor, nn

from binas.registry import Registry

Bases = list[tuple[Tensor, Tensor | None]]


class _Binarizer(nn.Module):
    bits: int = 1
    """Width of one code: 1 stands for {−1, +1}."""
    num_bases: int = 1
    """How many pairs of codes and scale it gives."""
    annealed: bool = False
    """Whether its gradient or value changes with `progress`."""
    paper: str = ""

    def __init__(self) -> None:
        super().__init__()
        self.progress = 0.0
        """How far training has come, in [0, 1]; set by the training loop, read by annealed ones."""


class ActivationBinarizer(_Binarizer):
    """Base of what binarizes the input of a layer; built as `factory(channels, **options)`.

    Shape: (N, C, …) -> pairs of codes (N, C, …) and a scale that broadcasts against the layer's output.
    """

    same_for_all_edges: bool = False
    """Whether equal inputs give equal codes, a single pair without scale, whatever layer owns it: no
    parameters, nothing random. Edges that leave one node then binarize it once."""

    def forward(self, x: Tensor) -> Bases:
        """The pairs of codes and scale that stand for x."""
        raise TypeError(f"{type(self).__name__} defines no forward")


class WeightBinarizer(_Binarizer):
    """Base of what binarizes a latent weight; built as `factory(weight_shape, **options)`.

    Shape: (O, I, kH, kW) or (O, I) -> pairs of codes of that shape and a scale (O, 1, 1) or (O,), which
    broadcasts against one image of the layer's output.
    """

    filter_by_filter: bool = False
    """Whether it gives a single pair, each filter is binarized by itself, nothing is random, and scales
    are not negative. Weights of several layers are then binarized together."""

    def forward(self, weight: Tensor) -> Bases:
        """The pairs of codes and scale that stand for the latent weight."""
        raise TypeError(f"{type(self).__name__} defines no forward")

    def after_step(self, weight: nn.Parameter) -> None:
        """Called by the training loop after each optimizer step, without gradients; does nothing here."""


ACTIVATION_BINARIZERS: Registry[Callable[..., ActivationBinarizer]] = Registry("activation binarizer")
WEIGHT_BINARIZERS: Registry[Callable[..., WeightBinarizer]] = Registry("weight binarizer")


def per_filter(statistic: Tensor, weight_shape: Size) -> Tensor:
    """A per-filter statistic (O,) in the shape that broadcasts against a layer's output."""
    return statistic.reshape(-1, *([1] * (len(weight_shape) - 2)))
