"""From probabilities to a genotype: a pure function of probabilities and the rules of the space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from binas.arch.genotype import CELL_KINDS, ZEROISE, Edge, Genotype, cell_edges
from binas.arch.space import SearchSpace
from binas.plugins import PluginRecord


def discretize_cell(
    probabilities: Sequence[Sequence[float]], space: SearchSpace, kind: str
) -> tuple[Edge, ...]:
    """The edges that a cell keeps.

    On each edge the most probable operation is chosen; each node keeps the `edges_per_node` edges whose
    chosen operations are the most probable. The zeroise policy applies to both; ties go to the operation
    and the source that come first. Where a normal cell would have more than `max_skips` skips, the least
    probable skips give way to the next best operation of their edge, and the ranking is done again.

    Args:
        probabilities: (E, O) of one cell kind.
    """
    scores = _scores(probabilities, space)
    edges = _strongest(scores, space)
    limit = space.max_skips if kind == "normal" else None
    if limit is None:
        return edges
    skips = space.skips()
    order = {pair: row for row, pair in enumerate(cell_edges(space.num_nodes))}
    while len(kept := [edge for edge in edges if edge.op in skips]) > limit:
        rows = [(order[edge.node, edge.source], edge.op) for edge in kept]
        row, op = min(rows, key=lambda place: scores[place[0]][place[1]])
        del scores[row][op]
        edges = _strongest(scores, space)
    return edges


def discretize(
    probabilities: Mapping[str, Tensor], space: SearchSpace, plugins: tuple[PluginRecord, ...] = ()
) -> Genotype:
    """The genotype of the probabilities of both cell kinds, see `discretize_cell`."""
    cells = {kind: discretize_cell(probabilities[kind].tolist(), space, kind) for kind in CELL_KINDS}
    return genotype_of(cells, space, plugins)


def genotype_of(
    cells: Mapping[str, Sequence[Edge]], space: SearchSpace, plugins: tuple[PluginRecord, ...] = ()
) -> Genotype:
    """A genotype of these cells that carries its space, and the plug-ins of its operations."""
    return Genotype(
        space=space.model_dump(mode="json"),
        num_nodes=space.num_nodes,
        edges_per_node=space.edges_per_node,
        normal=tuple(cells["normal"]),
        reduce=tuple(cells["reduce"]),
        plugins=plugins,
    )


def one_hot(genotype: Genotype, space: SearchSpace) -> dict[str, Tensor]:
    """Edge weights (E, O) under which a supernet computes what the genotype's network computes."""
    pruned = genotype.pruned()
    weights = {}
    for kind in CELL_KINDS:
        rows = {pair: row for row, pair in enumerate(cell_edges(space.num_nodes))}
        weights[kind] = torch.zeros(len(rows), len(space.operations))
        for edge in pruned.cell(kind):
            if edge.op != ZEROISE:
                weights[kind][rows[edge.node, edge.source], space.operations.index(edge.op)] = 1.0
    return weights


def _scores(probabilities: Sequence[Sequence[float]], space: SearchSpace) -> list[dict[str, float]]:
    rule = space.zeroise
    scores = []
    for row in probabilities:
        edge = dict(zip(space.operations, row, strict=True))
        if ZEROISE in edge and rule.policy == "drop":
            del edge[ZEROISE]  # as if it had been removed
        elif ZEROISE in edge and rule.policy == "discount":
            edge[ZEROISE] /= rule.gamma
        scores.append({name: score for name, score in edge.items() if score > 0})
    return scores


def _strongest(scores: Sequence[Mapping[str, float]], space: SearchSpace) -> tuple[Edge, ...]:
    chosen: dict[int, list[tuple[float, Edge]]] = {}
    for (node, source), edge_scores in zip(cell_edges(space.num_nodes), scores, strict=True):
        # max() and sorted() keep the first of equals, which is what breaks ties
        op = max(edge_scores, key=lambda name: edge_scores[name], default=ZEROISE)
        chosen.setdefault(node, []).append((edge_scores.get(op, 0.0), Edge(node, source, op)))
    kept: list[Edge] = []
    for candidates in chosen.values():
        best = sorted(candidates, key=lambda candidate: -candidate[0])[: space.edges_per_node]
        kept += sorted(edge for _, edge in best)
    return tuple(kept)
