"""Thresholds of binarizers, found by evaluating them.

A binarizer of activations is asked, never read: whatever formula it has, its code changes at some float32,
and bisection over all float32 numbers finds it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from binas.deploy.graph import Array
from binas.deploy.steps import NotAStep, Steps, reaches

MOST = float(np.finfo(np.float32).max)
PROBES = 4096
"""Inputs at which a function found by bisection is compared with the one that was asked."""


def steps_of_reals(function: Callable[[Tensor], Tensor], channels: int, levels: tuple[int, ...]) -> Steps:
    """The steps of a function of float32 numbers.

    Args:
        function: (1, C, 1, R) -> codes of that shape, each of its own number and channel only.
        channels: C.
        levels: that codes may take, ascending.
    Raises:
        NotAStep: it is no such function.
    """

    def codes(x: Array) -> Array:
        with torch.no_grad():
            given = torch.from_numpy(np.ascontiguousarray(x.T[None, :, None, :]))  # x: (R, C)
            found: Array = function(given)[0, :, 0].numpy().T
        return found

    ends = codes(np.array([[-np.inf], [np.inf]], np.float32).repeat(channels, 1))
    if not np.isfinite(ends).all():
        ends = codes(np.array([[-MOST], [MOST]], np.float32).repeat(channels, 1))
    falls = ends[0] > ends[1]
    columns = []
    for number in range(1, len(levels)):
        # the smallest x whose code, seen upwards, is at least level `number`
        low = np.full(channels, _order(-MOST), np.int64) - 1
        high = np.full(channels, _order(MOST), np.int64) + 1
        while (high - low > 1).any():
            middle = (low + high) // 2
            reached = reaches(codes(_number(middle)[None]), levels, number, falls)[0]
            high, low = np.where(reached, middle, high), np.where(reached, low, middle)
        columns.append(_number(high))
    thresholds = np.stack(columns, 1) + np.float32(0)  # −0 is 0
    found = Steps(levels, thresholds.astype(np.float32), falls)
    generator = np.random.default_rng(0)
    with np.errstate(over="ignore"):
        beside = [np.nextafter(thresholds.T, np.float32(way)) for way in (-np.inf, np.inf)]
    probes = [
        generator.normal(size=(PROBES, channels)),
        generator.normal(size=(PROBES, channels)) * 10.0 ** generator.integers(-6, 4, (PROBES, channels)),
        np.concatenate([*beside, thresholds.T]),
    ]
    for probe in probes:
        x = np.clip(probe, -3e38, 3e38).astype(np.float32)
        if not np.array_equal(found(x), codes(x)):
            raise NotAStep("its code is no monotone function of the number alone")
    return found


def _order(x: float) -> int:
    """A float32 as an integer that grows with it."""
    bits = int(np.float32(x).view(np.int32))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def _number(order: Array) -> Array:
    """The float32 of an order; beyond the largest numbers: infinities."""
    bits = np.where(order >= 0, order, -order | 0x80000000).astype(np.uint32)
    found: Array = bits.view(np.float32)
    return found
