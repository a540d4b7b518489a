"""What a stage part is: the seam at which a stage of training gets more than the labels' loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from binas.config import NamedOptions
from binas.engine.loss import LossConfig
from binas.plugins import PluginRecord
from binas.registry import Registry

if TYPE_CHECKING:
    from binas.train.model_file import ModelStructure

STAGE_PARTS: Registry[Callable[..., StagePart]] = Registry("stage part")
"""Parts by name; called with the options."""
register_stage_part = STAGE_PARTS.register


class StagePartChoice(NamedOptions):
    """A stage part by name, with its options."""

    registry: ClassVar[Registry[Any]] = STAGE_PARTS


PartLoss = tuple[Tensor, Mapping[str, Tensor]]
"""What a part adds to a batch's loss, and the terms that are logged of it."""


@dataclass(frozen=True)
class StageSetting:
    """What a part is told of its stage.

    Args:
        network: what is trained.
        num_classes: classes.
        loss: of the labels.
        structure: what the network is built from; None in short trainings of candidates.
        plugins: those that are loaded.
    """

    network: nn.Module
    num_classes: int
    loss: LossConfig
    structure: ModelStructure | None = None
    plugins: tuple[PluginRecord, ...] = ()

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device


class StagePart:
    """Something a stage does beside the labels' loss; its constructor takes its options. In order:

    1. the constructor, for each stage that names it;
    2. `first_batch`, where a stage begins and not where it goes on;
    3. `start`, with the network; `modules` says what it trains or remembers beside it, whose parameters the
       stage's optimizer moves; `load_state_dict` follows where a stage goes on;
    4. for each epoch `precision`, then `begin_epoch`; for each batch `loss`, after the network's forward
       pass, and `after_step`; after each epoch `state_dict`, for the checkpoint;
    5. `end`.

    `precision` is a function of the epoch alone, because it is asked for also where a checkpoint is opened.
    Before the first epoch a pass is tried for its memory, in which `loss` is called; what `state_dict` gave
    before is loaded after it. What is not replaced does nothing.
    """

    teaches: ClassVar[bool] = False
    """Whether its loss stands in place of that of the labels."""
    is_fixed_program: ClassVar[bool] = True
    """Whether each step is the same program, so that it can be captured: not with a state of its own."""

    files: Sequence[str] = ()
    """Digests of files that `start` has read, by which a resumed stage knows that they are the same."""

    def first_batch(self, network: nn.Module, images: Tensor) -> str:
        """Prepares weights by the first batch of a stage; gives what was done in words, or nothing."""
        return ""

    def start(self, setting: StageSetting) -> None:
        """Takes what is trained.

        Raises:
            UserError: it does not fit the network.
        """

    def modules(self) -> Mapping[str, nn.Module]:
        """What is trained or remembered beside the network, by a name of its own."""
        return {}

    def precision(self, network: nn.Module, epoch: int) -> Mapping[str, float]:
        """Switches what is binary in an epoch of the stage, from 0; gives figures for the log."""
        return {}

    def begin_epoch(self, epoch: int) -> Mapping[str, float]:
        """Prepares an epoch of the stage, from 0; gives figures for the log."""
        return {}

    def loss(self, images: Tensor, logits: Tensor, labels: Tensor) -> PartLoss | None:
        """What is added to a batch's loss, and the terms that are logged of it, by names that end in `loss`.

        Args:
            images: (N, C, H, W) that the network has just been run on.
            logits: (N, classes) what it gave.
            labels: (N,) what is right.
        Returns:
            None where it adds nothing.
        """
        return None

    def after_step(self) -> None:
        """Follows an update of the weights."""

    def state_dict(self) -> dict[str, Any]:
        """What it needs to go on, beside the tensors of `modules`: plain values and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what `state_dict` gave."""

    def end(self) -> None:
        """Lets the network go."""
