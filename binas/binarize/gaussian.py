"""The best evenly spaced levels for the positive half of a standard normal distribution."""

from __future__ import annotations

import itertools
import math


def half_wave_step(num_levels: int, threshold: float = 0.0) -> float:
    """Δ for which the levels Δ, 2Δ, … are nearest in squared error to a standard normal x above a threshold.

    Values between two levels take the nearer one, those just above the threshold the first. Found by
    alternating between the places of the levels and the best Δ for these, which never raises the error.

    Args:
        num_levels: how many levels, at least 1.
        threshold: at least 0.
    """
    step = 3.0 / (num_levels + 1) + threshold / 2
    for _ in range(1000):
        edges = [threshold, *(max((i + 0.5) * step, threshold) for i in range(1, num_levels)), math.inf]
        weighted = mass = 0.0
        for level, (low, high) in enumerate(itertools.pairwise(edges), start=1):
            weighted += level * (_density(low) - _density(high))
            mass += level * level * (_below(high) - _below(low))
        step, before = weighted / mass, step
        if abs(step - before) < 1e-12:
            break
    return step


def normal_quantile(share: float) -> float:
    """The value below which a standard normal lies with that probability, strictly between 0 and 1."""
    low, high = -40.0, 40.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _below(middle) < share else (low, middle)
    return (low + high) / 2


def _density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _below(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))
