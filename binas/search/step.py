"""The two steps of first-order bilevel search: alphas on one batch, weights on another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from binas.arch.alphas import Alphas, mean_entropy
from binas.arch.supernet import Supernet
from binas.binarize import after_optimizer_step
from binas.search.config import SearchConfig
from binas.train.batch_norm import frozen_running_statistics
from binas.train.loop import accuracy

Batch = tuple[Tensor, Tensor]


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


class BilevelStep:
    """Updates alphas and weights in turn.

    Args:
        supernet, alphas: what is trained.
        weight_optimizer, alpha_optimizer: of each.
        config: of the search.
        temperatures: T of each cell kind in this epoch.
        diversity: weight of the mean entropy in this epoch's alpha loss.
    """

    def __init__(
        self, supernet: Supernet, alphas: Alphas, weight_optimizer: torch.optim.Optimizer,
        alpha_optimizer: torch.optim.Optimizer, config: SearchConfig, temperatures: Mapping[str, float],
        diversity: float,
    ) -> None:  # fmt: skip
        self.supernet, self.alphas, self.config = supernet, alphas, config
        self.weight_optimizer, self.alpha_optimizer = weight_optimizer, alpha_optimizer
        self.temperatures, self.diversity = temperatures, diversity

    def alpha_step(self, batch: Batch) -> dict[str, Tensor]:
        """One update of the alphas on a batch of the search-validation split, the weights frozen.

        loss = CE(logits) − diversity · mean entropy
        """
        images, labels = batch
        statistics = (
            nullcontext()
            if self.config.alpha_step_updates_batch_norm
            else frozen_running_statistics(self.supernet)
        )
        with frozen(self.supernet), statistics:
            probabilities = self.alphas.probabilities(self.temperatures)
            logits = self.supernet(images, probabilities)
            loss = self.config.loss(logits, labels)
            total = loss - self.diversity * mean_entropy(probabilities) if self.diversity else loss
            self.alpha_optimizer.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
        self.alpha_optimizer.step()
        return {"alpha_loss": total, "validation_loss": loss, "validation_accuracy": accuracy(logits, labels)}

    def weight_step(self, batch: Batch) -> dict[str, Tensor]:
        """One update of the weights on a batch of the train split, the alphas fixed."""
        images, labels = batch
        with torch.no_grad():
            probabilities = self.alphas.probabilities(self.temperatures)
        logits = self.supernet(images, probabilities)
        loss = self.config.loss(logits, labels)
        self.weight_optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.config.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.supernet.parameters(), self.config.clip_grad_norm)
        self.weight_optimizer.step()
        after_optimizer_step(self.supernet)
        return {"train_loss": loss, "train_accuracy": accuracy(logits, labels)}


def diversity_weight(weight: float, tau: float, epoch: int) -> float:
    """λ · exp(−epoch / τ), epochs counted from 0 at the end of the warm-up."""
    return weight * math.exp(-epoch / tau)
