"""The memory of a stage's step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from binas.arch.trunk import Trunk
from binas.engine.micro_batch import Batch
from binas.engine.step_memory import StepMemory
from binas.train.objective import Objective
from binas.train.stage import RetrainConfig, StageConfig
from binas.train.stepper import Stepper


def stage_memory(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    stage: StageConfig,
    config: RetrainConfig,
    *,
    micro_batch: int | None,
    image_shape: tuple[int, int, int],
    num_classes: int,
    batch_size: int,
    device: torch.device,
) -> StepMemory:
    """The memory of the steps of one stage.

    Args:
        network, optimizer, objective: what is trained and how.
        stage, config: settings.
        micro_batch: images computed at a time, where that is chosen already.
        image_shape: channels, height, width.
        num_classes: of the data.
        batch_size: images in a step, on this rank.
        device: where training runs.
    """

    @contextmanager
    def trial(checkpoint_cells: bool) -> Iterator[tuple[Callable[[Batch], object], nn.Module]]:
        acceleration = config.acceleration.model_copy(update={"capture": "off"})
        ordinary = config.model_copy(update={"acceleration": acceleration})
        stepper = Stepper(
            network,
            optimizer,
            stage,
            ordinary,
            0,
            1,
            objective=objective,
            precision=acceleration.precision(device),
        )
        network.train()
        before = getattr(network, "checkpoint_cells", False)
        if isinstance(network, Trunk):
            network.checkpoint_cells = checkpoint_cells
        kept = copy.deepcopy(objective.own_states())
        try:
            yield stepper.update.backward, nn.ModuleList([network, objective.trained])
        finally:
            objective.load_own_states(kept)
            if isinstance(network, Trunk):
                network.checkpoint_cells = before

    has_cells = isinstance(network, Trunk)
    return StepMemory(
        "retrain",
        "retrain.network.init_channels",
        trial,
        [optimizer],
        wanted=config.micro_batch,
        micro_batch=micro_batch,
        checkpoint_cells=config.checkpoint_cells if has_cells else None,
        channels=network.settings.init_channels if isinstance(network, Trunk) else None,
        image_shape=image_shape,
        num_classes=num_classes,
        batch_size=batch_size,
        device=device,
    )
