"""What leaves one node of a supernet, computed together: the fast path of a search.

The convolutions of one kind to several target nodes are one wider convolution, and scale, ReLU and the
weighted sum over operations follow at once, block by block, while the numbers are in the cache. Only
what the gradient needs is kept: a mask of one byte a number where weights are trained, the rectified
sums (as 16-bit numbers where these are exact) where only edge weights are.

Legend: N images, T target nodes, C channels, H×W pixels of the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK_ELEMENTS = 1 << 19
"""Numbers of a wide convolution's output that are worked on at a time (2 MiB of float32)."""
LARGEST_EXACT_HALF = 2048
"""Integers up to this are exact in 16-bit floating point."""


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
        """(T·C, I, k, k) ordered by target -> ordered as `groups` blocks, as a grouped convolution wants it."""
        return self._by_group(weight) if self.groups > 1 else weight

    def unordered(self, gradient: Tensor) -> Tensor:
        """The inverse of `kernel`."""
        if self.groups == 1:
            return gradient
        shape = (self.groups, len(self.targets), -1, *gradient.shape[1:])
        return gradient.reshape(shape).transpose(0, 1).reshape(gradient.shape)

    def _by_group(self, values: Tensor) -> Tensor:
        shape = (len(self.targets), self.groups, -1, *values.shape[1:])
        return values.reshape(shape).transpose(0, 1).reshape(values.shape)

    def of_target(self, y: Tensor, position: int) -> Tensor:
        """The part of a wide output (n, T·C, H, W) that is for one target, as a view (n, g, C/g, H, W)."""
        n, _, height, width = y.shape
        return y.view(n, self.groups, len(self.targets), -1, height, width)[:, :, position]

    def like_target(self, x: Tensor) -> Tensor:
        """A target's (n, C, H, W) as a view (n, g, C/g, H, W)."""
        n, _, height, width = x.shape
        return x.view(n, self.groups, -1, height, width)

    def convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        """The wide convolution."""
        return F.conv2d(x, kernel, None, self.stride, self.padding, self.dilation, self.groups)

    def gradients(self, gradient: Tensor, x: Tensor, kernel: Tensor, wanted: Sequence[bool]) -> Any:
        """Its gradients by input and kernel, as far as they are wanted."""
        both = torch.ops.aten.convolution_backward(
            gradient, x, kernel, None, [self.stride] * 2, [self.padding] * 2, [self.dilation] * 2,
            False, [0, 0], self.groups, [*wanted, False],
        )  # fmt: skip
        return both[0], both[1]


@dataclass(frozen=True)
class Plan:
    """What an edge sum consists of.

    Args:
        num_targets: T.
        convs: wide convolutions of the first input.
        shared: for each tensor that goes to several targets as it is, the positions of these.
    """

    num_targets: int
    convs: tuple[WideConv, ...]
    shared: tuple[tuple[int, ...], ...]


