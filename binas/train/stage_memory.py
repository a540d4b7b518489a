"""The memory of a retraining step: forecast, choice of the micro-batch, and what needs less."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from binas.arch.trunk import Trunk
from binas.engine.memory import Footprint, Forecast, Remedy, announce, footprint, forecast_of
from binas.engine.micro_batch import Batch
from binas.engine.scaling import rate_alone
from binas.run.distributed import smallest
from binas.run.progress import say
from binas.train.objective import Objective
from binas.train.stage import RetrainConfig, StageConfig
from binas.train.stepper import Stepper


@dataclass(frozen=True)
class StageMemory:
    """The memory of the steps of one stage.

    Args:
        network, optimizer, objective: what is trained and how.
        stage, config: settings.
        image_shape: channels, height, width.
        num_classes: of the data.
        batch_size: images in a step, on this rank.
        device: where training runs.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    objective: Objective
    stage: StageConfig
    config: RetrainConfig
    image_shape: tuple[int, int, int]
    num_classes: int
    batch_size: int
    device: torch.device

    def prepare(self, micro_batch: int | None) -> tuple[Forecast, int | None]:
        """Prints the forecast; gives it and the micro-batch, chosen now if it is `auto`."""
        forecast = self.forecast(micro_batch)
        if self.config.micro_batch == "auto" and micro_batch is None:
            micro_batch = smallest(forecast.largest_micro_batch(self.batch_size) or self.batch_size)
            forecast = self.forecast(micro_batch, forecast.footprint)
            say(f"micro-batch: {micro_batch} of {self.batch_size} images at a time")
        announce(forecast, lambda: self.remedies(forecast))
        return forecast, micro_batch

    def forecast(self, micro_batch: int | None, known: Footprint | None = None) -> Forecast:
        """What a step needs as things are."""
        step = known or self._footprint(self.config.checkpoint_cells)
        images = min(micro_batch or self.batch_size, self.batch_size)
        return forecast_of(step, images, [self.optimizer], self.device)

    def remedies(self, now: Forecast) -> list[Remedy]:
        """Settings that need less, with what the step would then hold."""
        images, half = now.images, max(now.images // 2, 1)
        found = [
            Remedy(f"retrain.micro_batch: {half}", now.needed(half), "batch-norm sees fewer images"),
            Remedy(f"retrain.batch_size: {half}", now.needed(half), "another training"),
        ]
        if not isinstance(self.network, Trunk):
            return found
        if not self.config.checkpoint_cells:
            step = self._footprint(True)
            setting = "retrain.checkpoint_cells: true"
            found.append(Remedy(setting, step.at(images) + now.optimizers, "the same numbers, slower"))
        channels = self.network.settings.init_channels
        if channels > 1:
            # activations grow with the channels, kernels with their square
            smaller = now.footprint.per_image * images / 2 + (now.footprint.constant + now.optimizers) / 4
            setting = f"retrain.network.init_channels: {channels // 2}"
            found.append(Remedy(setting, smaller, "another network"))
        return found

    def rate_alone(self, micro_batch: int | None) -> float | None:
        """Images a second of the passes of one rank while the others wait; None where there is one."""
        images = min(micro_batch or self.batch_size, self.batch_size)
        with self._trial(self.config.checkpoint_cells) as (backward, modules):
            return rate_alone(backward, modules, self.image_shape, self.num_classes, self.device, images)

    def _footprint(self, checkpoint_cells: bool) -> Footprint:
        with self._trial(checkpoint_cells) as (backward, modules):
            sizes = self.image_shape, self.num_classes, self.device, self.batch_size
            return footprint(backward, modules, *sizes)

    @contextmanager
    def _trial(self, checkpoint_cells: bool) -> Iterator[tuple[Callable[[Batch], object], nn.Module]]:
        """The passes of a step, without any update, and what they train."""
        acceleration = self.config.acceleration.model_copy(update={"capture": "off"})
        config = self.config.model_copy(update={"acceleration": acceleration})
        stepper = Stepper(
            self.network,
            self.optimizer,
            self.stage,
            config,
            0,
            1,
            objective=self.objective,
            precision=acceleration.precision(self.device),
        )
        self.network.train()
        modules = nn.ModuleList([self.network, self.objective.trained])
        before = getattr(self.network, "checkpoint_cells", False)
        if isinstance(self.network, Trunk):
            self.network.checkpoint_cells = checkpoint_cells
        kept = copy.deepcopy(self.objective.own_states())
        try:
            yield stepper.update.backward, modules
        finally:
            self.objective.load_own_states(kept)
            if isinstance(self.network, Trunk):
                self.network.checkpoint_cells = before
