"""Pareto fronts of accuracy and cost, and their hypervolume."""

from __future__ import annotations

import math
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


def knee(points: Sequence[Point]) -> Point:
    """The point of a front that lies farthest above the line between its ends; of two the more accurate one.

    Cost is taken by its logarithm, and both axes as parts of the front's range.

    Args:
        points: a front, cheapest first; at least one.
    """
    if len(points) < 3:
        return points[-1]
    first, last = points[0], points[-1]
    width = math.log(last.cost / first.cost)
    height = last.accuracy - first.accuracy

    def above(point: Point) -> float:
        return (point.accuracy - first.accuracy) / height - math.log(point.cost / first.cost) / width

    return max(points, key=lambda point: (above(point), point.accuracy))


def hypervolume(points: Iterable[Point], largest_cost: float) -> float:
    """The share of the box [0, 1] × [0, largest cost] that some point is better than.

    Points that cost more than the box is wide are left out.
    """
    inside = [point for point in front(points) if point.cost <= largest_cost]
    ends = [*(point.cost for point in inside[1:]), largest_cost][: len(inside)]
    area = sum(point.accuracy * (end - point.cost) for point, end in zip(inside, ends, strict=True))
    return area / largest_cost
