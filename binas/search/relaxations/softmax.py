"""All operations left on an edge, mixed with softmax(alpha / T)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from binas.arch.alphas import Alphas
from binas.search.relaxations.base import EdgeMix, Relaxation, register_relaxation


@register_relaxation("softmax")
class Softmax(Relaxation):
    """All operations left on an edge, weighted by softmax(alpha / T).

    forward   w = softmax(alpha / T)
    Reference: Liu et al., DARTS, arXiv:1806.09055, eq. 2.
    """

    is_fixed_program: ClassVar[bool] = True

    def edge_weights(
        self, alphas: Alphas, temperatures: Mapping[str, float | Tensor], generator: torch.Generator
    ) -> EdgeMix:
        """See the class."""
        probabilities = alphas.probabilities(temperatures)
        return EdgeMix(probabilities, probabilities=probabilities)
