"""The supernet: every candidate operation on every edge, mixed by edge weights that live outside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from binas.arch.cell_plan import EdgeOperations
from binas.arch.genotype import CELL_KINDS, ZEROISE, cell_edges
from binas.arch.space import NetworkSettings, SearchSpace
from binas.arch.trunk import Trunk

Candidates = dict[str, list[list[str]]]
"""For each cell kind and each edge, in the order of `cell_edges`, the operations that are left."""


def all_candidates(space: SearchSpace) -> Candidates:
    """Every operation on every edge: where a search begins."""
    edges = cell_edges(space.num_nodes)
    return {kind: [list(space.operations) for _ in edges] for kind in CELL_KINDS}


class Supernet(Trunk):
    """A network with all operations that are left on each edge; zeroise has no module.

    Args:
        space: the search space.
        candidates: the operations left on each edge; None means all.
        settings: None means `space.supernet`.
        in_channels, num_classes: of the data.
    Shape: (N, in_channels, H, W) -> (N, num_classes).
    """

    def __init__(
        self,
        space: SearchSpace,
        in_channels: int,
        num_classes: int,
        *,
        candidates: Candidates | None = None,
        settings: NetworkSettings | None = None,
    ) -> None:
        self_candidates = candidates or all_candidates(space)
        edges = {kind: _runnable(space, self_candidates[kind]) for kind in CELL_KINDS}
        super().__init__(space, settings or space.supernet, edges, in_channels, num_classes)
        self.candidates = self_candidates

    def forward(
        self,
        x: Tensor,
        edge_weights: Mapping[str, Tensor],
        paths: Mapping[str, Sequence[int]] | None = None,
    ) -> Tensor:
        """The logits.

        Args:
            x: (N, in_channels, H, W) normalised images.
            edge_weights: for each cell kind an (E, O) tensor; edges as in `cell_edges`, operations as in
                the space.
            paths: for each cell kind the column of the only operation that is run on each edge; None runs
                all that are left.
        """
        return self.run(x, edge_weights, paths=paths)


def _runnable(space: SearchSpace, candidates: list[list[str]]) -> EdgeOperations:
    return {
        edge: tuple(name for name in names if name != ZEROISE)
        for edge, names in zip(cell_edges(space.num_nodes), candidates, strict=True)
    }
