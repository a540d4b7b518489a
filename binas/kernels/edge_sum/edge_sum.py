"""What leaves one node of a supernet, computed together: the fast path of a search.

The convolutions of one kind to several target nodes are one wider convolution, and scale, ReLU and the
weighted sum over operations follow at once, block by block, while the numbers are in the cache. Only
what the gradient needs is kept: the rectified sums, as 16-bit numbers where these are exact; else a mask
of one byte a number where weights are trained, and the sums where only edge weights are.

Legend: N images, T target nodes, C channels, H×W pixels of the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from binas.kernels.edge_sum.integer_conv import as_levels, is_available
from binas.kernels.edge_sum.wide_conv import WideConv
from binas.kernels.edge_sum.wide_forward import WideForward, blocks_of, run_layout
from binas.kernels.layouts.channels_last import channels_first, channels_last
from binas.kernels.sum_tables.sum_tables import InputGradient, KernelGradient, Masks, Rows, product_sums
from binas.kernels.threads import Team

LARGEST_EXACT_HALF = 2048
"""Integers up to this are exact in 16-bit floating point."""


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
        needs = _Needs(plan, ctx.needs)
        masks = _masks(plan, x, kernels, needs)
        with Team() as team:
            outputs, kept = _run_convs(plan, x, kernels, coefficients, masks, needs, team)
        ctx.masks = masks
        for targets, z, weight in zip(plan.shared, shared, weights, strict=True):
            for position, target in enumerate(targets):
                before = outputs[target]
                part = z * weight[position]
                outputs[target] = part if before is None else before.add_(part)
        ctx.save_for_backward(x, *kernels, *coefficients, *shared, *weights, *kept)
        return tuple(output for output in outputs if output is not None)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        plan: Plan = ctx.plan
        x, *saved = ctx.saved_tensors
        count = 2 * len(plan.convs) + 2 * len(plan.shared)
        kernels, coefficients, shared, weights = _split(plan, saved[:count])
        kept = saved[count:]
        needs = _Needs(plan, ctx.needs)
        outs = [channels_first(gradient) for gradient in gradients]
        with Team() as team:
            by_x, by_kernels, by_coefficients = _backward_convs(
                _Backward(plan, x, kernels, coefficients, kept, ctx.masks, outs, needs, team)
            )
        ctx.masks = None
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
        """Whether the sums themselves are needed; with a kernel's gradient their mask is enough."""
        return self.coefficient(index) and not self.kernel(index)


def _split(plan: Plan, tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], ...]:
    convs, shared = len(plan.convs), len(plan.shared)
    ends = [convs, 2 * convs, 2 * convs + shared, 2 * convs + 2 * shared]
    starts = [0, *ends[:-1]]
    return tuple(tensors[start:end] for start, end in zip(starts, ends, strict=True))


def _masks(plan: Plan, x: Tensor, kernels: Sequence[Tensor], needs: _Needs) -> list[Masks | None]:
    """For each convolution whose gradients tables of sums give: where their masks go."""
    margin = max((conv.padding for conv in plan.convs), default=0)
    masks: list[Masks | None] = []
    for index, (conv, kernel) in enumerate(zip(plan.convs, kernels, strict=True)):
        geometry = conv.geometry(x, kernel, margin)
        usable = conv.integer and x.dtype == torch.float32 and not x.is_cuda and geometry.pays()
        wanted = any((needs.x, needs.kernel(index), needs.coefficient(index)))
        masks.append(Masks(geometry, needs.rectified(index)) if usable and wanted else None)
    return masks


def _run_convs(
    plan: Plan,
    x: Tensor,
    kernels: Sequence[Tensor],
    coefficients: Sequence[Tensor],
    masks: Sequence[Masks | None],
    needs: _Needs,
    team: Team,
) -> tuple[list[Tensor | None], list[Tensor]]:
    """What the convolutions give to each target, and what their gradients need."""
    outputs: list[Tensor | None] = [None] * plan.num_targets
    kept = [torch.empty(0)] * len(plan.convs)
    levels: Tensor | None = None
    last = channels_last(x) if plan.convs else x
    layouts: dict[tuple[object, ...], list[WideForward]] = {}
    for index, (conv, kernel, coefficient) in enumerate(zip(plan.convs, kernels, coefficients, strict=True)):
        reads = last
        if conv.integer and x.dtype == torch.float32 and not x.is_cuda and is_available():
            reads = levels = as_levels(last) if levels is None else levels
        dtype = None if masks[index] else _kept_dtype(conv, kernel, needs.rectified(index))
        forward = WideForward(index, conv, reads, kernel, coefficient, dtype, masks[index])
        layouts.setdefault(conv.layout, []).append(forward)
    for forwards in layouts.values():
        run_layout(forwards, outputs, kept, team)
    return outputs, kept


def _kept_dtype(conv: WideConv, kernel: Tensor, rectified: bool) -> torch.dtype:
    exact = conv.integer and kernel.dtype == torch.float32 and kernel[0].numel() <= LARGEST_EXACT_HALF
    if exact:
        return torch.float16
    return kernel.dtype if rectified else torch.bool


