"""The training of a supernet of single paths: one genotype a step, or a sandwich of several."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from binas.arch.genotype import AnyGenotype
from binas.arch.path_supernet import PathSupernet
from binas.binarize import set_progress
from binas.data.batches import Batches
from binas.engine.acceleration import MixedPrecision
from binas.engine.loop import EpochResult, accuracy, train_epoch
from binas.engine.micro_batch import Batch
from binas.engine.update import Update
from binas.errors import UserError
from binas.run.checkpoint import load_checkpoint, save_checkpoint
from binas.run.optimizer_state import load_optimizer_state, optimizer_state
from binas.run.seeds import derive_seed, seed_everything
from binas.search.measured.draw import FairDraw
from binas.search.measured.schedule import Schedule

KIND = "path supernet"


@dataclass(frozen=True)
class SupernetSettings:
    """How a supernet of single paths is trained.

    Args:
        schedule: of all its weights.
        paths: genotypes in a step, whose gradients make one update.
        sandwich: None, or the largest and the smallest network: each step the largest one learns labels, the
            smallest and `paths` drawn ones learn its soft outputs.
    """

    schedule: Schedule
    paths: int = 1
    sandwich: tuple[AnyGenotype, AnyGenotype] | None = None


class SupernetTraining:
    """Trains a supernet, an epoch at a time; what is drawn depends on seed and epoch only.

    Args:
        supernet: what is trained.
        settings: how.
        draw: from a generator, draws an epoch's genotypes.
        train: the images.
        seed: of order, augmentation and genotypes.
        identity: what a file of another search differs in, plain values.
        file: where the state after each epoch goes; None: nowhere.
    """

    def __init__(
        self,
        supernet: PathSupernet,
        settings: SupernetSettings,
        draw: Callable[[random.Random], FairDraw],
        train: Batches,
        seed: int,
        identity: Mapping[str, Any],
        *,
        file: Path | None = None,
    ) -> None:
        self.supernet, self.settings, self.draw, self.train = supernet, settings, draw, train
        self.seed, self.identity, self.file = seed, dict(identity), file
        self.optimizer = settings.schedule.optimizer.build_for(supernet)
        self.epoch = 0
        if file is not None and file.exists():
            self._restore(file)

    def train_epoch(self) -> EpochResult:
        """The next epoch; its state is on the disk when this returns."""
        schedule = self.settings.schedule
        epoch, total = self.epoch, schedule.epochs
        seed_everything(self.seed, "path supernet", epoch)
        set_progress(self.supernet, epoch / total)
        generator = random.Random(derive_seed(self.seed, "paths", epoch))
        step = _Step(self, self.draw(generator), epoch)
        batches = self.train.epoch(derive_seed(self.seed, "path order", epoch))
        where = f"supernet epoch {epoch + 1}/{total}"
        interval = schedule.acceleration.check_interval
        result = train_epoch(step, batches, len(self.train), where, check_interval=interval)
        self.epoch += 1
        if self.file is not None:
            save_checkpoint(self.file, KIND, self.identity, self.state_dict())
        return result

    def state_dict(self) -> dict[str, Any]:
        """Everything that is needed to go on."""
        named = dict(self.supernet.named_parameters())
        return {
            "supernet": self.supernet.state_dict(),
            "optimizer": optimizer_state(self.optimizer, named),
            "epoch": self.epoch,
        }

    def _restore(self, file: Path) -> None:
        checkpoint = load_checkpoint(file, KIND)
        if checkpoint.structure != self.identity:
            raise UserError(f"{file}: is the supernet of another search; remove it, or put its own back")
        self.supernet.load_state_dict(checkpoint.state["supernet"])
        named = dict(self.supernet.named_parameters())
        load_optimizer_state(self.optimizer, checkpoint.state["optimizer"], named)
        self.epoch = int(checkpoint.state["epoch"])


class _Step:
    """The steps of one epoch."""

    def __init__(self, training: SupernetTraining, draw: FairDraw, epoch: int) -> None:
        self.supernet, self.settings, self.draw = training.supernet, training.settings, draw
        self.optimizer = training.optimizer
        self.trained = (training.supernet,)
        self.steps_per_epoch = len(training.train)
        self.done = epoch * self.steps_per_epoch
        self.genotypes: Sequence[AnyGenotype] = ()
        self.update = Update(self._forward, training.optimizer, self.trained, MixedPrecision())

    def step(self, batch: Batch) -> tuple[int, Mapping[str, Tensor]]:
        """One update."""
        self.settings.schedule.set_rate(self.optimizer, self.done, self.steps_per_epoch)
        self.genotypes = [self.draw() for _ in range(self.settings.paths)]
        self.done += 1
        return len(batch[1]), self.update(batch)

    def _forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch: of labels, or in a sandwich of the largest network's soft outputs too."""
        images, labels = batch
        if self.settings.sandwich is None:
            logits = [self.supernet(images, genotype) for genotype in self.genotypes]
            loss = torch.stack([self.settings.schedule.loss(one, labels) for one in logits]).mean()
            return loss, {"loss": loss, "accuracy": accuracy(logits[0], labels)}
        largest, smallest = self.settings.sandwich
        first = self.supernet(images, largest)
        hard = self.settings.schedule.loss(first, labels)
        soft = F.softmax(first.detach(), dim=1)
        taught = [self.supernet(images, genotype) for genotype in (smallest, *self.genotypes)]
        distilled = torch.stack([F.cross_entropy(one, soft) for one in taught]).sum()
        values = {"loss": hard, "distillation_loss": distilled / len(taught)}
        return hard + distilled, {**values, "accuracy": accuracy(first, labels)}
