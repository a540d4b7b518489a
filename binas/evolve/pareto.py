"""Pareto fronts of accuracy and cost, and their hypervolume."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Point(NamedTuple):
    """A candidate by what is wanted of it.

    Args:
        accuracy: in [0, 1], the higher the better.
        cost: the lower the better, OPs for example.
        number: of its trial.
    """

    accuracy: float
    cost: float
    number: int = -1


def front(points: Iterable[Point]) -> list[Point]:
    """The points that no other one beats, cheapest first; of equal ones the earliest."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.accuracy, p.number)):
        if not best or point.accuracy > best[-1].accuracy:
            best.append(point)
    return best


def hypervolume(points: Iterable[Point], largest_cost: float) -> float:
    """The share of the box [0, 1] × [0, largest cost] that some point is better than.

    Points that cost more than the box is wide are left out.
    """
    return _area([p for p in front(points) if p.cost <= largest_cost], largest_cost)


def _area(points: Sequence[Point], largest_cost: float) -> float:
    ends = [point.cost for point in points[1:]] + [largest_cost]
    area = sum(point.accuracy * (end - point.cost) for point, end in zip(points, ends, strict=True))
    return area / largest_cost
