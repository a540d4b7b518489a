"""Evolution with an elite for each bin of cost, so that one ranking gives a whole front."""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from binas.arch.genotype import AnyGenotype


@dataclass(frozen=True)
class Ranked:
    """A genotype with its score and its cost.

    Args:
        loss: what ranks it, the lower the better.
        cost: what it is binned by.
    """

    genotype: AnyGenotype
    loss: float
    cost: float


@dataclass(frozen=True)
class Bins:
    """Ranges of cost of equal ratio.

    Args:
        edges: ascending; one bin more than there are edges.
    """

    edges: tuple[float, ...]

    @classmethod
    def over(cls, costs: Sequence[float], number: int) -> Bins:
        """Bins over the range of these costs, in equal steps of their logarithm."""
        least, most = math.log(max(min(costs), 1e-12)), math.log(max(*costs, 1e-12))
        step = (most - least) / number
        return cls(tuple(math.exp(least + step * place) for place in range(1, number)))

    def __len__(self) -> int:
        return len(self.edges) + 1

    def of(self, cost: float) -> int:
        """The bin of a cost, from 0 for the cheapest."""
        return bisect.bisect_right(self.edges, cost)

    def split(self, ranked: Sequence[Ranked]) -> list[list[Ranked]]:
        """What lies in each bin, the best first."""
        found: list[list[Ranked]] = [[] for _ in range(len(self))]
        for one in sorted(ranked, key=lambda one: one.loss):
            found[self.of(one.cost)].append(one)
        return found

    def best(self, ranked: Sequence[Ranked], number: int) -> list[Ranked]:
        """So many, in turn from all bins: first the best of each, then the second."""
        split = self.split(ranked)
        order = [
            one for place in range(len(ranked)) for members in split for one in members[place : place + 1]
        ]
        return order[:number]


def evolved(
    begun: Sequence[Ranked],
    bins: Bins,
    rounds: int,
    offspring: int,
    vary: Callable[[Sequence[Ranked]], AnyGenotype],
    ranked: Callable[[AnyGenotype], Ranked],
    after_round: Callable[[int, Sequence[Ranked]], None] = lambda number, pool: None,
) -> list[Ranked]:
    """Everything that was ranked: in each round offspring of the best of each bin.

    Args:
        begun: what the first parents come from.
        bins: of cost.
        rounds: how many.
        offspring: of each round; what was ranked before is not ranked again, but counts.
        vary: makes a genotype from parents, one for each bin that holds any.
        ranked: scores a genotype.
        after_round: told its number, from 1 on, and all that was ranked so far.
    Reference: Lin et al., NAS-BNN, arXiv:2408.15484 (one elite for each bin of OPs as parents).
    """
    pool = {one.genotype.hash(): one for one in begun}
    for number in range(1, rounds + 1):
        parents = [members[0] for members in bins.split(list(pool.values())) if members]
        for _ in range(offspring):
            child = vary(parents)
            if child.hash() not in pool:
                pool[child.hash()] = ranked(child)
        after_round(number, list(pool.values()))
    return list(pool.values())


def varied(
    mutation: Callable[[AnyGenotype], AnyGenotype],
    crossover: Callable[[AnyGenotype, AnyGenotype], AnyGenotype],
    allowed: Callable[[AnyGenotype], bool],
    generator: random.Random,
    tries: int = 50,
) -> Callable[[Sequence[Ranked]], AnyGenotype]:
    """Offspring: half are mutations of a parent, half crossovers of two; what limits forbid is tried again.

    After so many tries a parent itself is given, which counts as ranked.
    """

    def vary(parents: Sequence[Ranked]) -> AnyGenotype:
        first, second = (generator.choice(parents).genotype for _ in range(2))
        crosses = len(parents) > 1 and generator.random() < 0.5
        for _ in range(tries):
            child = crossover(first, second) if crosses else mutation(first)
            if allowed(child):
                return child
        return first

    return vary
