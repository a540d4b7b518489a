"""The memory of a training step: forecast, choice of the micro-batch, and what needs less."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from torch import nn

from binas.engine.memory_forecast import Footprint, Forecast, Remedy, announce, footprint, forecast_of
from binas.engine.micro_batch import Batch
from binas.engine.scaling import rate_alone
from binas.run.distributed import all_reduce_min
from binas.run.progress import say

Trial = Callable[[bool], AbstractContextManager[tuple[Callable[[Batch], object], nn.Module]]]
"""Gives the passes of a step without any update, and what they train; told whether cells run twice."""


class StepMemory:
    """What a step needs as things are, and settings that need less.

    Args:
        section: of the recipe: `search` or `retrain`; `widths`, the key of its channels.
        trial: the passes of a step.
        optimizers: whose states are held.
        wanted: the setting `micro_batch`.
        micro_batch: images computed at a time, where that is chosen already.
        checkpoint_cells: whether cells are computed twice now; None: there are no cells.
        channels: of the first cell; None: there are no cells.
        image_shape: channels, height, width.
        num_classes: of the data.
        batch_size: images in a step, on this rank.
        device: where training runs.
    """

    def __init__(
        self,
        section: str,
        widths: str,
        trial: Trial,
        optimizers: Sequence[torch.optim.Optimizer],
        *,
        wanted: int | str | None,
        micro_batch: int | None,
        checkpoint_cells: bool | None,
        channels: int | None,
        image_shape: tuple[int, int, int],
        num_classes: int,
        batch_size: int,
        device: torch.device,
    ) -> None:
        self.section, self.widths, self.trial, self.optimizers = section, widths, trial, optimizers
        self.wanted, self.micro_batch, self.checkpoint_cells = wanted, micro_batch, checkpoint_cells
        self.channels, self.image_shape, self.num_classes = channels, image_shape, num_classes
        self.batch_size, self.device = batch_size, device
        self.other_network = "another network" if section == "retrain" else "another search"

    def prepare(self) -> Forecast:
        """Chooses the micro-batch where it is `auto` and not chosen yet, and says the forecast."""
        forecast = self.forecast()
        if self.wanted == "auto" and self.micro_batch is None:
            largest = forecast.largest_micro_batch(self.batch_size) or self.batch_size
            self.micro_batch = all_reduce_min(largest)
            forecast = self.forecast(forecast.footprint)
            say(f"micro-batch: {self.micro_batch} of {self.batch_size} images at a time")
        announce(forecast, lambda: self.remedies(forecast))
        return forecast

    def forecast(self, known: Footprint | None = None) -> Forecast:
        """What a step needs as things are."""
        step = known or self.footprint(self.trial, bool(self.checkpoint_cells))
        return forecast_of(step, self.images, self.optimizers, self.device)

    def remedies(self, forecast: Forecast | None = None) -> list[Remedy]:
        """Settings that need less, with what the step would then hold."""
        now = forecast or self.forecast()
        images, half = now.images, max(now.images // 2, 1)
        found = [
            Remedy(f"{self.section}.micro_batch: {half}", now.needed(half), "batch-norm sees fewer images"),
            Remedy(f"{self.section}.batch_size: {half}", now.needed(half), "another training"),
        ]
        if self.checkpoint_cells is False:
            step = self.footprint(self.trial, True)
            setting = f"{self.section}.checkpoint_cells: true"
            found.append(Remedy(setting, step.at(images) + now.optimizers, "the same numbers, slower"))
        found += self.own_remedies(now)
        if self.channels is not None and self.channels > 1:
            # activations grow with the channels, kernels with their square
            smaller = now.footprint.per_image * images / 2 + (now.footprint.constant + now.optimizers) / 4
            found.append(Remedy(f"{self.widths}: {self.channels // 2}", smaller, self.other_network))
        return found

    def own_remedies(self, now: Forecast) -> Iterator[Remedy]:
        """Those of one kind of training alone."""
        yield from ()

    def rate_alone(self) -> float | None:
        """Images a second of the passes of one rank while the others wait; None where there is one."""
        with self.trial(bool(self.checkpoint_cells)) as (backward, modules):
            return rate_alone(backward, modules, self.image_shape, self.num_classes, self.device, self.images)

    @property
    def images(self) -> int:
        """Images that are computed at a time."""
        return min(self.micro_batch or self.batch_size, self.batch_size)

    def footprint(self, trial: Trial, checkpoint_cells: bool) -> Footprint:
        """What the passes of a trial hold, for as many images as needed."""
        with trial(checkpoint_cells) as (backward, modules):
            sizes = self.image_shape, self.num_classes, self.device, self.batch_size
            return footprint(backward, modules, *sizes)
