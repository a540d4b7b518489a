"""The edges of a supernet's cell, computed node by node instead of one by one.

Edges that leave one node share its batch-norm, its binarization and its pools; their convolutions of one
kind become one wider convolution (`binas.kernels.edge_sum`). Modules keep their own parameters: kernels are
put side by side for each pass. What cannot share runs by itself, beside the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binas.arch.cell_plan import Operations, edge_row
from binas.binarize import BinaryConv2d
from binas.binarize.exact import outside_autocast
from binas.kernels.edge_sum.edge_sum import Plan, edge_sum
from binas.kernels.edge_sum.wide_conv import WideConv
from binas.kernels.layouts.images_last import images_first
from binas.ops.convolutions import BinaryConv


def nodes(
    operations: Operations,
    norms: Mapping[int, nn.Module],
    inputs: Sequence[Tensor | None],
    num_nodes: int,
    edge_weights: Tensor,
    columns: Mapping[str, int],
) -> list[Tensor | None] | None:
    """The nodes of a supernet's cell, computed source by source; None where nothing can be shared.

    That is where no operation is known here, or where a hook watches one: it would not be called.

    Args:
        operations: what is run on each edge.
        norms: the cell's batch-norms by source.
        inputs: of the cell, None where no edge reads them.
        num_nodes: intermediate nodes.
        edge_weights: (E, O) what operations are multiplied with.
        columns: of each operation in the edge weights.
    """
    last = 2 + num_nodes
    sources = [(source, list(range(max(2, source + 1), last))) for source in range(last - 1)]
    groups_of = [_groups(operations, columns, source, targets) for source, targets in sources]
    every = [group for groups in groups_of for group in groups]
    if any(group.is_watched for group in every) or not any(group.shares_work for group in every):
        return None
    order = [edge_row(node, source) for source, targets in sources for node in targets]
    rows = edge_weights.unbind()  # a list as an index would be copied to the device, which waits for it
    blocks = torch.split(torch.stack([rows[row] for row in order]), [len(targets) for _, targets in sources])
    totals: dict[int, Tensor] = {}
    binarize_together(every)
    states = [None if x is None else images_first(x) for x in inputs]
    for (source, targets), leaving, groups in zip(sources, blocks, groups_of, strict=True):
        x = states[source] if source < 2 else totals.get(source)
        if x is None or not groups:
            continue
        edges = NodeEdges(x, norms.get(source), leaving.unbind(1), len(targets))
        for node, y in zip(targets, edges.contributions(groups), strict=True):
            if y is not None:
                totals[node] = _plus(totals.get(node), y)
    return [totals.get(node) for node in range(2, last)]


def _groups(
    operations: Operations, columns: Mapping[str, int], source: int, targets: Sequence[int]
) -> list[Group]:
    groups: dict[str, Group] = {}
    for target, node in enumerate(targets):
        for name, module in operations.get((node, source), {}).items():
            group = groups.setdefault(name, Group(columns[name]))
            group.targets.append(target)
            group.modules.append(module)
    return list(groups.values())


@dataclass
class Group:
    """The modules of one operation on the edges that leave one node.

    Args:
        targets: positions of their target nodes, counted from the first target of the node.
        modules: one for each target.
        column: of the operation in the edge weights.
    """

    column: int
    targets: list[int] = field(default_factory=list)
    modules: list[nn.Module] = field(default_factory=list)
    binarized: tuple[Tensor, Tensor] | None = None
    """Codes of all kernels, side by side, and scale of each filter, from `binarize_together`."""

    @cached_property
    def shares_convolution(self) -> bool:
        """See the function of that name."""
        return shares_convolution(self.modules)

    @property
    def shares_work(self) -> bool:
        """Whether anything is computed together for its modules."""
        first = self.modules[0]
        return isinstance(first, nn.Identity) or hasattr(first, "forward_edges") or self.shares_convolution

    @property
    def is_watched(self) -> bool:
        """Whether a hook waits for one of its modules, or for a part of one."""
        return any(
            part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
            for module in self.modules
            for part in (module, *module.children())
        )

    @property
    def convs(self) -> list[BinaryConv2d]:
        """The convolutions of its modules."""
        return [module.conv for module in self.modules if isinstance(module, BinaryConv)]

    def weights_of(self, edge_weights: Sequence[Tensor], num_targets: int) -> Tensor:
        """The edge weights of its targets (T,)."""
        column = edge_weights[self.column]
        if len(self.targets) == num_targets:
            return column
        each = column.unbind()  # a list as an index would be copied to the device, which waits for it
        return torch.stack([each[target] for target in self.targets])


def shares_convolution(modules: Sequence[nn.Module]) -> bool:
    """Whether these operations may become one wider convolution.

    They may where each is batch-norm (by the cell), binarize, convolution, ReLU; the input is binarized
    for all alike; and weights are binarized filter by filter with a scale that is not negative, so that
    it commutes with the ReLU.
    """
    plain = [module.conv for module in modules if isinstance(module, BinaryConv) and _is_plain(module)]
    return len(plain) == len(modules) and len({conv.behaviour for conv in plain}) == 1


def _is_plain(module: BinaryConv) -> bool:
    conv = module.conv
    if not (isinstance(module.norm, nn.Identity) and isinstance(module.shuffle, nn.Identity)):
        return False
    if not isinstance(module.activation, nn.ReLU) or module.gating or conv.gradient_quantizer:
        return False
    if conv.binarize_activations and not conv.activation_binarizer.same_for_all_edges:
        return False
    return not conv.binarize_weights or conv.weight_binarizer.filter_by_filter


def binarize_together(groups: Sequence[Group]) -> None:
    """Binarizes the kernels of groups that share convolutions: all of one kind in one call."""
    kinds: dict[tuple[object, ...], list[Group]] = {}
    for group in groups:
        if group.shares_convolution and group.convs[0].binarize_weights:
            first = group.convs[0]
            kinds.setdefault((first.behaviour, first.weight.shape), []).append(group)
    for alike in kinds.values():
        convs = [group.convs for group in alike]
        weights: list[Tensor] = [conv.weight for each in convs for conv in each]
        kernels = torch.cat(weights) if len(weights) > 1 else weights[0]
        ((codes, scale),) = convs[0][0].weight_binarizer(kernels)
        per_filter = codes.new_ones(len(codes)) if scale is None else scale.flatten()
        sizes = [len(each) * len(each[0].weight) for each in convs]
        for group, *binarized in zip(alike, codes.split(sizes), per_filter.split(sizes), strict=True):
            group.binarized = (binarized[0], binarized[1])


class NodeEdges:
    """What leaves one node: reads it once, gives the contribution to each of its target nodes.

    Args:
        x: the node (N, C, H, W).
        norm: the cell's batch-norm of it, or None.
        edge_weights: for each operation of the space those of the edges to all targets, (T,).
        num_targets: T.
    """

    def __init__(
        self, x: Tensor, norm: nn.Module | None, edge_weights: Sequence[Tensor], num_targets: int
    ) -> None:
        self.x, self.norm, self.edge_weights, self.num_targets = x, norm, edge_weights, num_targets
        self._normalized: Tensor | None = None
        self._codes: dict[tuple[object, ...], Tensor] = {}

    def normalized(self) -> Tensor:
        """The node after the cell's batch-norm, computed once."""
        if self._normalized is None:
            self._normalized = self.x if self.norm is None else self.norm(self.x)
        return self._normalized

    def codes(self, module: BinaryConv) -> Tensor:
        """What the convolution of an operation reads, binarized and padded once for all."""
        conv = module.conv
        if not conv.binarize_activations:
            return conv.real_input(self.normalized())
        padding = conv.padding if conv.pad_value else 0
        key = (conv.active_activation, padding, conv.pad_value)
        if key not in self._codes:
            (codes, _), *_ = conv.activation_binarizer(self.normalized())
            self._codes[key] = F.pad(codes, [padding] * 4, value=conv.pad_value) if padding else codes
        return self._codes[key]

    def contributions(self, groups: Sequence[Group]) -> list[Tensor | None]:
        """The weighted sum over operations for each target, None where nothing arrives."""
        totals: list[Tensor | None] = [None] * self.num_targets
        wide: dict[int, list[Group]] = {}
        shared: list[tuple[Group, Tensor]] = []
        inputs: dict[int, Tensor] = {}
        for group in groups:
            if group.shares_convolution:
                x = self.codes(group.modules[0])  # type: ignore[arg-type]
                inputs[id(x)] = x
                wide.setdefault(id(x), []).append(group)
                continue
            takes_normalized = getattr(group.modules[0], "takes_normalized_input", False)
            x = self.normalized() if takes_normalized and self.norm is not None else self.x
            outputs = forward_edges(group.modules, x)
            if isinstance(outputs, Tensor):
                shared.append((group, outputs))
                continue
            weights = group.weights_of(self.edge_weights, self.num_targets)
            for position, (target, y) in enumerate(zip(group.targets, outputs, strict=True)):
                totals[target] = _plus(totals[target], y * weights[position])
        for key in list(wide) or ([0] if shared else []):
            part = self._sum(wide.get(key, []), inputs.get(key, self.x), shared)
            shared = []
            for target, y in part.items():
                totals[target] = _plus(totals[target], y)
        return totals

    def _sum(
        self, wide: Sequence[Group], x: Tensor, shared: Sequence[tuple[Group, Tensor]]
    ) -> dict[int, Tensor]:
        reached = sorted({t for group in (*wide, *(g for g, _ in shared)) for t in group.targets})
        place = {target: position for position, target in enumerate(reached)}
        convs, kernels, coefficients = [], [], []
        for group in wide:
            conv, kernel, coefficient = self._wide(group, place)
            convs.append(conv)
            kernels.append(kernel)
            coefficients.append(coefficient)
        plan = Plan(
            len(reached),
            tuple(convs),
            tuple(tuple(place[target] for target in group.targets) for group, _ in shared),
        )
        weights = [group.weights_of(self.edge_weights, self.num_targets) for group, _ in shared]
        inputs = ([x], kernels, coefficients, [z for _, z in shared], weights)
        with outside_autocast(x.device.type) as widened:  # sums of ±1 decide signs
            (x,), *rest = (widened(tensors) for tensors in inputs)
            outputs = edge_sum(plan, x, *rest)
        return dict(zip(reached, outputs, strict=True))

    def _wide(self, group: Group, place: dict[int, int]) -> tuple[WideConv, Tensor, Tensor]:
        convs = group.convs
        first = convs[0]
        weights = group.weights_of(self.edge_weights, self.num_targets)[:, None]
        if first.binarize_weights:
            if group.binarized is None:
                binarize_together([group])
            assert group.binarized is not None
            kernel, per_filter = group.binarized
            coefficient = (weights * per_filter.view(len(convs), -1)).reshape(-1)
        else:
            kernel = torch.cat([conv.weight for conv in convs]) if len(convs) > 1 else first.weight
            coefficient = weights.expand(-1, first.out_channels).reshape(-1)
        padded = first.binarize_activations and first.pad_value != 0
        return (
            WideConv(
                tuple(place[target] for target in group.targets),
                first.stride,
                0 if padded else first.padding,
                first.dilation,
                first.groups,
                integer=_is_integer(first),
            ),
            kernel,
            coefficient,
        )


def _is_integer(conv: BinaryConv2d) -> bool:
    """Whether a convolution sums products of ±1 and nothing else."""
    if not (conv.binarize_activations and conv.binarize_weights) or conv.pad_value:
        return False
    both = (conv.activation_binarizer, conv.weight_binarizer)
    return all(b.levels == (-1, 1) and not b.smooth_in_training for b in both)


def forward_edges(modules: Sequence[nn.Module], x: Tensor) -> Tensor | Sequence[Tensor]:
    """The outputs of modules of one operation that read the same x: one for each, or one for all.

    An operation's class may say how they share work with a static method `forward_edges(modules, x)`,
    which gives a list, or a single tensor where all outputs are the same. It keeps no state of its own.
    """
    first = modules[0]
    if isinstance(first, nn.Identity):
        return x
    hook = getattr(type(first), "forward_edges", None)
    if hook is not None and all(type(module) is type(first) for module in modules):
        return hook(modules, x)  # type: ignore[no-any-return]
    return [module(x) for module in modules]


def _plus(total: Tensor | None, y: Tensor) -> Tensor:
    return y if total is None else total + y
