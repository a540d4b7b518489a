"""Float32 arithmetic that every back end does alike, to the last bit.

Each function is a fixed sequence of IEEE operations; the C program has the same ones. A fused multiply-add
rounds once, as the processors' own does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from binas.deploy.graph import Array

Numbers = Array | np.floating[Any]

F32 = np.float32
LOG2_E = F32(1.44269504)
LN2_HIGH, LN2_LOW = F32(0.693359375), F32(-2.12194440e-4)
EXP = tuple(
    map(F32, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5))
)
"""Polynomial of (exp(r) − 1 − r) / r² for |r| <= ln 2 / 2, from the highest power (Moshier, Cephes)."""
LARGEST_EXPONENT = F32(88.0)


def fma(a: Numbers, b: Numbers, c: Numbers) -> Array:
    """a·b + c, rounded once to float32.

    Shape: broadcast.
    """
    product = np.asarray(a, np.float64) * np.asarray(b, np.float64)  # exact: 48 bits
    c = np.asarray(c, np.float64)
    total = product + c
    # what the sum in float64 lost; where it lost something, its last bit is made odd, so that the rounding to
    # float32 sees on which side it lies
    back = total - product
    lost = (product - (total - back)) + (c - back)
    bits = total.view(np.int64) if total.shape else total.reshape(1).view(np.int64).reshape(())
    even = (lost != 0) & np.isfinite(total) & ((bits & 1) == 0)
    if not even.any():
        rounded: Array = total.astype(np.float32)
        return rounded
    away = np.where((lost > 0) == (total > 0), 1, -1)
    nudged = np.where(even, bits + away, bits)
    found: Array = np.ascontiguousarray(nudged).view(np.float64).astype(np.float32)
    return found


def exp(x: Array) -> Array:
    """The exponential function, within two units of the last place."""
    x = np.clip(x.astype(np.float32), -LARGEST_EXPONENT, LARGEST_EXPONENT)
    n = np.rint(x * LOG2_E).astype(np.float32)
    r = fma(n, -LN2_HIGH, x)
    r = fma(n, -LN2_LOW, r)
    y = np.full_like(r, EXP[0])
    for coefficient in EXP[1:]:
        y = fma(y, r, coefficient)
    y = fma(y, r * r, r) + F32(1)
    found: Array = np.ldexp(y, n.astype(np.int32)).astype(np.float32)
    return found


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(−x))."""
    found: Array = F32(1) / (F32(1) + exp(-x))
    return found


def tanh(x: Array) -> Array:
    """2 σ(2x) − 1."""
    found: Array = F32(2) * sigmoid(F32(2) * x) - F32(1)
    return found
