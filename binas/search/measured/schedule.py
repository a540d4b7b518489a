"""How weights are trained in a measured search: the supernet's, and those of each genotype alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from binas.engine.acceleration import Acceleration
from binas.engine.optimizer import Curve, OptimizerConfig, set_learning_rate


@dataclass(frozen=True)
class Schedule:
    """A training from beginning to end, in one stage.

    Args:
        epochs: passes over the train split.
        optimizer: of all weights.
        curve: course of its learning rate over all steps.
        loss: of logits and labels.
        acceleration: its `check_interval` and `capture`.
    """

    epochs: int
    optimizer: OptimizerConfig
    curve: Curve
    loss: Callable[[Tensor, Tensor], Tensor]
    acceleration: Acceleration = field(default_factory=Acceleration)

    def set_rate(self, optimizer: torch.optim.Optimizer, done: int, steps_per_epoch: int) -> None:
        """Gives the optimizer its learning rate after so many steps."""
        factor = self.curve.factor(done / (self.epochs * steps_per_epoch))
        set_learning_rate(optimizer, self.optimizer.learning_rate * factor)
