"""The steps of a shared network: each draws a genome and trains its part of the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from binas.binarize import after_optimizer_step, set_progress
from binas.engine.acceleration import MixedPrecision
from binas.engine.capture import capture_choice
from binas.engine.loop import accuracy
from binas.engine.micro_batch import Batch
from binas.engine.optimizer import set_learning_rate
from binas.engine.update import Update
from binas.evolve.config import SharedConfig, SharedPhase
from binas.evolve.evaluators.part import part_of
from binas.train.objective import Objective
from binas.train.parts.distillation import divergence
from binas.train.stage import StageConfig


class SharedStep:
    """The steps of one epoch.

    loss = that of the stage, with its regularizers of the whole network, + distillation · divergence from
    the teacher

    Args:
        network, optimizer: what is trained.
        draw: gives the network of a drawn genome, without weights of its own.
        stage: the settings of the training, whole.
        config: of the shared network.
        phase: which genes vary, and at which rate.
        epoch: within the phase, from 0.
        steps_per_epoch: for the course of the learning rate and of annealed binarizers.
        teacher: the largest network as it was, or None.
        precision: arithmetic of the steps.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        draw: Callable[[], nn.Module],
        stage: StageConfig,
        config: SharedConfig,
        phase: SharedPhase,
        epoch: int,
        steps_per_epoch: int,
        teacher: nn.Module | None,
        precision: MixedPrecision,
    ) -> None:
        self.network, self.optimizer, self.draw, self.stage, self.phase = (
            network,
            optimizer,
            draw,
            stage,
            phase,
        )
        self.teacher = teacher if phase.distillation else None
        self.precision = precision
        self.trained = (network,)
        self.objective = Objective(stage, network, 0)
        self.done, self.total = epoch * steps_per_epoch, phase.epochs * steps_per_epoch
        self._candidate: nn.Module = network
        device = next(network.parameters()).device
        obstacle = "each step trains another part of the shared network"
        self.update = Update(
            self.forward,
            optimizer,
            self.trained,
            precision,
            micro_batch=config.micro_batch if isinstance(config.micro_batch, int) else None,
            capture=capture_choice(config.acceleration.capture, device, obstacle),
            clipped=network.parameters,
            clip_grad_norm=stage.clip_grad_norm,
        )

    def step(self, batch: Batch) -> tuple[int, Mapping[str, Tensor]]:
        """One update of the part of a genome; gives the number of images and what is reported."""
        progress = self.done / self.total
        factor = self.phase.learning_rate * self.stage.learning_rate.factor(progress)
        set_learning_rate(self.optimizer, self.stage.optimizer.learning_rate * factor)
        self._candidate = self.draw()
        set_progress(self._candidate, progress)
        self._candidate.train()
        values = self.update(batch)
        after_optimizer_step(self.network, self.stage.weight_clipping)
        self.done += 1
        return len(batch[1]), values

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and what is reported of it."""
        images, labels = batch
        part = part_of(self.network, self._candidate)
        with self.precision.autocast():
            output = functional_call(self._candidate, part, (images,), strict=True)
        logits = self.precision.full(output)
        loss, terms = self.objective(images, logits, labels)
        if self.teacher is not None:
            with torch.no_grad():
                soft = self.teacher(images)
            loss = loss + self.phase.distillation * divergence(logits, soft)
        return loss, {"loss": loss, **terms, "accuracy": accuracy(logits, labels)}
