"""What a gradient search can decide, and whether it has: how far alphas can move, and how far they did.

Adam moves a parameter by at most about its rate a step. So after n alpha steps of rate r an alpha has moved
by at most about r·n/T as a logit, and where gradients are noise by that of a random walk, r·√n/T. An edge of
twelve operations on which one is two logits ahead still has 85 % of the largest entropy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from binas.search.config import SearchConfig

NEEDED = 2.0
"""Logits by which an operation has to lead to be told from the others."""
LEAST = 0.1
"""Logits below which a lead is none, however steadily it grew."""
LAST = 3
"""Epochs over which a decision is to stand."""


@dataclass(frozen=True)
class Reach:
    """How far the alphas of a search can move.

    Args:
        steps: alpha steps in all.
        rate: of the alphas' optimizer.
        temperature: T at the end, the smaller one of both kinds of cells.
    """

    steps: int
    rate: float
    temperature: float

    @classmethod
    def of(cls, config: SearchConfig, steps_per_epoch: int) -> Reach:
        """That of a search with these settings."""
        epochs = sum(config.alpha_epochs())
        last = config.temperatures_at(config.num_epochs() - 1)
        return cls(epochs * steps_per_epoch, config.alphas.learning_rate, min(last.values()))

    @property
    def logit(self) -> float:
        """The largest lead, if every step went the same way."""
        return self.rate * self.steps / self.temperature

    @property
    def walk(self) -> float:
        """The standard deviation of a logit after as many steps in random directions."""
        return self.rate * math.sqrt(self.steps) / self.temperature

    def doubt(self) -> str:
        """Why the search cannot decide, with the keys to change; empty where it can."""
        if self.logit >= NEEDED:
            return ""
        return (
            f"alphas can move by {self.logit:.2g} logits at most ({self.steps} steps of rate {self.rate:g} at"
            f" temperature {self.temperature:g}), and {NEEDED:g} are needed to tell an operation from the"
            " others: the genotype will be close to a random one; give more steps (more epochs, a smaller"
            " search.batch_size), a higher search.alphas.learning_rate or a lower temperature.normal.end, or"
            " search with strategy binas"
        )


def walk_gap(operations: int) -> float:
    """The mean lead of the largest of so many standard normal numbers over the second largest."""
    if operations < 2:
        return 0.0
    draws = torch.randn(20_000, operations, generator=torch.Generator().manual_seed(0))
    first, second = draws.topk(2, dim=1).values.unbind(1)
    return float((first - second).mean())


def leads(probabilities: Mapping[str, Tensor]) -> Tensor:
    """By how many logits the most probable operation leads the next, on each edge that has a choice."""
    found = []
    for rows in probabilities.values():
        for row in rows:
            live = row[row > 0]
            if len(live) > 1:
                first, second = live.double().topk(2).values
                found.append(torch.log(first / second))
    return torch.stack(found) if found else torch.zeros(0)


def choices_of(probabilities: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The most probable operation of each edge."""
    return tuple(int(row.argmax()) for rows in probabilities.values() for row in rows)


def stability(choices: Sequence[tuple[int, ...]]) -> float:
    """The share of edges whose choice was the same in the last epochs."""
    last = choices[-LAST:]
    if len(last) < 2 or not last[0]:
        return 0.0
    return sum(len(set(edge)) == 1 for edge in zip(*last, strict=True)) / len(last[0])


def verdict(probabilities: Mapping[str, Tensor], choices: Sequence[tuple[int, ...]], reach: Reach) -> str:
    """Plain words where the genotype is no more than chance; empty where it is more."""
    ahead = leads(probabilities)
    if not len(ahead):
        return ""
    operations = max(int((row > 0).sum()) for rows in probabilities.values() for row in rows)
    chance = reach.walk * walk_gap(operations)
    typical, stands = float(ahead.median()), stability(choices)
    if typical > max(2 * chance, LEAST) and stands >= 0.5:
        return ""
    return (
        f"the first operation of an edge leads the second by {typical:.2g} logits in the median, a random"
        f" walk of as many steps by {chance:.2g}; {stands:.0%} of the choices stood over the last {LAST}"
        " epochs: this genotype is no more than chance; compare it with random ones, or"
        " search with strategy binas"
    )
