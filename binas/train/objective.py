"""What a stage minimises: the labels' loss, or a teacher's, and what its parts add."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from binas.errors import UserError
from binas.plugins import PluginRecord
from binas.train.model_file import ModelStructure
from binas.train.parts.base import StagePart, StageSetting
from binas.train.parts.building import parts_of
from binas.train.stage import StageConfig


class Objective:
    """The loss of a stage, a function of the images, the network's logits for them and the labels.

    Args:
        stage: its settings.
        network: what is trained; inner outputs that the loss needs are caught while it runs.
        num_classes: classes.
        structure: what the network is built from, for a teacher; None: there is none.
        plugins: those that are loaded.
        parts: of the stage, where they were made before; None: they are made here.
    """

    def __init__(
        self,
        stage: StageConfig,
        network: nn.Module,
        num_classes: int,
        *,
        structure: ModelStructure | None = None,
        plugins: tuple[PluginRecord, ...] = (),
        parts: Mapping[str, StagePart] | None = None,
    ) -> None:
        self.stage, self.network = stage, network
        self.parts = dict(parts_of(stage) if parts is None else parts)
        setting = StageSetting(network, num_classes, stage.loss, structure, plugins)
        self.trained = nn.ModuleDict()
        """What is trained or remembered beside the network, and stored in the checkpoint."""
        for part in self.parts.values():
            part.start(setting)
            self.trained.update(part.modules())
        self.files = [digest for part in self.parts.values() for digest in part.files]
        """What a resumed run knows files by that parts have read."""

    @property
    def is_fixed_program(self) -> bool:
        """Whether each step is the same program."""
        return all(part.is_fixed_program for part in self.parts.values())

    @property
    def lasts(self) -> bool:
        """Whether the steps of other epochs are the same program: no part changes anything between them."""
        return all(
            type(part).begin_epoch is StagePart.begin_epoch and type(part).precision is StagePart.precision
            for part in self.parts.values()
        )

    def begin_epoch(self, epoch: int) -> dict[str, float]:
        """Prepares an epoch of the stage, from 0; gives figures for the log."""
        figures = self.stage.begin_epoch(self.network, epoch, self.parts)
        for part in self.parts.values():
            figures |= part.begin_epoch(epoch)
        return figures

    def __call__(self, images: Tensor, logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch that the network has just been run on, and the terms it consists of by name."""
        loss: Tensor | None = None
        terms: dict[str, Tensor] = {}
        if not any(part.teaches for part in self.parts.values()):
            loss = self.stage.loss(logits, labels)
        for part in self.parts.values():
            found = part.loss(images, logits, labels)
            if found is not None:
                added, told = found
                loss = added if loss is None else loss + added
                terms.update(told)
        assert loss is not None
        return loss, terms

    def after_step(self) -> None:
        """Follows an update of the weights."""
        for part in self.parts.values():
            part.after_step()

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """What is trained beside the network, by name."""
        return {name: p for name, p in self.trained.named_parameters() if p.requires_grad}

    def state(self) -> dict[str, Any]:
        """What a checkpoint stores: what is trained or remembered, and which files parts have read."""
        own = self.own_states()
        found = {"tensors": self.trained.state_dict(), "teacher_files": self.files}
        return {**found, "parts": own} if own else found

    def own_states(self) -> dict[str, dict[str, Any]]:
        """What parts need to go on beside tensors, of those that need any."""
        return {name: state for name, part in self.parts.items() if (state := part.state_dict())}

    def load_own_states(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Takes what `own_states` gave."""
        for name, state in states.items():
            self.parts[name].load_state_dict(state)

    def load(self, state: Mapping[str, Any], path: Path) -> None:
        """What `state` gave, strictly; `path` is for errors.

        Raises:
            UserError: the teacher's files have changed since.
        """
        if state.get("teacher_files", []) != self.files:
            raise UserError(
                f"{path}: teacher: its files are not those that the stage was started with; put them back, or"
                " train again"
            )
        self.trained.load_state_dict(state.get("tensors", {}))
        self.load_own_states(state.get("parts", {}))

    def close(self) -> None:
        """Lets the network go; called at the end of the stage."""
        for part in self.parts.values():
            part.end()
