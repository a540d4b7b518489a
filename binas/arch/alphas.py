"""The architecture parameters, and how they become probabilities.

Legend: E edges of a cell in the order of `cell_edges`, O operations in the order of the space.
Alphas live outside the supernet, so that no optimizer of weights can touch them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from binas.arch.genotype import CELL_KINDS
from binas.arch.space import SearchSpace
from binas.arch.supernet import Candidates

INITIAL_DEVIATION = 1e-3
"""Standard deviation of fresh alphas (DARTS, BNAS)."""


class Alphas(nn.Module):
    """One (E, O) tensor per cell kind, and a mask of the operations that are left.

    Args:
        space: the search space.
        candidates: the operations left on each edge.
        generator: of the initial values.
    """

    def __init__(
        self, space: SearchSpace, candidates: Candidates, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        for kind in CELL_KINDS:
            shape = (len(candidates[kind]), len(space.operations))
            values = INITIAL_DEVIATION * torch.randn(shape, generator=generator)
            self.register_parameter(kind, nn.Parameter(values))
            live = [[name in names for name in space.operations] for names in candidates[kind]]
            self.register_buffer(f"{kind}_live", torch.tensor(live), persistent=False)

    def live(self, kind: str) -> Tensor:
        """(E, O) whether an operation is left on an edge."""
        return self.get_buffer(f"{kind}_live")

    def probabilities(self, temperatures: Mapping[str, float | Tensor]) -> dict[str, Tensor]:
        """softmax(alpha / T) over the operations left on each edge, for each cell kind (E, O)."""
        return {
            kind: torch.softmax(
                (self.get_parameter(kind) / temperatures[kind]).masked_fill(~self.live(kind), float("-inf")),
                dim=1,
            )
            for kind in CELL_KINDS
        }


def mean_entropy(probabilities: Mapping[str, Tensor]) -> Tensor:
    """The mean over all edges of all cell kinds of the entropy in nats of an edge's probabilities.

    Reference: Kim et al., BNAS, arXiv:2002.06963, eq. 5.
    Deviation: the released code sums one edge of the reduction cell fourteen times; here every edge
        counts once.
    """
    rows = torch.cat([probabilities[kind] for kind in CELL_KINDS])
    # the clamp keeps the gradient of p·log p finite at the p = 0 of operations that are gone
    logs = rows.clamp_min(torch.finfo(rows.dtype).tiny).log()
    return -(rows * logs).sum(dim=1).mean()
