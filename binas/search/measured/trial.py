"""The stand-alone training of one genotype, in as many pieces as wanted along one schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from binas.binarize import is_annealed, set_progress
from binas.data.batches import Batches
from binas.engine.acceleration import MixedPrecision
from binas.engine.capture import capture_choice
from binas.engine.loop import accuracy, evaluate, train_epoch
from binas.engine.micro_batch import Batch
from binas.engine.update import Update
from binas.run.optimizer_state import load_optimizer_state, optimizer_state
from binas.run.seeds import derive_seed, seed_everything
from binas.search.measured.schedule import Schedule


@dataclass
class Progress:
    """What a trial has shown so far.

    Args:
        losses: mean training loss of each epoch.
        accuracies: share of training images that were right, of each epoch.
        validation: epoch, from 1 on, to loss and accuracy on the search-validation images after it.
    """

    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    validation: dict[int, tuple[float, float]] = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """As plain values, for a row or a checkpoint."""
        judged = {str(epoch): list(pair) for epoch, pair in self.validation.items()}
        return {"losses": self.losses, "accuracies": self.accuracies, "validation": judged}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Progress:
        """What `to_plain` gave."""
        judged = {int(epoch): (pair[0], pair[1]) for epoch, pair in values["validation"].items()}
        return cls(list(values["losses"]), list(values["accuracies"]), judged)


class Trial:
    """Trains a network from scratch; stopping after an epoch and going on later changes nothing.

    Args:
        name: of the genotype, its hash; what is drawn depends on it and the seed.
        build: gives the network with fresh weights, on the device.
        schedule: of the whole training.
        train: the images that weights are trained on.
        validation: those that it is judged by.
        seed: of weights, order and augmentation.
    """

    def __init__(
        self,
        name: str,
        build: Callable[[], nn.Module],
        schedule: Schedule,
        train: Batches,
        validation: Batches,
        seed: int,
    ) -> None:
        self.name, self.schedule, self.seed = name, schedule, seed
        self.train_batches, self.validation_batches = train, validation
        seed_everything(seed, "trial weights", name)
        self.network = build()
        self.optimizer = schedule.optimizer.build_for(self.network)
        self.progress = Progress()

    @property
    def epoch(self) -> int:
        """Epochs that are done."""
        return len(self.progress.losses)

    def train(self, until: int) -> Progress:
        """Trains up to an epoch of the schedule and judges there.

        Raises:
            UserError: a loss is not finite.
        """
        step = _Step(self)
        for epoch in range(self.epoch, min(until, self.schedule.epochs)):
            where = f"genotype {self.name}, epoch {epoch + 1}/{self.schedule.epochs}"
            seed_everything(self.seed, "trial", self.name, epoch)
            set_progress(self.network, epoch / self.schedule.epochs)
            step.done = epoch * len(self.train_batches)
            batches = self.train_batches.epoch(derive_seed(self.seed, "trial order", self.name, epoch))
            interval = self.schedule.acceleration.check_interval
            result = train_epoch(step, batches, len(self.train_batches), where, check_interval=interval)
            self.progress.losses.append(result.means["loss"])
            self.progress.accuracies.append(result.means["accuracy"])
        if self.epoch not in self.progress.validation:
            set_progress(self.network, 1.0)
            found = evaluate(self.network, self.validation_batches, self.schedule.loss)
            self.progress.validation[self.epoch] = (found["loss"], found["accuracy"])
        return self.progress

    def state_dict(self) -> dict[str, Any]:
        """Everything that is needed to go on."""
        named = dict(self.network.named_parameters())
        return {
            "network": self.network.state_dict(),
            "optimizer": optimizer_state(self.optimizer, named),
            "progress": self.progress.to_plain(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what `state_dict` gave."""
        self.network.load_state_dict(state["network"])
        named = dict(self.network.named_parameters())
        load_optimizer_state(self.optimizer, state["optimizer"], named)
        self.progress = Progress.from_plain(state["progress"])


class _Step:
    """The steps of a trial; a captured pass lives through all epochs that are trained at once."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.trained = (trial.network,)
        self.done = 0
        obstacle = "an annealed binarizer moves with every epoch" if is_annealed(trial.network) else None
        device = next(trial.network.parameters()).device
        self.update = Update(
            self._forward,
            trial.optimizer,
            self.trained,
            MixedPrecision(),
            capture=capture_choice(trial.schedule.acceleration.capture, device, obstacle),
        )

    def step(self, batch: Batch) -> tuple[int, Mapping[str, Tensor]]:
        """One update."""
        self.trial.schedule.set_rate(self.trial.optimizer, self.done, len(self.trial.train_batches))
        self.done += 1
        return len(batch[1]), self.update(batch)

    def _forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        images, labels = batch
        logits = self.trial.network(images)
        loss = self.trial.schedule.loss(logits, labels)
        return loss, {"loss": loss, "accuracy": accuracy(logits, labels)}
