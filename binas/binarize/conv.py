"""The one binary convolution, for every stage of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binas.binarize.contract import (
    ActivationBinarizer,
    Bases,
    GradientQuantizer,
    LayerGeometry,
    WeightBinarizer,
)
from binas.binarize.exact import convolve_integers
from binas.binarize.spec import Binarization, BinarizerSpec
from binas.errors import UserError

RealActivation = Literal["none", "relu", "clip"]
"""What stands in place of a sign while activations are real; clip keeps them within −1 and 1."""


class BinaryConv2d(nn.Module):
    """Convolution of binarized activations with binarized weights, the scale applied afterwards.

    forward   y = Σ over bases of α · conv(codes of x, codes of w)
    backward  by the estimators of the active binarization; its gradient quantizer is applied to dL/dy

    The latent weight is the parameter and is never overwritten by forward. With `binarize_activations`
    off the input passes unchanged, or through `real_activation`; with `binarize_weights` off the latent
    weight is used raw, with both off gradients are not quantized either. All binarizations that any stage
    of training will use are owned from the start, so that parameter names never change.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups: as in `nn.Conv2d`
            (integers).
        binarizations: the binarizations of all stages; the first one is active at first.
    Shape: (N, C_in, H, W) -> (N, C_out, H', W') as `nn.Conv2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        binarizations: Sequence[Binarization] = (Binarization(),),
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.dilation, self.groups = dilation, groups
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kernel_size, kernel_size))
        self.binarize_activations = True
        self.binarize_weights = True
        self.real_activation: RealActivation = "none"
        self.keeps_real_activations = False
        """Whether a rule keeps its input real-valued whatever the stage says; `set_precision` follows it."""
        self.keeps_real_weights = False
        """The same of its weights."""
        self.estimator: BinarizerSpec | None = None
        """What a genotype chose to binarize the input of this layer, in place of what stages say."""
        self.own(binarizations)

    def own(self, binarizations: Sequence[Binarization]) -> None:
        """Start afresh with these binarizations: latent weight and binarizers anew, the first one active."""
        if not binarizations:
            raise ValueError("a binary convolution needs at least one binarization")
        binarizations = [self._chosen(binarization) for binarization in binarizations]
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.activation_binarizers = nn.ModuleDict(
            {b.activation.key: b.build_activation(self.in_channels) for b in binarizations}
        )
        self.weight_binarizers = nn.ModuleDict(
            {b.weight.key: b.build_weight(self.weight.shape) for b in binarizations}
        )
        self.gradient_quantizers = nn.ModuleDict(
            {b.gradient.key: b.build_gradient() for b in binarizations if b.gradient is not None}
        )
        for binarizer in self.activation_binarizers.values():
            cast(ActivationBinarizer, binarizer).bind(self.geometry)
        self.use(binarizations[0])
        with torch.no_grad():
            self.weight_binarizer.initialise(self.weight)
            for binarizer in self.weight_binarizers.values():
                if binarizer is not self.weight_binarizer:
                    cast(WeightBinarizer, binarizer).initialise(nn.Parameter(self.weight.clone()))

    def use(self, binarization: Binarization) -> None:
        """Make one of the owned binarizations the active one; parameters of the others are frozen.

        Raises:
            UserError: the layer was built without it.
        """
        binarization = self._chosen(binarization)
        gradient = binarization.gradient
        for key, owned in (
            (binarization.activation.key, self.activation_binarizers),
            (binarization.weight.key, self.weight_binarizers),
            *([] if gradient is None else [(gradient.key, self.gradient_quantizers)]),
        ):
            if key not in owned:
                raise UserError(
                    f"a binary convolution has no binarizer '{key}', only {', '.join(owned)}; build it with"
                    " binarizations=context.binarizations, which holds those of all stages"
                )
        self._active = (binarization.activation.key, binarization.weight.key)
        self._active_gradient = None if gradient is None else gradient.key
        self.pad_value = binarization.pad_value
        for modules, active in (
            (self.activation_binarizers, self.activation_binarizer),
            (self.weight_binarizers, self.weight_binarizer),
        ):
            for binarizer in modules.values():
                binarizer.requires_grad_(binarizer is active)

    def _chosen(self, binarization: Binarization) -> Binarization:
        return binarization if self.estimator is None else binarization.with_activation(self.estimator)

    @property
    def geometry(self) -> LayerGeometry:
        """The convolution that its binarizers work for."""
        return LayerGeometry(
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.in_channels,
            self.out_channels,
        )

    @property
    def keeps_real(self) -> bool:
        """Whether a rule keeps both its input and its weights real-valued."""
        return self.keeps_real_activations and self.keeps_real_weights

    @property
    def why_real(self) -> str:
        """Why its weights are real-valued; empty where they are not, or where the stage says so."""
        if not self.keeps_real_weights:
            return ""
        return f"a rule for layers says precision: {'real' if self.keeps_real else 'real_weights'}"

    @property
    def active_activation(self) -> str:
        """The key of the active activation binarizer: equal keys binarize alike."""
        return self._active[0]

    @property
    def active_weight(self) -> str:
        """The key of the active weight binarizer."""
        return self._active[1]

    @property
    def activation_binarizer(self) -> ActivationBinarizer:
        """The active binarizer of the input."""
        return cast(ActivationBinarizer, self.activation_binarizers[self._active[0]])

    @property
    def weight_binarizer(self) -> WeightBinarizer:
        """The active binarizer of the latent weight."""
        return cast(WeightBinarizer, self.weight_binarizers[self._active[1]])

    @property
    def gradient_quantizer(self) -> GradientQuantizer | None:
        """The active quantizer of the gradient of the output, if there is one."""
        if self._active_gradient is None or not (self.binarize_activations or self.binarize_weights):
            return None
        return cast(GradientQuantizer, self.gradient_quantizers[self._active_gradient])

    @property
    def behaviour(self) -> tuple[object, ...]:
        """What is binary and how: layers of equal behaviour and geometry compute alike."""
        switches = (self.binarize_activations, self.binarize_weights)
        return *switches, self.real_activation, *self._active, self._active_gradient, self.pad_value

    def forward(self, x: Tensor) -> Tensor:
        inputs = self.activation_binarizer(x) if self.binarize_activations else [(self.real_input(x), None)]
        weights = self._kernels() if self.binarize_weights else [(self.weight, None)]
        total: Tensor | None = None
        for codes, input_scale in inputs:
            padded = self._padded(codes)
            for kernel, weight_scale in weights:
                y = self._convolve(padded, kernel)
                for part, scale in zip(self._active[::-1], (weight_scale, input_scale), strict=True):
                    y = y if scale is None else _scaled(y, scale, part)
                total = y if total is None else total + y
        assert total is not None
        quantizer = self.gradient_quantizer
        if quantizer is not None and total.requires_grad:
            total.register_hook(quantizer)  # type: ignore[no-untyped-call]
        return total

    def real_input(self, x: Tensor) -> Tensor:
        """What is convolved while activations are not binarized: x, its positive part, or x within ±1."""
        match self.real_activation:
            case "relu":
                return F.relu(x)
            case "clip":
                return F.hardtanh(x)
        return x

    def _kernels(self) -> Bases:
        """What is convolved, with the scale that follows."""
        bases: Bases = self.weight_binarizer(self.weight)
        if self.weight_binarizer.scales == "output":
            return bases
        return [(codes if scale is None else codes * scale, None) for codes, scale in bases]

    def _padded(self, codes: Tensor) -> Tensor:
        if not self._pads_by_value:
            return codes
        return F.pad(codes, [self.padding] * 4, value=self.pad_value)

    @property
    def _pads_by_value(self) -> bool:
        return self.padding > 0 and self.binarize_activations and self.pad_value != 0

    def _convolve(self, codes: Tensor, kernel: Tensor) -> Tensor:
        padding = 0 if self._pads_by_value else self.padding
        geometry = (self.stride, padding, self.dilation, self.groups)
        largest = self._largest_sum(kernel)
        if largest is None:
            return F.conv2d(codes, kernel, None, *geometry)
        return convolve_integers(codes, kernel, largest, geometry)

    def _largest_sum(self, kernel: Tensor) -> float | None:
        """No sum of the convolution is larger; None where raw inputs or weights are convolved."""
        if not (self.binarize_activations and self.binarize_weights):
            return None
        if self.weight_binarizer.scales != "output":
            return None
        both = (self.activation_binarizer, self.weight_binarizer)
        if any(binarizer.smooth_in_training and binarizer.training for binarizer in both):
            return math.inf  # real numbers on their way to the levels: no 16-bit type holds their sums
        largest = [max(map(abs, binarizer.levels)) for binarizer in both]
        return kernel[0].numel() * largest[0] * largest[1]

    def extra_repr(self) -> str:
        """The geometry and the active binarizers, for printing."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride},"
            f" padding={self.padding}, dilation={self.dilation}, groups={self.groups},"
            f" pad_value={self.pad_value}"
        )


def _scaled(y: Tensor, scale: Tensor, name: str) -> Tensor:
    """y times a scale that broadcasts to y's own shape."""
    fits = all(one in (1, size) for one, size in zip(reversed(scale.shape), reversed(y.shape), strict=False))
    if scale.dim() > y.dim() or not fits:
        raise UserError(
            f"binarizer '{name}': its scale is for an output of {_pixels(scale)}, and the layer's is"
            f" {_pixels(y)}; correct its option size, or give this layer a binarizer of its own (layers)"
        )
    return y * scale


def _pixels(y: Tensor) -> str:
    return "×".join(map(str, y.shape[-2:])) + " pixels"
