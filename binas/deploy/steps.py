"""Step functions: a code for each number, by the thresholds that it reaches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from binas.deploy.graph import Array


class NotAStep(Exception):
    """The function is none of a single number, or goes up and down."""


@dataclass(frozen=True)
class Steps:
    """A code for each number: `levels[k]`, k the thresholds that it reaches; backwards where it falls.

    Args:
        levels: the code behind each threshold; the first one before all. Ascending, but for a base whose code
            goes up and down.
        thresholds: (C, len(levels) − 1), ascending in each row; x >= threshold reaches it.
        falls: (C,): code levels[len(levels) − 1 − k] instead.
    """

    levels: tuple[int, ...]
    thresholds: Array
    falls: Array

    def __call__(self, x: Array) -> Array:
        """The codes of (…, C)."""
        count = np.zeros(x.shape, np.int64)
        for column in self.thresholds.T:
            count += x >= column
        count = np.where(self.falls, len(self.levels) - 1 - count, count)
        found: Array = np.asarray(self.levels, np.int16)[count]
        return found


def steps_of_sums(codes: Array, sums: Array, levels: tuple[int, ...]) -> Steps:
    """The steps of a function of integers that is known at all of them.

    Args:
        codes: (R, C) at each of the sums.
        sums: (R,) ascending.
    Raises:
        NotAStep: a channel goes up and down.
    """
    change = np.diff(codes.astype(np.int64), axis=0)
    falls = np.asarray((change < 0).any(0))
    if (falls & (change > 0).any(0)).any():
        raise NotAStep("its code goes up and down with the sum")
    beyond = int(sums[-1]) + 1
    columns = []
    for number in range(1, len(levels)):
        reached = reaches(codes, levels, number, falls)
        columns.append(np.where(reached.any(0), sums[reached.argmax(0)], beyond))
    return Steps(levels, np.stack(columns, 1).astype(np.int32), falls)


def reaches(codes: Array, levels: tuple[int, ...], number: int, falls: Array) -> Array:
    """Whether codes have come to a level, upwards or, where they fall, downwards."""
    up: Array = codes >= levels[number]
    down: Array = codes <= levels[len(levels) - 1 - number]
    found: Array = np.where(falls, down, up)
    return found
