"""Compares rules of decision on the table: thousands of simulated searches with the same epochs to spend.

A search sees one training seed, the test accuracy of the other seeds judges it. What a supernet's training
and its ranking cost is taken from the same epochs; rungs go on along one schedule, that of the table.

    python tools/table/simulate.py
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from binas.run.files import write_atomic
from binas.search.measured.halving import epochs_of, halved
from binas.search.measured.ranking import better_score, kendall
from binas.search.measured.search import ENOUGH_TO_TELL, PARAMETERS, SUPERNET
from binas.search.measured.table import read_table
from tools.table.score_table import ROWS as SCORES
from tools.table.train_table import ROWS, SCHEDULE

FOLDER = Path("benchmarks/table")
RANKED_EPOCHS = 0.2
"""Epochs of training that scoring a genotype costs: 5,512 images forward, a third of a training pass each."""
RUNGS = (2, 4, SCHEDULE.epochs)
KEEP = 0.5
LEAST_TAU = 0.1
"""As the strategy's `least_tau`."""
PROBED = 12
"""As the strategy's `random_finalists`."""


@dataclass(frozen=True)
class Entry:
    """A genotype of the table.

    Args:
        losses: of each training seed, by epoch.
        validation, test: accuracy of each training seed at the end.
        score: of each supernet, the lower the better.
    """

    name: str
    parameters: int
    ops: float
    losses: tuple[tuple[float, ...], ...]
    validation: tuple[float, ...]
    test: tuple[float, ...]
    score: tuple[float, ...] = ()


def entries(rows: Path, scores: Path) -> list[Entry]:
    """Genotypes of which every seed is there, and that every supernet has scored."""
    return [
        Entry(
            found.genotype.hash(),
            found.parameters,
            found.ops,
            tuple(training.losses for training in found.trainings),
            tuple(training.validation[SCHEDULE.epochs][1] for training in found.trainings),
            tuple(training.test_accuracy for training in found.trainings),
            tuple(loss for loss, _ in found.scores.values()),
        )
        for found in read_table(rows, scores)
    ]


@dataclass(frozen=True)
class Search:
    """One simulated search: which seed it sees, with which supernet, and what it draws from."""

    table: Sequence[Entry]
    seed: int
    supernet: int
    generator: random.Random
    epochs: float

    def drawn(self, number: int) -> list[Entry]:
        """So many different genotypes."""
        return self.generator.sample(self.table, min(number, len(self.table)))

    def halved(self, finalists: Sequence[Entry]) -> Entry:
        """What successive halving by training losses leaves, by validation in the end."""
        names = {entry.name: entry for entry in finalists}

        def reached(name: str, rung: int) -> float:
            if rung == SCHEDULE.epochs:
                return -names[name].validation[self.seed]
            return sum(names[name].losses[self.seed][:rung])

        left, _ = halved([list(names)], RUNGS, KEEP, reached)
        return names[left[0][0]]

    def affordable(self, epochs: float) -> int:
        """Finalists that halving can train with so many epochs."""
        number = 1
        while epochs_of([number + 1], RUNGS, KEEP) <= epochs:
            number += 1
        return number


