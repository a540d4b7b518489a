"""Small integers as sums of signs: c = constant + Σ factor · s with s in {−1, +1}.

A stored bit is 1 for −1. Codes and weights of any evenly spaced levels are such sums, so that every integer
convolution is one of signs, or a few added up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from binas.deploy.graph import Array

WORD = 64
LARGEST_CODE, MOST_PLANES = 2**15 - 1, 16
"""Of codes and of weights."""


@dataclass(frozen=True)
class Levels:
    """Evenly spaced integers as planes of signs.

    Args:
        lowest, step: the levels are lowest + step·k.
        planes: of signs: the binary digits of k, from the lowest.
    """

    lowest: int
    step: int
    planes: int

    @property
    def factors(self) -> tuple[float, ...]:
        """Of the signs; halves of integers."""
        return tuple(self.step * 2**plane / 2 for plane in range(self.planes))

    @property
    def constant(self) -> float:
        """What is added; half of an integer."""
        return float(self.lowest + self.step * (2**self.planes - 1) / 2)

    @property
    def top(self) -> int:
        """The value where all stored bits are 0."""
        return int(self.lowest + self.step * (2**self.planes - 1))

    def holds(self, value: float) -> bool:
        """Whether it is one of the values that the planes can say."""
        return value in range(self.lowest, self.top + 1, self.step)

    def bits(self, codes: Array) -> list[Array]:
        """The stored bits of each plane; codes must be values of these levels."""
        digits = (codes.astype(np.int64) - self.lowest) // self.step
        return [1 - (digits >> plane & 1) for plane in range(self.planes)]


def levels_of(values: Sequence[int]) -> Levels:
    """The planes of some integers: those of the evenly spaced ones that hold them all."""
    found = sorted(set(values))
    if len(found) == 1:
        found = [-abs(found[0]), abs(found[0])] if found[0] else [0, 1]
    step = math.gcd(*[value - found[0] for value in found[1:]])
    count = (found[-1] - found[0]) // step + 1
    return Levels(found[0], step, max(1, math.ceil(math.log2(count))))


def packed(bits: Array) -> Array:
    """Bits along the last axis as words of 64, bit c of a word for entry c; the rest 0.

    Shape: (…, n) -> (…, ceil(n / 64)) uint64.
    """
    words = -(-bits.shape[-1] // WORD)
    padded = np.zeros((*bits.shape[:-1], words * WORD), np.uint8)
    padded[..., : bits.shape[-1]] = bits
    return np.packbits(padded, axis=-1, bitorder="little").view("<u8").astype(np.uint64)
