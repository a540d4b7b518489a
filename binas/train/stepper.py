"""The steps of an epoch of a stage: forward, backward, optimizer, and what follows it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from binas.arch.network import Network
from binas.binarize import after_optimizer_step, is_annealed, program_of, set_progress
from binas.engine.acceleration import MixedPrecision
from binas.engine.capture import capture_choice
from binas.engine.loop import accuracy
from binas.engine.micro_batch import Batch
from binas.engine.optimizer import set_learning_rate
from binas.engine.sync_batch_norm import waits_for_ranks
from binas.engine.update import Update
from binas.train.objective import Objective
from binas.train.stage import RetrainConfig, StageConfig


class Stepper:
    """The steps of an epoch, and of those after it where `after` finds them to be the same program.

    Args:
        network, optimizer: what is trained.
        stage: its settings.
        config: of the retraining.
        epoch: within the stage, from 0.
        steps_per_epoch: for the course of learning rate, drop-path and annealed binarizers.
        objective: the stage's loss; None: made anew.
        micro_batch: largest number of images that are computed at a time; None: all of a batch.
        precision: arithmetic of the steps.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        stage: StageConfig,
        config: RetrainConfig,
        epoch: int,
        steps_per_epoch: int,
        *,
        objective: Objective | None = None,
        micro_batch: int | None = None,
        precision: MixedPrecision | None = None,
    ) -> None:
        self.objective = objective or Objective(stage, network, int(getattr(network, "num_classes", 0)))
        self.network, self.optimizer, self.stage, self.config = network, optimizer, stage, config
        self.precision = precision or MixedPrecision()
        self.trained = (network, self.objective.trained)
        self.done = epoch * steps_per_epoch
        self.total = stage.epochs * steps_per_epoch
        self.learning_rate = 0.0
        self.micro_batch, self.program = micro_batch, program_of(network)
        device = next(network.parameters()).device
        self.update = Update(
            self.forward,
            optimizer,
            self.trained,
            self.precision,
            micro_batch=micro_batch,
            capture=capture_choice(config.acceleration.capture, device, self._obstacle()),
            clipped=network.parameters,
            clip_grad_norm=stage.clip_grad_norm,
        )

    def after(self, before: Stepper | None) -> Stepper:
        """These steps, or those of the epoch before where they are the same program, captured or not."""
        if (
            before is None
            or not self.objective.lasts
            or before.objective is not self.objective
            or before.optimizer is not self.optimizer
            or before.precision is not self.precision
            or before.micro_batch != self.micro_batch
            or before.program != self.program
        ):
            return self
        before.done = self.done
        return before

    def step(self, batch: Batch) -> tuple[int, Mapping[str, Tensor]]:
        """One update; gives the number of images and what is reported."""
        progress = self.done / self.total
        self.learning_rate = self.stage.optimizer.learning_rate * self.stage.learning_rate.factor(progress)
        set_learning_rate(self.optimizer, self.learning_rate)
        set_progress(self.network, progress)
        if isinstance(self.network, Network):
            self.network.drop_rate = self.config.drop_path * progress
        values = self.update(batch)
        after_optimizer_step(self.network, self.stage.weight_clipping)
        self.objective.after_step()
        self.done += 1
        return len(batch[1]), values

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and what is reported of it."""
        images, labels = batch
        with self.precision.autocast():
            output = self.network(images)
        logits, auxiliary = output if isinstance(output, tuple) else (output, None)
        logits = self.precision.full(logits)
        loss, terms = self.objective(images, logits, labels)
        values = {"loss": loss, **terms, "accuracy": accuracy(logits, labels)}
        if auxiliary is not None:
            its_loss = self.stage.loss(self.precision.full(auxiliary), labels)
            loss = loss + self.config.auxiliary_weight * its_loss
        return loss, values

    def _obstacle(self) -> str | None:
        """Why a step is not the same program each time."""
        if self.config.checkpoint_cells:
            return "cells are computed twice (retrain.checkpoint_cells)"
        if waits_for_ranks(nn.ModuleList(self.trained)):
            return "a step waits for other ranks (distributed.sync_batch_norm)"
        if self.config.drop_path:
            return "the rate of drop-path moves with every step"
        if not self.objective.is_fixed_program:
            return "the stage's loss keeps a state of its own"
        if is_annealed(self.network):
            return "an annealed binarizer moves with every step"
        return None