class _EdgeSum(torch.autograd.Function):
    """out_t = Σ_k c_kt · relu(conv_k(x))_t + Σ_j p_jt · z_j; see `edge_sum`."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        kernels, coefficients, shared, weights = _split(plan, rest)
        ctx.plan, ctx.needs = plan, ctx.needs_input_grad
        outputs = _zeros(plan, x, kernels, shared)
        for targets, z, weight in zip(plan.shared, shared, weights, strict=True):
            for position, target in enumerate(targets):
                outputs[target].addcmul_(z, weight[position])
        needs = _Needs(plan, ctx.needs)
        kept: list[Tensor] = []
        for index, (conv, kernel, coefficient) in enumerate(
            zip(plan.convs, kernels, coefficients, strict=True)
        ):
            kept.append(_forward_conv(conv, x, kernel, coefficient, outputs, needs.rectified(index)))
        ctx.save_for_backward(x, *kernels, *coefficients, *shared, *weights, *kept)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        plan: Plan = ctx.plan
        x, *saved = ctx.saved_tensors
        count = 2 * len(plan.convs) + 2 * len(plan.shared)
        kernels, coefficients, shared, weights = _split(plan, saved[:count])
        kept = saved[count:]
        needs = _Needs(plan, ctx.needs)
        outs = [gradient.contiguous() for gradient in gradients]
        by_x = torch.zeros_like(x) if needs.x and plan.convs else None
        by_kernels: list[Tensor | None] = []
        by_coefficients: list[Tensor | None] = []
        for index, conv in enumerate(plan.convs):
            found = _backward_conv(
                conv, x, kernels[index], coefficients[index], kept[index], outs, by_x,
                needs.kernel(index), needs.coefficient(index),
            )  # fmt: skip
            by_kernels.append(found[0])
            by_coefficients.append(found[1])
        by_shared, by_weights = _backward_shared(plan, shared, weights, outs, needs)
        return None, by_x, *by_kernels, *by_coefficients, *by_shared, *by_weights


@dataclass(frozen=True)
class _Needs:
    """Which inputs of an edge sum need a gradient: plan, x, kernels, coefficients, shared, weights."""

    plan: Plan
    flags: Sequence[bool]

    @property
    def x(self) -> bool:
        return self.flags[1]

    def kernel(self, index: int) -> bool:
        return self.flags[2 + index]

    def coefficient(self, index: int) -> bool:
        return self.flags[2 + len(self.plan.convs) + index]

    def shared(self, index: int) -> bool:
        return self.flags[2 + 2 * len(self.plan.convs) + index]

    def weight(self, index: int) -> bool:
        return self.flags[2 + 2 * len(self.plan.convs) + len(self.plan.shared) + index]

    def rectified(self, index: int) -> bool:
        """Whether the sums themselves are kept; with a kernel's gradient their mask is enough."""
        return self.coefficient(index) and not self.kernel(index)


def _split(plan: Plan, tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], ...]:
    convs, shared = len(plan.convs), len(plan.shared)
    ends = [convs, 2 * convs, 2 * convs + shared, 2 * convs + 2 * shared]
    starts = [0, *ends[:-1]]
    return tuple(tensors[start:end] for start, end in zip(starts, ends, strict=True))


