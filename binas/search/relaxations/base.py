"""What a relaxation is: the way from alphas to what the operations of a supernet are mixed with.

Legend: E edges of a cell in the order of `cell_edges`, O operations in the order of the space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from binas.arch.alphas import Alphas
from binas.search.parts import RELAXATIONS

register_relaxation = RELAXATIONS.register


@dataclass(frozen=True)
class EdgeMix:
    """What a supernet is given.

    Args:
        edge_weights: for each cell kind the (E, O) edge weights.
        paths: for each cell kind the column of the only operation to run on each edge; None: all run.
        probabilities: for each cell kind the (E, O) probabilities that the weights come from, with their
            gradient, for regularizers; None: softmax(alpha / T) is computed where one is asked for.
    """

    edge_weights: Mapping[str, Tensor]
    paths: Mapping[str, list[int]] | None = None
    probabilities: Mapping[str, Tensor] | None = None


class Mixing(Protocol):
    """Whatever gives edge weights: a relaxation, or a strategy."""

    @property
    def is_fixed_program(self) -> bool:
        """Whether each step runs the same operations and draws nothing, so that it can be captured."""

    def edge_weights(
        self, alphas: Alphas, temperatures: Mapping[str, float | Tensor], generator: torch.Generator
    ) -> EdgeMix:
        """See `Relaxation`."""


class Relaxation:
    """Gives the edge weights of each forward pass.

    `edge_weights` is called once in each forward pass: of alpha steps with a gradient for alphas, of weight
    steps without one. Where a batch is computed in parts it is called for each part, with a generator that
    draws the same again.
    """

    is_fixed_program: ClassVar[bool] = False
    """Whether each step runs the same operations and draws nothing, so that it can be captured."""

    def edge_weights(
        self, alphas: Alphas, temperatures: Mapping[str, float | Tensor], generator: torch.Generator
    ) -> EdgeMix:
        """The mix of one forward pass.

        Args:
            alphas: `alphas.probabilities(temperatures)` is softmax(alpha / T) over the operations left on
                each edge; `alphas.get_parameter(kind)` are the alphas of a cell kind themselves, and
                `alphas.live(kind)` says which operations are left.
            temperatures: T of each cell kind in this epoch.
            generator: of the CPU, for whatever is drawn; all ranks and devices draw the same.
        Shape: (E, O) for each cell kind.
        """
        raise NotImplementedError
