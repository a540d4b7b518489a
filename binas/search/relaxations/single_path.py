"""One operation drawn for each edge, with a straight-through gradient.

Legend: E edges of a cell in the order of `cell_edges`, O operations in the order of the space.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from binas.arch.alphas import Alphas
from binas.search.relaxations.base import EdgeMix, Relaxation, register_relaxation


@register_relaxation("single_path")
class SinglePath(Relaxation):
    """One operation of each edge is run, drawn with its probability; see `single_path`."""

    def edge_weights(
        self, alphas: Alphas, temperatures: Mapping[str, float | Tensor], generator: torch.Generator
    ) -> EdgeMix:
        """See `single_path`."""
        probabilities = alphas.probabilities(temperatures)
        return single_path(probabilities, draw_paths(probabilities, generator))


def draw_paths(probabilities: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, list[int]]:
    """For each cell kind one operation for each edge, drawn with its probability.

    Args:
        generator: of the CPU, so that every device draws the same.
    """
    return {
        kind: torch.multinomial(rows.detach().cpu(), 1, generator=generator).squeeze(1).tolist()
        for kind, rows in probabilities.items()
    }


def single_path(probabilities: Mapping[str, Tensor], paths: Mapping[str, list[int]]) -> EdgeMix:
    """Only the drawn operation of each edge, with a straight-through gradient.

    forward   w = 1 for the drawn operation k of an edge, 0 for the others, which are not run
    backward  dw_k/dα = (1/p_k) · dp_k/dα; the others pass nothing on

    The factor 1/p_k makes up for k being drawn only so often: averaged over draws, the gradient of α is
    Σ_k dp_k/dα · ⟨dL/d output, output of k⟩, with all operations that the softmax relaxation has in it,
    each at its own drawn network; it is unbiased where the loss is linear in an edge's output.

    Args:
        probabilities: for each cell kind (E, O).
        paths: from `draw_paths`.
    Reference: Dong and Yang, GDAS, arXiv:1910.04465, eq. 5-7 (one operation run on each edge, gradient
        straight through the one-hot vector); Guo et al., SPOS, arXiv:1904.00420 (weights trained on single
        paths).
    Deviation: GDAS draws by Gumbel noise and differentiates the disturbed softmax, without the factor; here
        the draw is the same (argmax of Gumbel-disturbed logits is distributed as p), the derivative that of
        log p_k. SPOS draws uniformly; here too while alphas are equal, as in a warm-up.
    """
    weights = {}
    for kind, rows in probabilities.items():
        columns = torch.tensor(paths[kind], device=rows.device)[:, None]
        drawn = rows.gather(1, columns)
        # 0·log p of an operation that is gone would be no number, so ones are scattered, not multiplied
        weights[kind] = torch.zeros_like(rows).scatter(1, columns, drawn / drawn.detach())
    return EdgeMix(weights, paths, probabilities)
