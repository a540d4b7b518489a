"""Successive halving: all are trained a little, the better part of each bin of cost goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

K = TypeVar("K", bound=Hashable)


def halved(
    groups: Sequence[Sequence[K]],
    rungs: Sequence[int],
    keep: float,
    trained: Callable[[K, int], float],
    dropped: Callable[[K], None] = lambda one: None,
) -> tuple[list[list[K]], dict[K, dict[int, float]]]:
    """What is left of each group, the best first, and what each reached at which rung.

    Args:
        groups: among whose members is decided, apart from other groups.
        rungs: epochs of the schedule at which is decided, ascending; the last one is its end.
        keep: part of a group that goes on at each rung but the last, in (0, 1); at least one does.
        trained: trains one up to a rung, and gives what it is judged by there, the lower the better.
        dropped: told of each that does not go on.
    Reference: Jamieson and Talwalkar, Non-stochastic Best Arm Identification, arXiv:1502.07943; one schedule
        goes through all rungs.
    """
    left = [list(group) for group in groups]
    reached: dict[K, dict[int, float]] = {one: {} for group in groups for one in group}
    for place, rung in enumerate(rungs):
        for group in left:
            for one in group:
                reached[one][rung] = trained(one, rung)
            group.sort(key=lambda one: reached[one][rung])
        if place < len(rungs) - 1:
            for group in left:
                goes_on = math.ceil(len(group) * keep)
                for one in group[goes_on:]:
                    dropped(one)
                del group[goes_on:]
    return left, reached


def epochs_of(sizes: Sequence[int], rungs: Sequence[int], keep: float) -> int:
    """Epochs that halving groups of these sizes trains in all."""
    total, left, before = 0, list(sizes), 0
    for rung in rungs:
        total += sum(left) * (rung - before)
        left, before = [math.ceil(size * keep) for size in left], rung
    return total
