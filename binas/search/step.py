"""The two steps of first-order bilevel search: alphas on one batch, weights on another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from binas.arch.alphas import Alphas, mean_entropy
from binas.arch.supernet import Supernet
from binas.binarize import after_optimizer_step
from binas.engine.acceleration import MixedPrecision
from binas.engine.batch_norm import frozen_running_statistics
from binas.engine.capture import capture_choice
from binas.engine.loop import accuracy
from binas.engine.micro_batch import Batch
from binas.engine.sync_batch_norm import waits_for_ranks
from binas.engine.update import Update
from binas.run.seeds import generator
from binas.search.config import SearchConfig
from binas.search.relaxation import EdgeMix, Relaxation, draw_paths, single_path


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside, no gradient is computed for the module's parameters."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@dataclass
class StepOptions:
    """How steps are carried out.

    Args:
        relaxation: how probabilities become edge weights.
        key: seed and epoch; with the number of a step they decide what a single path draws.
        micro_batch: largest number of images that are computed at a time; None: all of a batch.
        weight_precision, alpha_precision: arithmetic of each kind of step.
    """

    relaxation: Relaxation = "softmax"
    key: tuple[int, int] = (0, 0)
    micro_batch: int | None = None
    weight_precision: MixedPrecision = field(default_factory=MixedPrecision)
    alpha_precision: MixedPrecision = field(default_factory=MixedPrecision)


class BilevelStep:
    """Updates alphas and weights in turn.

    Args:
        supernet, alphas: what is trained.
        weight_optimizer, alpha_optimizer: of each.
        config: of the search.
        temperatures: T of each cell kind in this epoch.
        diversity: weight of the mean entropy in this epoch's alpha loss.
        options: how steps are carried out.
    """

    def __init__(
        self,
        supernet: Supernet,
        alphas: Alphas,
        weight_optimizer: torch.optim.Optimizer,
        alpha_optimizer: torch.optim.Optimizer,
        config: SearchConfig,
        temperatures: Mapping[str, float],
        diversity: float,
        options: StepOptions | None = None,
    ) -> None:
        self.supernet, self.alphas, self.config = supernet, alphas, config
        self.weight_optimizer, self.alpha_optimizer = weight_optimizer, alpha_optimizer
        self.temperatures, self.diversity = temperatures, diversity
        self.options = options or StepOptions()
        self._counts = {"alpha": 0, "weight": 0}
        self._paths: Mapping[str, list[int]] | None = None
        capture = self._capture()
        self._alpha_update = Update(
            self.alpha_forward,
            alpha_optimizer,
            [supernet],
            self.options.alpha_precision,
            self.options.micro_batch,
            capture,
        )
        self._weight_update = Update(
            self.weight_forward,
            weight_optimizer,
            [supernet],
            self.options.weight_precision,
            self.options.micro_batch,
            capture,
            supernet.parameters,
            config.clip_grad_norm,
        )

    def alpha_step(self, batch: Batch) -> dict[str, Tensor]:
        """One update of the alphas on a batch of the search-validation split, the weights frozen.

        loss = CE(logits) − diversity · mean entropy
        """
        self._draw("alpha")
        with frozen(self.supernet), self._statistics():
            return dict(self._alpha_update(batch))

    def weight_step(self, batch: Batch) -> dict[str, Tensor]:
        """One update of the weights on a batch of the train split, the alphas fixed."""
        self._draw("weight")
        values = dict(self._weight_update(batch))
        after_optimizer_step(self.supernet)
        return values

    def backward_only(self, batch: Batch, trains: str) -> None:
        """The backward passes of a phase's step on one batch, without any update; gradients stay behind."""
        if trains != "weights":
            self._draw("alpha")
            with frozen(self.supernet), self._statistics():
                self._alpha_update.backward(batch)
        if trains != "alphas":
            self._draw("weight")
            self._weight_update.backward(batch)

    def alpha_forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the alphas on a batch, and what is reported of it."""
        images, labels = batch
        probabilities = self.alphas.probabilities(self.temperatures)
        logits = self._logits(images, probabilities, self.options.alpha_precision)
        loss = self.config.loss(logits, labels)
        total = loss - self.diversity * mean_entropy(probabilities) if self.diversity else loss
        return total, {
            "alpha_loss": total,
            "validation_loss": loss,
            "validation_accuracy": accuracy(logits, labels),
        }

    def weight_forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the weights on a batch, and what is reported of it."""
        images, labels = batch
        with torch.no_grad():
            probabilities = self.alphas.probabilities(self.temperatures)
        logits = self._logits(images, probabilities, self.options.weight_precision)
        loss = self.config.loss(logits, labels)
        return loss, {"train_loss": loss, "train_accuracy": accuracy(logits, labels)}

    def _logits(
        self, images: Tensor, probabilities: Mapping[str, Tensor], precision: MixedPrecision
    ) -> Tensor:
        mix = EdgeMix(probabilities) if self._paths is None else single_path(probabilities, self._paths)
        with precision.autocast():
            logits = self.supernet(images, mix.weights, mix.paths)
        return precision.full(logits)

    def _draw(self, what: str) -> None:
        """Draws this step's paths, the same for all parts of its batch, on every device."""
        if self.options.relaxation == "softmax":
            return
        draws = generator("cpu", self.options.key[0], f"{what}_path", self.options.key[1], self._counts[what])
        self._counts[what] += 1
        with torch.no_grad():
            self._paths = draw_paths(self.alphas.probabilities(self.temperatures), draws)

    def _statistics(self) -> AbstractContextManager[None]:
        if self.config.alpha_step_updates_batch_norm:
            return nullcontext()
        return frozen_running_statistics(self.supernet)

    def _capture(self) -> Literal["off", "cuda_graphs", "compile"]:
        obstacle = None
        if self.options.relaxation != "softmax":
            obstacle = "a single path is another program in each step"
        elif self.config.checkpoint_cells:
            obstacle = "cells are computed twice (search.checkpoint_cells)"
        elif waits_for_ranks(self.supernet):
            obstacle = "batch-norm waits for other ranks (distributed.sync_batch_norm)"
        device = next(self.supernet.parameters()).device
        return capture_choice(self.config.acceleration.capture, device, obstacle)


def diversity_weight(weight: float, tau: float, epoch: int) -> float:
    """λ · exp(−epoch / τ), epochs counted from 0 at the end of the warm-up."""
    return weight * math.exp(-epoch / tau)
