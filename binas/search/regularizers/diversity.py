"""The regularizer that keeps alphas apart from each other in the first epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from binas.arch.alphas import mean_entropy
from binas.search.parts import REGULARIZERS
from binas.search.regularizers.base import Regularizer, Relaxed


@REGULARIZERS.register("diversity")
class Diversity(Regularizer):
    """Rewards a high mean entropy of the edges' probabilities: −weight · H̄ · exp(−epoch / tau).

    Epochs are counted from 0 at the end of the warm-up. Its settings stand in `search.diversity`.

    Args:
        weight: λ; 0 switches it off.
        tau: epochs after which it has fallen to 1/e.
    Reference: Kim et al., BNAS, arXiv:2002.06963, sec. 4.3.
    """

    keeps_program: ClassVar[bool] = True

    def __init__(self, weight: float = 1.0, tau: float = 7.7) -> None:
        self.weight, self.tau = weight, tau
        self.current = weight
        """Weight of the mean entropy in this epoch."""
        self._factor: Tensor | None = None

    def begin_epoch(self, alpha_epochs: int, progress: float) -> None:
        """See the class."""
        self.current = diversity_weight(self.weight, self.tau, alpha_epochs)
        if self._factor is not None:
            self._factor.fill_(-self.current)

    def loss(self, relaxed: Relaxed) -> Tensor | None:
        """−weight · mean entropy."""
        if not self.current:
            return None
        entropy = mean_entropy(relaxed.probabilities)
        if self._factor is None or self._factor.device != entropy.device:
            self._factor = torch.full_like(entropy, -self.current, requires_grad=False)
        return self._factor * entropy

    def figures(self) -> Mapping[str, float]:
        """The weight."""
        return {"diversity": self.current}


def diversity_weight(weight: float, tau: float, epoch: int) -> float:
    """λ · exp(−epoch / τ), epochs counted from 0 at the end of the warm-up."""
    return weight * math.exp(-epoch / tau)