def _zeros(plan: Plan, x: Tensor, kernels: Sequence[Tensor], shared: Sequence[Tensor]) -> list[Tensor]:
    if shared:
        shape = tuple(shared[0].shape)
    else:
        conv, kernel = plan.convs[0], kernels[0]
        reach = conv.dilation * (kernel.shape[-1] - 1) + 1
        size = [(length + 2 * conv.padding - reach) // conv.stride + 1 for length in x.shape[2:]]
        shape = (x.shape[0], kernel.shape[0] // len(conv.targets), *size)
    return [x.new_zeros(shape) for _ in range(plan.num_targets)]


def _blocks(conv: WideConv, outputs: Sequence[Tensor]) -> list[slice]:
    num_images = outputs[0].shape[0]
    each = len(conv.targets) * outputs[0][0].numel()
    # on a GPU the cache is no reason to launch more kernels
    size = num_images if outputs[0].is_cuda else max(1, BLOCK_ELEMENTS // each)
    return [slice(start, min(start + size, num_images)) for start in range(0, num_images, size)]


def _forward_conv(
    conv: WideConv, x: Tensor, kernel: Tensor, coefficient: Tensor, outputs: list[Tensor], rectified: bool
) -> Tensor:
    """Adds a wide convolution's part to the outputs; gives what its gradient needs."""
    ordered = conv.kernel(kernel)
    scales = coefficient.view(len(conv.targets), 1, conv.groups, -1, 1, 1)
    kept: Tensor | None = None
    for block in _blocks(conv, outputs):
        y = conv.convolve(x[block], ordered).relu_()
        for position, target in enumerate(conv.targets):
            part = conv.like_target(outputs[target][block])
            part.addcmul_(conv.of_target(y, position), scales[position])
        if kept is None:
            kept = y.new_empty((x.shape[0], *y.shape[1:]), dtype=_kept_dtype(conv, kernel, rectified))
        if rectified:
            kept[block] = y
        else:
            torch.gt(y, 0, out=kept[block])
    assert kept is not None
    return kept


def _kept_dtype(conv: WideConv, kernel: Tensor, rectified: bool) -> torch.dtype:
    if not rectified:
        return torch.bool
    exact = conv.integer and kernel.dtype == torch.float32 and kernel[0].numel() <= LARGEST_EXACT_HALF
    return torch.float16 if exact else kernel.dtype


def _backward_conv(
    conv: WideConv, x: Tensor, kernel: Tensor, coefficient: Tensor, kept: Tensor, outs: Sequence[Tensor],
    by_x: Tensor | None, wants_kernel: bool, wants_coefficient: bool,
) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
    """Adds to the gradient by x; gives those by kernel and by coefficient.

    With G = mask · gradient of the output, the gradient by a coefficient is Σ y·G over images and pixels,
    which equals Σ kernel · (gradient of the convolution by its kernel under G).
    """
    ordered = conv.kernel(kernel)
    scaled = conv.kernel(kernel * coefficient.view(-1, 1, 1, 1))
    by_kernel = torch.zeros_like(ordered) if wants_kernel else None
    by_coefficient = torch.zeros_like(coefficient) if wants_coefficient else None
    for block in _blocks(conv, outs):
        saved = kept[block]
        gradient = x.new_empty(saved.shape)
        mask = saved if saved.dtype == torch.bool else saved > 0
        for position, target in enumerate(conv.targets):
            torch.mul(
                conv.like_target(outs[target][block]),
                conv.of_target(mask, position),
                out=conv.of_target(gradient, position),
            )
        if by_coefficient is not None and by_kernel is None:
            products = (gradient * saved).sum(dim=(0, 2, 3)).view(conv.groups, len(conv.targets), -1)
            by_coefficient += products.transpose(0, 1).reshape(-1)
        by_input, by_weight = conv.gradients(gradient, x[block], scaled, [by_x is not None, wants_kernel])
        if by_x is not None:
            by_x[block] += by_input
        if by_kernel is not None:
            by_kernel += by_weight
    if by_kernel is None:
        return None, by_coefficient
    by_kernel = conv.unordered(by_kernel)
    if by_coefficient is not None:
        by_coefficient = (kernel * by_kernel).flatten(1).sum(dim=1)
    return by_kernel * coefficient.view(-1, 1, 1, 1), by_coefficient


def _backward_shared(
    plan: Plan, shared: Sequence[Tensor], weights: Sequence[Tensor], outs: Sequence[Tensor], needs: _Needs
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    by_shared: list[Tensor | None] = []
    by_weights: list[Tensor | None] = []
    for index, (targets, z, weight) in enumerate(zip(plan.shared, shared, weights, strict=True)):
        by_z: Tensor | None = None
        if needs.shared(index):
            by_z = outs[targets[0]] * weight[0]
            for position, target in enumerate(targets[1:], start=1):
                by_z.addcmul_(outs[target], weight[position])
        by_shared.append(by_z)
        flat = z.reshape(-1)
        by_weights.append(
            torch.stack([torch.dot(flat, outs[target].view(-1)) for target in targets])
            if needs.weight(index)
            else None
        )
    return by_shared, by_weights


def edge_sum(
    plan: Plan,
    x: Tensor,
    kernels: Sequence[Tensor],
    coefficients: Sequence[Tensor],
    shared: Sequence[Tensor],
    weights: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """The weighted sum, for every target node, of what leaves one node.

    forward   out_t = Σ_k c_kt · relu(conv_k(x))_t + Σ_j p_jt · z_j
    backward  exact, of all inputs that require it

    Args:
        plan: which convolutions and which tensors go to which targets.
        x: (N, C_in, H_in, W_in), what the convolutions read.
        kernels: of each wide convolution, (T·C, C_in/groups, k, k), target after target.
        coefficients: of each wide convolution, (T·C,): edge weight times scale of the filter, not negative
            or the ReLU would have to come after it.
        shared: tensors z_j (N, C, H, W) that go to several targets as they are.
        weights: of each of them, one for each of its targets.
    Shape: T tensors (N, C, H, W).
    """
    return _EdgeSum.apply(plan, x, *kernels, *coefficients, *shared, *weights)  # type: ignore[no-any-return,no-untyped-call]
