"""The memory of a gradient search's step in one phase."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from binas.engine.memory_forecast import Forecast, Remedy
from binas.engine.micro_batch import Batch
from binas.engine.step_memory import StepMemory
from binas.search.config import Phase, SearchConfig
from binas.search.regularizers.diversity import Diversity
from binas.search.relaxations.base import Mixing
from binas.search.relaxations.single_path import SinglePath
from binas.search.state import SearchState
from binas.search.step import BilevelStep, StepOptions


class PhaseMemory(StepMemory):
    """The memory of the steps of one phase; the micro-batch that it chooses stays in the state.

    Args:
        state: what is trained.
        phase, position: the phase and its place in the list.
        config: of the search.
        temperatures: T of each cell kind.
        mixing: how alphas become edge weights.
        image_shape: channels, height, width.
        batch_size: images in a step's batch, on this rank.
        device: where training runs.
    """

    def __init__(
        self,
        state: SearchState,
        phase: Phase,
        position: int,
        config: SearchConfig,
        temperatures: Mapping[str, float],
        mixing: Mixing,
        *,
        image_shape: tuple[int, int, int],
        batch_size: int,
        device: torch.device,
    ) -> None:
        super().__init__(
            "search",
            "space.supernet.init_channels",
            lambda checkpoint_cells: self._trial(mixing, checkpoint_cells),
            (state.weight_optimizer, state.alpha_optimizer),
            wanted=config.micro_batch,
            micro_batch=state.micro_batch,
            checkpoint_cells=config.checkpoint_cells,
            channels=state.supernet.settings.init_channels,
            image_shape=image_shape,
            num_classes=state.supernet.num_classes,
            batch_size=batch_size,
            device=device,
        )
        self.state, self.phase, self.position = state, phase, position
        self.config, self.temperatures, self.mixing = config, temperatures, mixing

    def prepare(self) -> Forecast:
        """See `StepMemory`."""
        forecast = super().prepare()
        self.state.micro_batch = self.micro_batch
        return forecast

    def own_remedies(self, now: Forecast) -> Iterator[Remedy]:
        """A single path in place of all operations."""
        if self.mixing.is_fixed_program:
            step = self.footprint(
                lambda checkpoint_cells: self._trial(SinglePath(), checkpoint_cells),
                self.config.checkpoint_cells,
            )
            setting = f"search.phases.{self.position}.relaxation: single_path"
            yield Remedy(setting, step.at(now.images) + now.optimizers, "another search")

    @contextmanager
    def _trial(
        self, mixing: Mixing, checkpoint_cells: bool
    ) -> Iterator[tuple[Callable[[Batch], object], nn.Module]]:
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
            yield backward, state.supernet
        finally:
            state.alphas.zero_grad(set_to_none=True)
            state.supernet.checkpoint_cells = before
