"""The memory of a search step: forecast, choice of the micro-batch, and what needs less."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from binas.arch.supernet import Supernet
from binas.engine.memory import Footprint, Forecast, Remedy, announce, footprint, forecast_of
from binas.engine.micro_batch import Batch
from binas.engine.scaling import rate_alone
from binas.run.distributed import smallest
from binas.run.progress import say
from binas.search.config import Phase, SearchConfig
from binas.search.regularizers.diversity import Diversity
from binas.search.relaxations.base import Mixing
from binas.search.relaxations.single_path import SinglePath
from binas.search.state import SearchState
from binas.search.step import BilevelStep, StepOptions


@dataclass(frozen=True)
class StepMemory:
    """The memory of the steps of one phase.

    Args:
        state: what is trained.
        phase, position: the phase and its place in the list.
        config: of the search.
        temperatures: T of each cell kind.
        image_shape: channels, height, width.
        batch_size: images in a step's batch, on this rank.
        device: where training runs.
        mixing: how alphas become edge weights.
    """

    state: SearchState
    phase: Phase
    position: int
    config: SearchConfig
    temperatures: Mapping[str, float]
    image_shape: tuple[int, int, int]
    batch_size: int
    device: torch.device
    mixing: Mixing

    def prepare(self) -> Forecast:
        """Chooses the micro-batch where it is `auto`, and prints the forecast."""
        forecast = self.forecast()
        if self.config.micro_batch == "auto" and self.state.micro_batch is None:
            largest = forecast.largest_micro_batch(self.batch_size) or self.batch_size
            self.state.micro_batch = smallest(largest)
            forecast = self.forecast(forecast.footprint)
            say(f"micro-batch: {self.state.micro_batch} of {self.batch_size} images at a time")
        announce(forecast, lambda: self.remedies(forecast))
        return forecast

    def forecast(self, known: Footprint | None = None) -> Forecast:
        """What a step needs as things are."""
        step = known or self._footprint(self.mixing, self.config.checkpoint_cells)
        optimizers = (self.state.weight_optimizer, self.state.alpha_optimizer)
        return forecast_of(step, self._images(), optimizers, self.device)

    def remedies(self, forecast: Forecast | None = None) -> list[Remedy]:
        """Settings that need less, with what the step would then hold."""
        now = forecast or self.forecast()
        images, half = now.images, max(now.images // 2, 1)
        found = [
            Remedy(f"search.micro_batch: {half}", now.needed(half), "batch-norm sees fewer images"),
            Remedy(f"search.batch_size: {half}", now.needed(half), "another training"),
        ]
        if not self.config.checkpoint_cells:
            step = self._footprint(self.mixing, True)
            found.append(
                Remedy(
                    "search.checkpoint_cells: true",
                    step.at(images) + now.optimizers,
                    "the same numbers, slower",
                )
            )
        if self.mixing.is_fixed_program:
            step = self._footprint(SinglePath(), self.config.checkpoint_cells)
            setting = f"search.phases.{self.position}.relaxation: single_path"
            found.append(Remedy(setting, step.at(images) + now.optimizers, "another search"))
        channels = self.state.supernet.settings.init_channels
        if channels > 1:
            # activations grow with the channels, kernels with their square
            smaller = now.footprint.per_image * images / 2 + (now.footprint.constant + now.optimizers) / 4
            found.append(Remedy(f"space.supernet.init_channels: {channels // 2}", smaller, "another search"))
        return found

    def rate_alone(self) -> float | None:
        """Images a second of the passes of one rank while the others wait; None where there is one."""
        with self._trial(self.mixing, self.config.checkpoint_cells) as backward:
            return rate_alone(backward, *self._step())

    def _images(self) -> int:
        return min(self.state.micro_batch or self.batch_size, self.batch_size)

    def _footprint(self, mixing: Mixing, checkpoint_cells: bool) -> Footprint:
        with self._trial(mixing, checkpoint_cells) as backward:
            return footprint(backward, *self._step())

    def _step(self) -> tuple[Supernet, tuple[int, int, int], int, torch.device, int]:
        supernet = self.state.supernet
        return supernet, self.image_shape, supernet.num_classes, self.device, self._images()

    @contextmanager
    def _trial(self, mixing: Mixing, checkpoint_cells: bool) -> Iterator[Callable[[Batch], None]]:
        """The passes of a step, without any update; alphas keep no gradient."""
        state, acceleration = self.state, self.config.acceleration
        ordinary = self.config.model_copy(
            update={"acceleration": acceleration.model_copy(update={"capture": "off"})}
        )
        options = StepOptions(
            mixing,
            weight_precision=acceleration.precision(self.device),
            alpha_precision=acceleration.precision(self.device),
        )
        step = BilevelStep(
            state.supernet,
            state.alphas,
            state.weight_optimizer,
            state.alpha_optimizer,
            ordinary,
            self.temperatures,
            regularizers=(Diversity(),),
            options=options,
        )
        before = state.supernet.checkpoint_cells
        state.supernet.train()
        state.supernet.checkpoint_cells = checkpoint_cells

        def backward(batch: Batch) -> None:
            step.backward_only(batch, self.phase.trains)

        try:
            yield backward
        finally:
            state.alphas.zero_grad(set_to_none=True)
            state.supernet.checkpoint_cells = before
