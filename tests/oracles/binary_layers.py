"""Plain layers of the oracle supernet: each owns what it needs and shares nothing.

Every layer copies its tensors from a state dict under a `prefix`, and remembers that name in
`origin`, so that gradients and running statistics can be told by the names of the original.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binas.binarize import Binarization

State = Mapping[str, Tensor]


class _SteSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, window: float | None) -> Tensor:
        ctx.inside = None if window is None else x.abs() <= window
        return torch.ones_like(x).masked_fill_(x < 0, -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return (gradient if ctx.inside is None else gradient * ctx.inside), None


def ste_sign(x: Tensor, window: float | None) -> Tensor:
    """±1 forward; the gradient of the identity backward, inside the window where there is one."""
    return _SteSign.apply(x, window)


def approx_sign(x: Tensor) -> Tensor:
    """±1 forward; the gradient of Bi-Real's piecewise quadratic backward."""
    codes = torch.ones_like(x)
    codes[x < 0] = -1
    inside = x.clamp(-1, 1)
    surrogate = torch.where(x < 0, 2 * inside + inside**2, 2 * inside - inside**2)
    return codes + (surrogate - surrogate.detach())


def relu(x: Tensor) -> Tensor:
    """x above 0, 0 elsewhere; at 0 its derivative is 0, which matters where sums of ±1 cancel."""
    return F.relu(x)


def pad_to_even(x: Tensor) -> Tensor:
    """A zero column on the right and a zero row at the bottom where the size is odd."""
    if x.shape[2] % 2:
        x = torch.cat([x, x.new_zeros(x.shape[0], x.shape[1], 1, x.shape[3])], dim=2)
    if x.shape[3] % 2:
        x = torch.cat([x, x.new_zeros(x.shape[0], x.shape[1], x.shape[2], 1)], dim=3)
    return x


class Layer(nn.Module):
    """Base: tensors copied from a state dict under a prefix."""

    def __init__(self, state: State, prefix: str, parameters: tuple[str, ...]) -> None:
        super().__init__()
        self.origin = prefix
        for name in parameters:
            key = f"{prefix}.{name}"
            value = nn.Parameter(state[key].detach().clone()) if key in state else None
            self.register_parameter(name, value)


class BatchNorm(Layer):
    """Batch-norm; `tracks` says whether running statistics follow the batch."""

    def __init__(self, state: State, prefix: str) -> None:
        super().__init__(state, prefix, ("weight", "bias"))
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, state[f"{prefix}.{name}"].detach().clone(), persistent=False)
        self.tracks = True

    def forward(self, x: Tensor) -> Tensor:
        reads = self.tracks or not self.training
        mean, variance = (self.running_mean, self.running_var) if reads else (None, None)
        return F.batch_norm(x, mean, variance, self.weight, self.bias, self.training, 0.1, 1e-5)


class Conv(Layer):
    """A real-valued convolution."""

    def __init__(self, state: State, prefix: str, stride: int = 1) -> None:
        super().__init__(state, prefix, ("weight", "bias"))
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        size = self.weight.shape[-1]
        padding = size // 2 if size % 2 else 0
        return F.conv2d(x, self.weight, self.bias, self.stride, padding)


class PReLU(Layer):
    """x above 0, slope · x elsewhere (so at 0 its derivative is the slope)."""

    def __init__(self, state: State, prefix: str) -> None:
        super().__init__(state, prefix, ("weight",))

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, self.weight[:, None, None] * x)


class BinaryConv(Layer):
    """Sign of the input, sign of the centred weight, their convolution, the mean magnitude of a filter.

    Only the binarizers of the shipped spaces are written here: `sign` and `approx_sign` for activations
    and `xnor` for weights.
    """

    def __init__(
        self,
        state: State,
        prefix: str,
        binarization: Binarization,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__(state, prefix, ("weight",))
        self.stride, self.dilation, self.groups = stride, dilation, groups
        self.activation, self.weight_rule = binarization.activation, binarization.weight
        self.pad_value = binarization.pad_value
        assert self.activation.name in ("sign", "approx_sign"), self.activation
        assert self.weight_rule.name == "xnor", self.weight_rule
        self.binarize_activations = self.binarize_weights = True

    def codes_of_input(self, x: Tensor) -> Tensor:
        if self.activation.name == "approx_sign":
            return approx_sign(x)
        return ste_sign(x, self.activation.options.get("window", 1.0))

    def codes_and_scale(self) -> tuple[Tensor, Tensor]:
        weight = self.weight
        if weight.shape[1] >= 4 and self.weight_rule.options.get("center", True):
            weight = weight - weight.mean(dim=1, keepdim=True)
        scale = weight.abs().sum(dim=(1, 2, 3)) / weight[0].numel()
        return ste_sign(weight, self.weight_rule.options.get("window", 1.0)), scale[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        size = self.weight.shape[-1]
        margin = self.dilation * (size // 2) if size % 2 else 0
        if self.binarize_activations:
            x = self.codes_of_input(x)
            if self.pad_value:
                x, margin = F.pad(x, (margin, margin, margin, margin), value=self.pad_value), 0
        if not self.binarize_weights:
            return F.conv2d(x, self.weight, None, self.stride, margin, self.dilation, self.groups)
        codes, scale = self.codes_and_scale()
        return scale * F.conv2d(x, codes, None, self.stride, margin, self.dilation, self.groups)
