"""The table of trained binary networks that travels with the package: a score gets its τ in seconds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from binas.arch.kinds import load_any_space
from binas.arch.macro_genotype import MacroGenotype
from binas.config import read_text
from binas.errors import UserError
from binas.search.measured.ranking import kendall

SPACE = "binas_macro_small"
"""What the genotypes are drawn from."""
COSTS = ("ops", "flops", "bops", "parameters", "packed_bytes")
OF_A_TRAINING = (
    *("genotype", "stem", "stages", "seed", "losses", "accuracies", "validation", "test"),
    *("seconds", "machine"),
    *COSTS,
)
OF_A_SCORE = ("genotype", "supernet", "loss", "accuracy")
"""What a row must hold, of each kind."""


@dataclass(frozen=True)
class TableTraining:
    """One training of a genotype from scratch.

    Args:
        seed: of weights and of the order of images.
        losses, accuracies: on the training images, mean of each epoch; shares in 0..1.
        validation: epoch, from 1 on, to loss and accuracy on the search-validation images after it.
        test_loss, test_accuracy: on all test images in the end.
        seconds: wall time.
        machine: what it ran on, in words.
    """

    seed: int
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    validation: Mapping[int, tuple[float, float]]
    test_loss: float
    test_accuracy: float
    seconds: float
    machine: str


@dataclass(frozen=True)
class TableEntry:
    """A genotype, what it costs and what it reached.

    Args:
        genotype: of the space `binas_macro_small`.
        trainings: by seed, in their order.
        scores: seed of a supernet to loss and accuracy with its weights, on the search-validation images.
        ops: FLOPs + BOPs/64 of an image.
        flops, bops: multiply-accumulates of an image in real numbers, and in signs.
        parameters: numbers that are trained.
        packed_bytes: weights with signs as bits.
    """

    genotype: MacroGenotype
    trainings: tuple[TableTraining, ...]
    scores: Mapping[int, tuple[float, float]]
    ops: float
    flops: int
    bops: int
    parameters: int
    packed_bytes: int

    @property
    def test_accuracy(self) -> float:
        """The mean over its trainings, in 0..1."""
        return statistics.mean(training.test_accuracy for training in self.trainings)


Score = Callable[[TableEntry], float]
"""What is to rank genotypes: the higher the better."""


class TrainedTable(Sequence[TableEntry]):
    """Genotypes that were trained equally often, each with every supernet's score.

    Args:
        entries: its genotypes.
    """

    def __init__(self, entries: Sequence[TableEntry]) -> None:
        self._entries = tuple(entries)

    @overload
    def __getitem__(self, place: int) -> TableEntry: ...
    @overload
    def __getitem__(self, place: slice) -> TrainedTable: ...
    def __getitem__(self, place: int | slice) -> TableEntry | TrainedTable:
        if isinstance(place, slice):
            return TrainedTable(self._entries[place])
        return self._entries[place]

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[TableEntry]:
        return iter(self._entries)

    def kendall_tau(self, score: Score) -> float:
        """Kendall's τ_b of a score with the mean test accuracy, in [−1, 1]."""
        return kendall([score(entry) for entry in self], [entry.test_accuracy for entry in self])

    def precision(self, score: Score, at: int = 10) -> float:
        """The share of the best by a score that are among as many best by mean test accuracy, in 0..1.

        Args:
            at: how many.
        Raises:
            ValueError: it is not between 1 and the number of genotypes.
        """
        if not 1 <= at <= len(self):
            raise ValueError(f"at is 1 to {len(self)}, the number of genotypes, not {at}")
        found = {entry.genotype.hash() for entry in sorted(self, key=score, reverse=True)[:at]}
        best = sorted(self, key=lambda entry: entry.test_accuracy, reverse=True)[:at]
        return sum(entry.genotype.hash() in found for entry in best) / at


def read_table(rows: Path, scores: Path) -> TrainedTable:
    """The table of two files of rows: what was trained, and what supernets say.

    Genotypes that miss a training or a score that others have are left out.

    Raises:
        UserError: a file is missing, or a line of it is no row.
    """
    trained: dict[str, dict[int, dict[str, Any]]] = {}
    for row in _rows(rows, OF_A_TRAINING):
        trained.setdefault(row["genotype"], {})[row["seed"]] = row
    scored: dict[str, dict[int, tuple[float, float]]] = {}
    for row in _rows(scores, OF_A_SCORE):
        scored.setdefault(row["genotype"], {})[row["supernet"]] = (row["loss"], row["accuracy"])
    space = load_any_space(SPACE).model_dump(mode="json")
    seeds = max(map(len, trained.values()), default=0)
    supernets = max(map(len, scored.values()), default=0)
    return TrainedTable(
        [
            _entry([by_seed[seed] for seed in sorted(by_seed)], scored.get(name, {}), space)
            for name, by_seed in trained.items()
            if len(by_seed) == seeds and len(scored.get(name, {})) == supernets
        ]
    )


def _entry(
    rows: Sequence[Mapping[str, Any]], scores: Mapping[int, tuple[float, float]], space: Mapping[str, Any]
) -> TableEntry:
    first = rows[0]
    chosen = {"kind": "macro", "space": space, "stem": first["stem"], "stages": first["stages"]}
    return TableEntry(
        MacroGenotype.model_validate(chosen),
        tuple(
            TableTraining(
                row["seed"],
                tuple(row["losses"]),
                tuple(row["accuracies"]),
                {int(epoch): (pair[0], pair[1]) for epoch, pair in row["validation"].items()},
                row["test"][0],
                row["test"][1],
                row["seconds"],
                row["machine"],
            )
            for row in rows
        ),
        dict(sorted(scores.items())),
        *(first[key] for key in COSTS),
    )


def _rows(file: Path, keys: Sequence[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        try:
            row = json.loads(line)
            missing = [key for key in keys if key not in row]
        except (ValueError, TypeError):
            missing = list(keys)
        if missing:
            raise UserError(f"{file}: line {number} is no row of the table: it has no {', '.join(missing)}")
        yield row
