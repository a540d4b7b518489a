"""Where cells stand and how wide everything is: one plan, used to build networks and to count them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from binas.arch.genotype import ZEROISE, Edge
from binas.arch.space import NetworkSettings
from binas.ops import OpContext


@dataclass(frozen=True)
class CellPlan:
    """One cell's place in a network.

    Args:
        index: position of the cell, from 0.
        kind: `normal` or `reduce`.
        channels: of each operation inside.
        input_channels: of the outputs of the cell before the previous one, and of the previous one.
        first_input_stride: 2 where the previous cell, or the last layer of an ImageNet stem, halved the
            size, so that both inputs agree.
    """

    index: int
    kind: str
    channels: int
    input_channels: tuple[int, int]
    first_input_stride: int

    @property
    def stride(self) -> int:
        """Of the operations that read the cell's inputs."""
        return 2 if self.kind == "reduce" else 1


def plan_cells(settings: NetworkSettings, num_nodes: int) -> list[CellPlan]:
    """The cells of a network, in order."""
    reductions = settings.reduction_positions()
    channels = settings.init_channels
    before = previous = settings.stem_channels
    plans = []
    after_reduction = settings.stem == "imagenet"  # the stem's two outputs differ in size
    for index in range(settings.num_cells):
        kind = "reduce" if index in reductions else "normal"
        channels *= 2 if kind == "reduce" else 1
        width = channels if settings.widths is None else max(1, round(channels * settings.widths[index]))
        plans.append(CellPlan(index, kind, width, (before, previous), 2 if after_reduction else 1))
        before, previous = previous, num_nodes * width
        after_reduction = kind == "reduce"
    return plans


EdgeOperations = dict[tuple[int, int], tuple[str, ...]]
"""What sits on the edges of a cell: (node, source) -> names of operations, zeroise left out."""


def edge_operations(edges: Iterable[Edge]) -> EdgeOperations:
    """The operations that a cell runs for these edges, sources ascending within a node."""
    live = sorted(edge for edge in edges if edge.op != ZEROISE)
    return {(edge.node, edge.source): (edge.op,) for edge in live}


EdgeChoices = Mapping[tuple[int, int], Edge]
"""Edges with an activation or an estimator of their own, by (node, source)."""


def edge_choices(edges: Iterable[Edge]) -> EdgeChoices:
    """Those edges for which something was chosen beside the operation."""
    return {(edge.node, edge.source): edge for edge in edges if edge.has_choices}


def chosen_context(context: OpContext, choice: Edge | None) -> OpContext:
    """What the operation of an edge is told, where something was chosen for it alone."""
    return context if choice is None else context.with_choices(choice.activation, choice.estimator)


Operations = Mapping[tuple[int, int], Mapping[str, nn.Module]]
"""What a cell runs: (node, source) -> modules by the name of their operation."""


def edge_row(node: int, source: int) -> int:
    """The row of an edge among those of `cell_edges`."""
    return node * (node - 1) // 2 - 1 + source
