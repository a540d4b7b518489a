"""Operators of evolution on genomes and objectives: crossover, mutation, non-dominated ranks, crowding.

Deb et al., A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II, IEEE TEC 6(2), 2002, with its
constrained domination. All objectives are minimised; a penalty is the sum of a candidate's violations.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from binas.evolve.problems.genome import Genome, GenomeSpace

Values = npt.NDArray[np.float64]


def crossover(first: Genome, second: Genome, generator: random.Random, swap: float = 0.5) -> Genome:
    """Uniform crossover: each gene of the first, or with probability `swap` that of the second."""
    return tuple(b if generator.random() < swap else a for a, b in zip(first, second, strict=True))


def mutation(genome: Genome, space: GenomeSpace, generator: random.Random, rate: float) -> Genome:
    """Each gene becomes, with that probability, another of its choices."""
    places = []
    for place, gene in zip(genome, space.genes, strict=True):
        others = len(gene.choices) - 1
        if generator.random() < rate and others:
            step = generator.randrange(others)
            place = step if step < place else step + 1
        places.append(place)
    return tuple(places)


def ranks(values: Values, penalties: Values | None = None) -> npt.NDArray[np.int64]:
    """For each candidate the number of its non-dominated front, from 0.

    A feasible candidate dominates any other, of two infeasible ones the smaller penalty, of two feasible
    ones that which is nowhere worse and somewhere better.

    Shape: (N, M) objectives, (N,) penalties, 0 where feasible -> (N,).
    """
    count = len(values)
    violated = np.zeros(count) if penalties is None else np.maximum(penalties, 0.0)
    fits = violated == 0
    nowhere_worse = (values[:, None] <= values[None]).all(axis=2)
    better = (values[:, None] < values[None]).any(axis=2)
    both = fits[:, None] & fits[None]
    dominates = (both & nowhere_worse & better) | (~both & (violated[:, None] < violated[None]))
    result = np.full(count, -1, dtype=np.int64)
    left = np.ones(count, dtype=bool)
    front = 0
    while left.any():
        first = left & ~dominates[left].any(axis=0)
        result[first] = front
        left &= ~first
        front += 1
    return result


def crowding(values: Values) -> Values:
    """The crowding distance of each member of one front; infinite at its ends.

    The mean over objectives of the gap between a member's neighbours, as a part of the front's range.

    Shape: (N, M) -> (N,).
    """
    count, objectives = values.shape
    total: Values = np.zeros(count)
    for column in values.T:
        order = np.argsort(column, kind="stable")
        spread = column[order[-1]] - column[order[0]]
        if spread == 0:
            continue  # an objective in which all agree tells none of them apart
        gaps = np.full(count, np.inf)
        gaps[1:-1] = (column[order[2:]] - column[order[:-2]]) / spread
        total[order] += gaps
    mean: Values = total / objectives
    return mean


def rank_and_crowding(values: Values, penalties: Values | None = None) -> tuple[list[int], list[float]]:
    """Front and crowding distance within it of every candidate. Shape: (N, M), (N,)."""
    fronts = ranks(values, penalties)
    distances = np.zeros(len(values))
    for front in set(fronts.tolist()):
        members = fronts == front
        distances[members] = crowding(values[members])
    return fronts.tolist(), distances.tolist()


def survivors(values: Values, penalties: Values | None, count: int) -> list[int]:
    """Positions of the `count` best: lower fronts first, then larger crowding distance, then age."""
    fronts, distances = rank_and_crowding(values, penalties)
    order = sorted(range(len(values)), key=lambda i: (fronts[i], -distances[i], i))
    return order[:count]


def tournament(fronts: Sequence[int], distances: Sequence[float], generator: random.Random) -> int:
    """The better of two candidates drawn at random: lower front, then larger crowding distance."""
    first, second = generator.randrange(len(fronts)), generator.randrange(len(fronts))
    return min(first, second, key=lambda i: (fronts[i], -distances[i]))


def roulette(fitness: Sequence[float], generator: random.Random) -> int:
    """A candidate drawn with a probability that grows with its fitness, from 0 for the worst one."""
    least = min(fitness)
    weights = [value - least for value in fitness]
    if sum(weights) <= 0:
        return generator.randrange(len(fitness))
    return generator.choices(range(len(fitness)), weights)[0]
