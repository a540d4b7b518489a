"""Trials by genotype, trained rung by rung; on the disk in between, so that a search goes on where it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from binas.arch.genotype import AnyGenotype
from binas.data.batches import Batches
from binas.run.checkpoint import load_checkpoint, save_checkpoint
from binas.search.measured.memo import Memo
from binas.search.measured.schedule import Schedule
from binas.search.measured.trial import Progress, Trial

KIND = "trial"


class Trials:
    """Trains genotypes alone up to rungs of one schedule; what a file holds is not trained again.

    Args:
        build: gives a genotype's network with fresh weights, on the device.
        schedule: of each training.
        train: the images that weights are trained on.
        validation: those that networks are judged by.
        seed: of weights, order and augmentation; a genotype's own is drawn from it and its hash.
        folder: where rows and states go; None: memory only.
    """

    def __init__(
        self,
        build: Callable[[AnyGenotype], nn.Module],
        schedule: Schedule,
        train: Batches,
        validation: Batches,
        seed: int,
        folder: Path | None,
    ) -> None:
        self.build, self.schedule, self.seed = build, schedule, seed
        self.train, self.validation, self.folder = train, validation, folder
        self.rows = Memo(None if folder is None else folder / "trials.jsonl")
        self.running: dict[str, Trial] = {}

    def trained(self, genotype: AnyGenotype, until: int) -> Progress:
        """What a genotype has shown up to an epoch of its schedule."""
        name = genotype.hash()
        key = f"{name} {until}"
        if key in self.rows:
            return Progress.from_plain(self.rows[key])
        trial = self._trial(genotype)
        progress = trial.train(until)
        if self.folder is not None:
            save_checkpoint(self._file(name), KIND, {"genotype": name}, trial.state_dict())
        self.rows.put(key, progress.to_plain())
        if until >= self.schedule.epochs:
            self.drop(genotype)
        return progress

    def drop(self, genotype: AnyGenotype) -> None:
        """Forgets the weights of a genotype that is not trained on."""
        name = genotype.hash()
        self.running.pop(name, None)
        if self.folder is not None:
            self._file(name).unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the file of rows."""
        self.rows.close()

    def _trial(self, genotype: AnyGenotype) -> Trial:
        name = genotype.hash()
        if name not in self.running:
            trial = Trial(
                name,
                lambda: self.build(genotype),
                self.schedule,
                self.train,
                self.validation,
                self.seed,
            )
            if self.folder is not None and self._file(name).exists():
                trial.load_state_dict(load_checkpoint(self._file(name), KIND).state)
            self.running[name] = trial
        return self.running[name]

    def _file(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / "trials" / f"{name}.pt"
