"""What a binarizer promises: codes and scales, with their levels declared, and the three registries.

A binarizer turns a tensor into one or several pairs (codes, scale): the codes are small integers held in
a float tensor, the scale is a tensor that broadcasts as declared, or None for 1. The value that the
pairs stand for is the sum of codes × scale. Layers convolve the codes and apply scales afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Size, Tensor, nn

from binas.registry import Registry

Bases = list[tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class LayerGeometry:
    """The convolution that a binarizer works for, as in `nn.Conv2d`, with integers."""

    kernel_size: int
    stride: int
    padding: int
    dilation: int
    groups: int
    in_channels: int
    out_channels: int


class _Quantizer(nn.Module):
    """What activation binarizers, weight binarizers and gradient quantizers have in common.

    State that must survive a checkpoint is a registered buffer or parameter. In evaluation nothing is
    random and no state changes. Randomness comes from torch's global generator, seeded for each epoch.
    """

    bits: int = 1
    """Storage of one code: 1 for two levels, 2 for ternary."""
    num_bases: int = 1
    """How many pairs of codes and scale it gives."""
    levels: tuple[int, ...] = (-1, 1)
    """The integers that a code may take."""
    annealed: bool = False
    """Whether its gradient or value changes with `progress`."""
    smooth_in_training: bool = False
    """Whether codes are real numbers between the levels while training; in evaluation they are levels."""
    paper: str = ""
    """Short citation with arXiv number, e.g. "Liu et al., ReActNet, arXiv:2003.03488"."""
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({},)
    """Sets of options that listings and tests build."""

    def __init__(self) -> None:
        super().__init__()
        self.progress = 0.0
        """How far training has come, in [0, 1]; set by the training loop, read by annealed ones."""


class ActivationBinarizer(_Quantizer):
    """Base of what binarizes the input of a layer; built as `factory(channels, **options)`.

    Shape: (N, C, H, W) -> pairs of codes (N, C, H, W) and a scale that broadcasts against the layer's
    output: a scalar, (N, 1, 1, 1) or (N, 1, H', W').
    """

    same_for_all_edges: bool = False
    """Whether equal inputs give equal codes, a single pair without scale, whatever layer owns it: no
    parameters, nothing random. Edges that leave one node then binarize it once."""

    def bind(self, geometry: LayerGeometry) -> None:
        """Called once by the layer that owns it; for scales that are a map over the output."""

    def forward(self, x: Tensor) -> Bases:
        """The pairs of codes and scale that stand for x."""
        raise TypeError(f"{type(self).__name__} defines no forward")


class WeightBinarizer(_Quantizer):
    """Base of what binarizes a latent weight; built as `factory(weight_shape, **options)`.

    Shape: (O, I, kH, kW) or (O, I) -> pairs of codes of that shape and a scale, see `scales`.
    """

    scales: Literal["output", "kernel"] = "output"
    """output: (O, 1, 1), (O,) or (), broadcasts against one image of the layer's output and is applied
    after the convolution; kernel: broadcasts against the kernel and multiplies the codes before it."""
    filter_by_filter: bool = False
    """Whether it gives a single pair, each filter is binarized by itself, nothing is random, and scales
    are for the output and not negative. Weights of several layers are then binarized together."""
    learning_rate_scale: float = 1.0
    """What the optimizer multiplies the learning rate of the latent weight by."""

    def initialise(self, weight: nn.Parameter) -> None:
        """Called once, without gradients, after the layer has initialised its latent weight.

        It may set its own parameters from the weight, and may change the weight where it is the one that
        is active at first; those of later stages are given a copy.
        """

    def restart(self, weight: Tensor) -> None:
        """Called, without gradients, when a layer goes over to this binarizer in the course of training.

        Its own parameters then start from the weights as they are now, which were raw or another
        binarizer's before. By default that is `initialise` on a copy; the latent weight itself stays.
        """
        self.initialise(nn.Parameter(weight.detach().clone()))

    def forward(self, weight: Tensor) -> Bases:
        """The pairs of codes and scale that stand for the latent weight."""
        raise TypeError(f"{type(self).__name__} defines no forward")

    def after_step(self, weight: nn.Parameter) -> None:
        """Called after each optimizer step, without gradients; `weight.grad` is still that of the step."""


class GradientQuantizer(_Quantizer):
    """Base of what quantizes the gradient that arrives at a layer's output; built as `factory(**options)`.

    Shape: (N, C, H, W) -> same.
    """

    def forward(self, gradient: Tensor) -> Tensor:
        """The gradient that is passed on instead."""
        raise TypeError(f"{type(self).__name__} defines no forward")


ACTIVATION_BINARIZERS: Registry[Callable[..., ActivationBinarizer]] = Registry("activation binarizer")
WEIGHT_BINARIZERS: Registry[Callable[..., WeightBinarizer]] = Registry("weight binarizer")
GRADIENT_QUANTIZERS: Registry[Callable[..., GradientQuantizer]] = Registry("gradient quantizer")
register_activation_binarizer = ACTIVATION_BINARIZERS.register
register_weight_binarizer = WEIGHT_BINARIZERS.register


def per_filter(statistic: Tensor, weight_shape: Size) -> Tensor:
    """A per-filter statistic (O,) in the shape that broadcasts against a layer's output."""
    return statistic.reshape(-1, *([1] * (len(weight_shape) - 2)))
