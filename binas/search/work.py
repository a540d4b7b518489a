"""What a search hands to a strategy that trains in its own way: images, and where its files go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from binas.data.batches import Batches
from binas.run.metrics import MetricsLog


@dataclass(frozen=True)
class Work:
    """What a strategy trains with.

    Args:
        train: batches of the train split, augmented.
        open_validation: gives the search-validation split as it is, in the size in which networks are
            evaluated; asked once, by who needs it.
        folder: of the run, for what makes it resumable; None: everything stays in memory.
        tensorboard: whether metrics go to TensorBoard too.
    """

    train: Batches
    open_validation: Callable[[], Batches]
    folder: Path | None = None
    tensorboard: bool = True

    @cached_property
    def validation(self) -> Batches:
        """The search-validation split as it is."""
        return self.open_validation()

    def judged(self, most: int) -> Batches:
        """The first so many search-validation images, of every class alike; 0: all of them."""
        return self.validation if most <= 0 else self.validation.first(most)

    def log(self, start_step: int) -> MetricsLog:
        """The log of a run, from a step on; nothing is written without a folder."""
        writes = self.folder is not None
        return MetricsLog(self.folder or Path(), start_step, tensorboard=self.tensorboard, writes=writes)