def random_search(search: Search) -> Entry:
    """Trains as many as the epochs allow to the end, and keeps the best by validation."""
    number = int(search.epochs // SCHEDULE.epochs)
    return max(search.drawn(number), key=lambda entry: entry.validation[search.seed])


def halving(search: Search) -> Entry:
    """Halves random ones."""
    return search.halved(search.drawn(search.affordable(search.epochs)))


def largest(key: Callable[[Entry], float]) -> Callable[[Search], Entry]:
    """Halves the largest ones of as many as ranking would look at."""

    def rule(search: Search) -> Entry:
        pool = sorted(search.drawn(64), key=key, reverse=True)
        return search.halved(pool[: search.affordable(search.epochs)])

    return rule


def ranking(supernet_epochs: int, pool: int) -> Callable[[Search], Entry]:
    """Halves the best ranked ones beside as many random ones."""

    def rule(search: Search) -> Entry:
        left = search.epochs - supernet_epochs - RANKED_EPOCHS * pool
        number = search.affordable(left)
        seen = search.drawn(pool)
        best = sorted(seen, key=lambda entry: entry.score[search.supernet])
        half = (number + 1) // 2
        rest = best[half:]
        return search.halved([*best[:half], *search.generator.sample(rest, min(number - half, len(rest)))])

    return rule


def default(supernet_epochs: int, pool: int, probed: int) -> Callable[[Search], Entry]:
    """What `binas` does: random ones say which score ranks them better after the first rung, and it chooses.

    Args:
        supernet_epochs: of the supernet; 0: there is none, and parameters are the only score.
        pool: genotypes that are looked at.
        probed: random ones, which are halved with the rest.
    """

    def rule(search: Search) -> Entry:
        charged = supernet_epochs + RANKED_EPOCHS * pool if supernet_epochs else 0
        number = search.affordable(search.epochs - charged)
        seen = search.drawn(pool)
        own = seen[: min(probed, max(number // 2, 1))]
        reached = [-sum(entry.losses[search.seed][: RUNGS[0]]) for entry in own]
        scores: dict[str, Callable[[Entry], float]] = {PARAMETERS: lambda entry: entry.parameters}
        if supernet_epochs:
            scores[SUPERNET] = lambda entry: -entry.score[search.supernet]
        best: str | None = PARAMETERS
        if len(own) >= ENOUGH_TO_TELL:
            taus = {name: kendall([score(one) for one in own], reached) for name, score in scores.items()}
            best = better_score(taus, len(own), LEAST_TAU, PARAMETERS)
        rest = seen[len(own) :]
        if best is not None:
            rest = sorted(rest, key=scores[best], reverse=True)
        return search.halved([*own, *rest[: number - len(own)]])

    return rule


def main() -> None:
    """Prints and writes the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=Path, default=ROWS, help=f"trained genotypes (default: {ROWS})")
    parser.add_argument("--scores", type=Path, default=SCORES, help=f"of supernets (default: {SCORES})")
    parser.add_argument(
        "--epochs", type=float, nargs="+", default=[60, 120, 240], help="of a search (60 120 240)"
    )
    parser.add_argument("--searches", type=int, default=2000, help="of each rule (default: 2000)")
    parser.add_argument("--supernet", type=int, default=30, help="epochs of a supernet (default: 30)")
    parser.add_argument("--output", type=Path, default=FOLDER / "simulation.md", help="where the table goes")
    options = parser.parse_args()
    table = entries(options.rows, options.scores)
    lines = [*described(table), ""]
    for epochs in options.epochs:
        lines += [*compared(table, epochs, options.searches, options.supernet), ""]
    write_atomic(options.output, "\n".join(lines))
    print("\n".join(lines))


def described(table: Sequence[Entry]) -> list[str]:
    """What there is to find, and how well single scores rank."""
    means = [statistics.mean(entry.test) for entry in table]
    pairs = [entry.test for entry in table]
    within = math.sqrt(statistics.mean(statistics.variance(pair) for pair in pairs))
    lines = [
        f"{len(table)} genotypes × {len(table[0].test)} seeds; test accuracy {statistics.mean(means):.4f},"
        f" standard deviation over genotypes {statistics.stdev(means):.4f}, over seeds {within:.4f}",
        f"variance over genotypes: {_explained(table)}",
        "",
        "| score | Kendall's τ with the mean test accuracy |",
        "| --- | --- |",
    ]
    scores: dict[str, Callable[[Entry], float]] = {
        "number of parameters": lambda entry: entry.parameters,
        "OPs": lambda entry: entry.ops,
        "− sum of 2 training losses": lambda entry: -sum(entry.losses[0][:2]),
        "− sum of 4 training losses": lambda entry: -sum(entry.losses[0][:4]),
        "validation accuracy at the end, one seed": lambda entry: entry.validation[0],
    }
    for place in range(len(table[0].score)):
        scores[f"− loss in supernet {place}"] = lambda entry, place=place: -entry.score[place]  # type: ignore[misc]
    for name, score in scores.items():
        lines.append(f"| {name} | {kendall([score(entry) for entry in table], means):.2f} |")
    return lines


def _explained(table: Sequence[Entry]) -> str:
    """How the variance of mean test accuracy divides into size, training seeds and the rest, in words."""
    accuracy = np.array([statistics.mean(entry.test) for entry in table])
    sizes = [np.log([getattr(entry, name) for entry in table]) for name in ("parameters", "ops")]
    left = []
    for number in (1, 2):
        features = np.stack([np.ones(len(table)), *sizes[:number]], axis=1)
        found = np.linalg.lstsq(features, accuracy, rcond=None)[0]
        left.append(float((accuracy - features @ found).var() / accuracy.var()))
    seeds = statistics.mean(statistics.variance(entry.test) / len(entry.test) for entry in table)
    noise = seeds / float(accuracy.var())
    return (
        f"log parameters explain {1 - left[0]:.0%}, with log OPs {1 - left[1]:.0%};"
        f" training seeds {noise:.0%}; the rest {max(left[1] - noise, 0):.0%}"
    )


def compared(table: Sequence[Entry], epochs: float, searches: int, supernet: int) -> list[str]:
    """A line for each rule: what it finds, and how often it is ahead of random search."""
    rules: dict[str, Callable[[Search], Entry]] = {
        "random search": random_search,
        "halving": halving,
        "most parameters + halving": largest(lambda entry: entry.parameters),
        "most OPs + halving": largest(lambda entry: entry.ops),
    }
    if table[0].score:
        pool = min(64, len(table) // 2)
        rules["ranking + halving"] = ranking(supernet, pool)
        rules["binas, the better of both scores"] = default(supernet, pool, PROBED)
    rules["binas without a supernet"] = default(0, 64, PROBED)
    found: dict[str, list[float]] = {name: [] for name in rules}
    for number in range(searches):
        for name, rule in rules.items():
            generator = random.Random(f"{name} {number}")
            seed = number % len(table[0].test)
            one = Search(table, seed, number % max(len(table[0].score), 1), generator, epochs)
            others = [test for place, test in enumerate(rule(one).test) if place != seed]
            found[name].append(statistics.mean(others))
    lines = [
        f"{searches:,} searches of {epochs:g} epochs each:",
        "",
        "| rule | test accuracy | P(better than random search) | 95 % interval |",
        "| --- | --- | --- | --- |",
    ]
    for name, values in found.items():
        ahead = [0.5 * ((a > b) + (a >= b)) for a, b in zip(values, found["random search"], strict=True)]
        share = statistics.mean(ahead)
        half = 1.96 * statistics.stdev(ahead) / math.sqrt(len(ahead))
        lines.append(
            f"| {name} | {statistics.mean(values):.4f} ± {statistics.stdev(values):.4f} | {share:.3f} |"
            f" {share - half:.3f}–{share + half:.3f} |"
        )
    return lines


if __name__ == "__main__":
    main()
