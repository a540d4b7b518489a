"""The two steps of first-order bilevel search: alphas on one batch, weights on another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from binas.arch.alphas import Alphas
from binas.arch.supernet import Supernet
from binas.binarize import after_optimizer_step, is_annealed
from binas.engine.acceleration import MixedPrecision
from binas.engine.batch_norm import frozen_running_statistics
from binas.engine.capture import capture_choice
from binas.engine.loop import accuracy
from binas.engine.micro_batch import Batch
from binas.engine.sync_batch_norm import waits_for_ranks
from binas.engine.update import Update
from binas.run.seeds import generator
from binas.search.config import SearchConfig
from binas.search.regularizers.base import Regularizer, Relaxed
from binas.search.relaxations.base import EdgeMix, Mixing
from binas.search.relaxations.softmax import Softmax

Term = Callable[[Relaxed], Tensor | None]


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
        mixing: how alphas become edge weights.
        key: seed and epoch; with the number of a step they decide what is drawn.
        micro_batch: largest number of images that are computed at a time; None: all of a batch.
        weight_precision, alpha_precision: arithmetic of each kind of step.
    """

    mixing: Mixing = field(default_factory=Softmax)
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
        regularizers: what else stands in the losses of this epoch.
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
        *,
        regularizers: Sequence[Regularizer] = (),
        options: StepOptions | None = None,
    ) -> None:
        self.supernet, self.alphas, self.config = supernet, alphas, config
        self.weight_optimizer, self.alpha_optimizer = weight_optimizer, alpha_optimizer
        self.regularizers = tuple(regularizers)
        self.options = options or StepOptions()
        self._changes_mix = [one for one in self.regularizers if type(one).mix is not Regularizer.mix]
        self._is_fixed = self.options.mixing.is_fixed_program and not self._changes_mix
        self.lasts = (
            self._is_fixed
            and all(one.keeps_program for one in self.regularizers)
            and not is_annealed(supernet)
        )
        """Whether the steps of other epochs are the same program: what moves is in tensors that stay."""
        self.temperatures: dict[str, float | Tensor] = dict(temperatures)
        if self.lasts:
            device = next(alphas.parameters()).device
            self.temperatures = {kind: torch.tensor(t, device=device) for kind, t in temperatures.items()}
        self._counts = {"alpha": 0, "weight": 0}
        self._draws = torch.Generator()
        capture = self._capture()
        self._alpha_update = Update(
            self.alpha_forward,
            alpha_optimizer,
            [supernet],
            self.options.alpha_precision,
            micro_batch=self.options.micro_batch,
            capture=capture,
        )
        self._weight_update = Update(
            self.weight_forward,
            weight_optimizer,
            [supernet],
            self.options.weight_precision,
            micro_batch=self.options.micro_batch,
            capture=capture,
            clipped=supernet.parameters,
            clip_grad_norm=config.clip_grad_norm,
        )

    def begin_epoch(self, temperatures: Mapping[str, float], key: tuple[int, int]) -> None:
        """Goes on with another epoch's temperatures; for steps that last."""
        for kind, temperature in self.temperatures.items():
            assert isinstance(temperature, Tensor), "these steps are of one epoch"
            temperature.fill_(temperatures[kind])
        self.options.key = key
        self._counts = {"alpha": 0, "weight": 0}

    def alpha_step(self, batch: Batch) -> dict[str, Tensor]:
        """One update of the alphas on a batch of the search-validation split, the weights frozen.

        loss = that of the images + that of the regularizers
        """
        with frozen(self.supernet), self._statistics():
            values = dict(self._alpha_update(batch))
        self._counts["alpha"] += 1
        return values

    def weight_step(self, batch: Batch) -> dict[str, Tensor]:
        """One update of the weights on a batch of the train split, the alphas fixed."""
        values = dict(self._weight_update(batch))
        self._counts["weight"] += 1
        after_optimizer_step(self.supernet)
        return values

    def backward_only(self, batch: Batch, trains: str) -> None:
        """The backward passes of a phase's step on one batch, without any update; gradients stay behind."""
        if trains != "weights":
            with frozen(self.supernet), self._statistics():
                self._alpha_update.backward(batch)
        if trains != "alphas":
            self._weight_update.backward(batch)

    def alpha_forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the alphas on a batch, and what is reported of it."""
        images, labels = batch
        mix = self._mix("alpha")
        with self.options.alpha_precision.autocast():
            logits = self.supernet(images, mix.edge_weights, mix.paths)
        logits = self.options.alpha_precision.full(logits)
        loss = self.config.loss(logits, labels)
        total = self._with(loss, mix, [one.loss for one in self.regularizers])
        return total, {
            "alpha_loss": total,
            "validation_loss": loss,
            "validation_accuracy": accuracy(logits, labels),
        }

    def weight_forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the weights on a batch, and what is reported of it."""
        images, labels = batch
        with torch.no_grad():
            mix = self._mix("weight")
        with self.options.weight_precision.autocast():
            logits = self.supernet(images, mix.edge_weights, mix.paths)
        logits = self.options.weight_precision.full(logits)
        loss = self.config.loss(logits, labels)
        total = self._with(loss, mix, [one.weight_loss for one in self.regularizers])
        return total, {"train_loss": loss, "train_accuracy": accuracy(logits, labels)}

    def _mix(self, what: str) -> EdgeMix:
        """What is mixed in this step, the same for all parts of its batch, on every device."""
        if not self._is_fixed:
            (seed, epoch), count = self.options.key, self._counts[what]
            self._draws = generator("cpu", seed, f"{what}_path", epoch, count)
        mix = self.options.mixing.edge_weights(self.alphas, self.temperatures, self._draws)
        for regularizer in self._changes_mix:
            mix = regularizer.mix(mix, self._draws)
        return mix

    def _with(self, loss: Tensor, mix: EdgeMix, terms: Sequence[Term]) -> Tensor:
        """The loss with the terms that the regularizers add to it."""
        if not terms:
            return loss
        probabilities = mix.probabilities or self.alphas.probabilities(self.temperatures)
        relaxed = Relaxed(self.alphas, probabilities, mix.edge_weights, self.temperatures)
        for term in terms:
            added = term(relaxed)
            loss = loss if added is None else loss + added
        return loss

    def _statistics(self) -> AbstractContextManager[None]:
        if self.config.alpha_step_updates_batch_norm:
            return nullcontext()
        return frozen_running_statistics(self.supernet)

    def _capture(self) -> Literal["off", "cuda_graphs", "compile"]:
        obstacle = None
        if not self._is_fixed:
            obstacle = "what is mixed is drawn: each step is another program"
        elif self.config.checkpoint_cells:
            obstacle = "cells are computed twice (search.checkpoint_cells)"
        elif waits_for_ranks(self.supernet):
            obstacle = "batch-norm waits for other ranks (distributed.sync_batch_norm)"
        device = next(self.supernet.parameters()).device
        return capture_choice(self.config.acceleration.capture, device, obstacle)