@dataclass
class _Backward:
    """What the gradients of an edge sum's convolutions are made from."""

    plan: Plan
    x: Tensor
    kernels: Sequence[Tensor]
    coefficients: Sequence[Tensor]
    kept: Sequence[Tensor]
    masks: Sequence[Masks | None]
    outs: Sequence[Tensor]
    needs: _Needs
    team: Team

    @property
    def margin(self) -> int:
        return max((masks.geometry.margin for masks in self.masks if masks), default=0)

    @cached_property
    def input_gradient(self) -> InputGradient:
        return InputGradient(self.x.shape, self.margin, self.team)

    @cached_property
    def kernel_gradient(self) -> KernelGradient:
        return KernelGradient(self.x, self.margin, self.team)


def _backward_convs(
    backward: _Backward,
) -> tuple[Tensor | None, list[Tensor | None], list[Tensor | None]]:
    plan, needs = backward.plan, backward.needs
    by_x: Tensor | None = None
    last: Tensor | None = None
    wide: dict[tuple[object, ...], Tensor] = {}
    rows: dict[tuple[object, ...], Rows] = {}
    by_kernels: list[Tensor | None] = []
    by_coefficients: list[Tensor | None] = []
    for index, conv in enumerate(plan.convs):
        if backward.masks[index] is not None:
            if conv.layout not in rows:
                outs = [backward.outs[target] for target in conv.targets]
                rows[conv.layout] = Rows(outs, conv.groups, backward.team)
            by_kernel, by_coefficient = _backward_by_tables(backward, index, rows[conv.layout])
        else:
            if last is None:
                last = channels_last(backward.x)
                by_x = torch.zeros_like(last) if needs.x else None
            if conv.layout not in wide:
                wide[conv.layout] = conv.wide(backward.outs)
            by_kernel, by_coefficient = _backward_conv(
                conv,
                last,
                backward.kernels[index],
                backward.coefficients[index],
                backward.kept[index],
                wide[conv.layout],
                by_x,
                needs.kernel(index),
                needs.coefficient(index),
            )
        by_kernels.append(by_kernel)
        by_coefficients.append(by_coefficient)
    if needs.x and any(backward.masks):
        by_tables = backward.input_gradient.result()
        by_x = by_tables if by_x is None else by_x.add_(by_tables)
    return by_x, by_kernels, by_coefficients


def _backward_by_tables(backward: _Backward, index: int, rows: Rows) -> tuple[Tensor | None, Tensor | None]:
    """As `_backward_conv`, by tables of sums."""
    conv, kernel = backward.plan.convs[index], backward.kernels[index]
    coefficient, masks, needs = backward.coefficients[index], backward.masks[index], backward.needs
    assert masks is not None
    if needs.x:
        ordered = conv.kernel(kernel), conv.kernel(coefficient)
        backward.input_gradient.add(masks.geometry, *ordered, masks, rows)
    if not needs.kernel(index):
        if not needs.coefficient(index):
            return None, None
        return None, conv.unordered(product_sums(masks, rows, backward.team))
    unscaled = backward.kernel_gradient.of(masks.geometry, masks, rows)
    by_kernel = conv.unordered(unscaled)
    by_coefficient = (kernel * by_kernel).flatten(1).sum(dim=1) if needs.coefficient(index) else None
    return by_kernel * coefficient.view(-1, 1, 1, 1), by_coefficient


def _backward_conv(
    conv: WideConv,
    x: Tensor,
    kernel: Tensor,
    coefficient: Tensor,
    kept: Tensor,
    out: Tensor,
    by_x: Tensor | None,
    wants_kernel: bool,
    wants_coefficient: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Adds to the gradient by x; gives those by kernel and by coefficient.

    With G = [y > 0] · gradient of the output, the gradient by a coefficient is Σ y·G over images and
    pixels, which equals Σ kernel · (gradient of the convolution by its kernel under G).
    """
    scaled = conv.kernel(kernel * coefficient.view(-1, 1, 1, 1))
    by_kernel = torch.zeros_like(scaled) if wants_kernel else None
    by_coefficient = torch.zeros_like(coefficient) if wants_coefficient else None
    for block in blocks_of(len(out), out[0].numel(), x.is_cuda):
        saved = kept[block]
        y = saved.to(out.dtype)
        gradient = torch.ops.aten.threshold_backward(out[block], y, 0)
        if by_coefficient is not None and by_kernel is None:
            by_coefficient += (gradient * y).sum(dim=(0, 2, 3))
        by_input, by_weight = conv.gradients(gradient, x[block], scaled, [by_x is not None, wants_kernel])
        if by_x is not None:
            by_x[block] += by_input
        if by_kernel is not None:
            by_kernel += by_weight
    if by_kernel is None:
        return None, None if by_coefficient is None else conv.unordered(by_coefficient)
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
    return _EdgeSum.apply(plan, x, *kernels, *coefficients, *shared, *weights)  # type: ignore[no-any-return]
