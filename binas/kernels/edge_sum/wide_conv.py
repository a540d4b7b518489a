"""A convolution from one node to several target nodes, as one wider convolution.

Legend: n images, T target nodes, C channels, H×W pixels of the output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from binas.kernels.edge_sum.integer_conv import IntegerConv
from binas.kernels.layouts.channels_last import channels_last, write_channels_first
from binas.kernels.sum_tables.sum_tables import TableGeometry


@dataclass(frozen=True)
class WideConv:
    """A convolution from one node to several: its kernels are those of its targets, one after another.

    Args:
        targets: positions of the target nodes.
        stride, padding, dilation, groups: of the convolution of a single edge.
        integer: whether its sums are integers, so that 16 bits may hold them exactly.
    """

    targets: tuple[int, ...]
    stride: int
    padding: int
    dilation: int
    groups: int
    integer: bool

    def kernel(self, weight: Tensor) -> Tensor:
        """(T·C, …) ordered by target -> by group and target, as a wide grouped convolution wants it."""
        if self.groups == 1:
            return weight
        shape = (len(self.targets), self.groups, -1, *weight.shape[1:])
        return weight.reshape(shape).transpose(0, 1).reshape(weight.shape)

    def unordered(self, gradient: Tensor) -> Tensor:
        """The inverse of `kernel`."""
        if self.groups == 1:
            return gradient
        shape = (self.groups, len(self.targets), -1, *gradient.shape[1:])
        return gradient.reshape(shape).transpose(0, 1).reshape(gradient.shape)

    def write_target(self, y: Tensor, position: int, out: Tensor, is_new: bool) -> None:
        """Writes (or adds) the part of a wide output (n, T·C, H, W) for one target to (n, C, H, W)."""
        n, _, height, width = y.shape
        parts = y.view(n, self.groups, len(self.targets), -1, height, width)[:, :, position]
        if self.groups == 1 and is_new:
            write_channels_first(parts[:, 0], out)
        elif is_new:
            out.view(n, self.groups, -1, height, width).copy_(parts)
        else:
            out.view(n, self.groups, -1, height, width).add_(parts)

    def wide(self, outs: Sequence[Tensor]) -> Tensor:
        """What targets got, side by side as in a wide output, channels last."""
        n, _, height, width = outs[0].shape
        parts = [outs[target].view(n, self.groups, -1, height, width) for target in self.targets]
        stacked = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
        return channels_last(stacked.flatten(1, 2))

    def rectified(self, kernel: Tensor, x: Tensor, block_size: int) -> Callable[[Tensor], Tensor]:
        """relu of the wide convolution, channels last, as a function of a block of x; bytes mean ±1 by ±1."""
        if x.dtype == torch.uint8:
            shape = [min(block_size, len(x)), *x.shape[1:]]
            return IntegerConv(kernel, self.stride, self.padding, self.dilation, self.groups, shape)

        def convolve(block: Tensor) -> Tensor:
            y = F.conv2d(block, kernel, None, self.stride, self.padding, self.dilation, self.groups)
            return y.contiguous(memory_format=torch.channels_last).relu_()

        return convolve

    def gradients(self, gradient: Tensor, x: Tensor, kernel: Tensor, wanted: Sequence[bool]) -> Any:
        """Its gradients by input and kernel, as far as they are wanted."""
        both = torch.ops.aten.convolution_backward(
            gradient,
            x,
            kernel,
            None,
            [self.stride] * 2,
            [self.padding] * 2,
            [self.dilation] * 2,
            False,
            [0, 0],
            self.groups,
            [*wanted, False],
        )
        return both[0], both[1]

    def geometry(self, x: Tensor, kernel: Tensor, margin: int) -> TableGeometry:
        """What tables of sums need to know of it."""
        return TableGeometry(
            kernel.shape[-1],
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            (x.shape[0], x.shape[1], x.shape[2], x.shape[3]),
            len(kernel),
            margin,
        )

    @property
    def layout(self) -> tuple[object, ...]:
        """Convolutions of equal layout add into one wide output."""
        return self.targets, self.groups
