"""Binary convolutions as candidate operations: dense, dilated, grouped, both, and separable."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from binas.binarize import BinaryConv2d
from binas.ops.contract import OpContext, OpFactory, register_op
from binas.ops.gating import ChannelGate
from binas.ops.nonlinearities import build_nonlinearity


class PreActivation(nn.Module):
    """Base of operations whose input is batch-normalised first: by the cell, or by themselves.

    A batch-norm without affine parameters is the same for all operations that read one node, so the cell
    computes it once and hands it over; with affine parameters each operation owns its own.
    """

    takes_normalized_input: ClassVar[bool] = True

    def __init__(self, channels: int, context: OpContext) -> None:
        super().__init__()
        self.norm: nn.Module = (
            nn.Identity()
            if context.normalized_input
            else nn.BatchNorm2d(channels, affine=context.batch_norm_affine)
        )


class BinaryConv(PreActivation):
    """Batch-norm, binarize, binary convolution, gate, activation: the order of every binary operation.

    The channel gate is there where the space has `gating`.

    Args:
        channels: of input and output.
        stride: 1 or 2.
        context: see `OpContext`.
        kernel_size: side of the kernel in pixels.
        dilation: distance of the kernel's pixels.
        groups: of the convolution.
    Shape: (N, C, H, W) -> (N, C, ceil(H/stride), ceil(W/stride)).
    """

    def __init__(
        self, channels: int, stride: int, context: OpContext, kernel_size: int, dilation: int, groups: int
    ) -> None:
        super().__init__(channels, context)
        self.conv = BinaryConv2d(
            channels,
            channels,
            kernel_size,
            stride=stride,
            padding=dilation * (kernel_size - 1) // 2,
            dilation=dilation,
            groups=groups,
            binarizations=context.binarizations,
        )
        gating = context.gating
        self.gating = None if gating is None else ChannelGate(channels, channels, gating.reduction)
        shuffles = context.channel_shuffle and groups > 1
        self.shuffle: nn.Module = nn.ChannelShuffle(groups) if shuffles else nn.Identity()
        self.activation = build_nonlinearity(context.activation, channels)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.norm(x)
        y = self.conv(x)
        y = y if self.gating is None else self.gating(y, x)
        return self.activation(self.shuffle(y))  # type: ignore[no-any-return]


class BinarySeparableConv(nn.Module):
    """A depthwise and a pointwise binary convolution, twice: a control that is known to be bad.

    Each depthwise sum has only k² terms, so binarization loses most of it (BATS, sec. 4.1).

    Shape: as `BinaryConv`.
    Reference: Liu et al., DARTS, arXiv:1806.09055, binarized; Bulat et al., BATS, arXiv:2003.01711.
    """

    takes_normalized_input: ClassVar[bool] = True

    def __init__(self, channels: int, stride: int, context: OpContext, kernel_size: int) -> None:
        super().__init__()
        alone = context.without_normalized_input()
        self.depthwise = BinaryConv(channels, stride, context, kernel_size, 1, channels)
        self.pointwise = BinaryConv(channels, 1, alone, 1, 1, 1)
        self.second_depthwise = BinaryConv(channels, 1, alone, kernel_size, 1, channels)
        self.second_pointwise = BinaryConv(channels, 1, alone, 1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.pointwise(self.depthwise(x))
        return self.second_pointwise(self.second_depthwise(x))  # type: ignore[no-any-return]


def _register_conv(kernel_size: int, dilation: int, grouped: bool) -> OpFactory:
    """Registers and gives one of the four kinds of convolution of a kernel size."""
    words = ["binary", *(["dilated"] if dilation > 1 else []), *(["group"] if grouped else [])]
    name = f"{'_'.join(words)}_conv_{kernel_size}x{kernel_size}"

    def factory(channels: int, stride: int, context: OpContext) -> nn.Module:
        groups = context.num_groups(channels) if grouped else 1
        return BinaryConv(channels, stride, context, kernel_size, dilation, groups)

    spread = f", dilation {dilation}" if dilation > 1 else ""
    groups = ", in groups of channels" if grouped else ""
    factory.__doc__ = (
        f"Batch-norm, binarize, {kernel_size}×{kernel_size} binary convolution{spread}{groups}, activation."
    )
    return register_op(name, kind="binary")(factory)


CONVOLUTIONS = {
    (kernel_size, dilation, grouped): _register_conv(kernel_size, dilation, grouped)
    for kernel_size in (3, 5)
    for dilation in (1, 2)
    for grouped in (False, True)
}
"""The registered convolutions by kernel size, dilation and whether they have groups."""


@register_op("binary_separable_conv_3x3", kind="binary")
def binary_separable_conv_3x3(channels: int, stride: int, context: OpContext) -> nn.Module:
    """Depthwise 3×3 and pointwise binary convolution, twice (a control, known to be bad)."""
    return BinarySeparableConv(channels, stride, context, 3)


@register_op("binary_separable_conv_5x5", kind="binary")
def binary_separable_conv_5x5(channels: int, stride: int, context: OpContext) -> nn.Module:
    """Depthwise 5×5 and pointwise binary convolution, twice (a control, known to be bad)."""
    return BinarySeparableConv(channels, stride, context, 5)
