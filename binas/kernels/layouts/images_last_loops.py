"""Compiled loops over tensors with images innermost; numba compiles them at first use and keeps the result.

Legend: N images, C channels, P pixels.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

_FAST = {"contract", "reassoc"}


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def add_moments(x: Any, sums: Any, begin: int, end: int) -> None:
    """sums (2, C) float64 += Σ x and Σ x² of x (P, C, N), pixels begin..end."""
    _, channels, images = x.shape
    for pixel in range(begin, end):
        for channel in range(channels):
            total, squares = 0.0, 0.0
            for image in range(images):
                value = np.float64(x[pixel, channel, image])
                total += value
                squares += value * value
            sums[0, channel] += total
            sums[1, channel] += squares


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def add_products(
    by_y: Any, x: Any, mean: Any, factor: Any, shift: Any, window: Any, sums: Any, begin: int, end: int
) -> None:
    """sums (2, C) float64 += Σ g and Σ g·(x − mean), where g is by_y inside the window, pixels begin..end.

    Args:
        by_y, x: (P, C, N).
        mean, factor, shift: (C,); inside means |x·factor + shift| <= window.
    """
    _, channels, images = x.shape
    for pixel in range(begin, end):
        for channel in range(channels):
            middle, slope, start = mean[channel], factor[channel], shift[channel]
            total, products = x.dtype.type(0), x.dtype.type(0)
            for image in range(images):
                centred = x[pixel, channel, image] - middle
                inside = abs(x[pixel, channel, image] * slope + start) <= window
                value = by_y[pixel, channel, image] if inside else x.dtype.type(0)
                total += value
                products += value * centred
            sums[0, channel] += total
            sums[1, channel] += products


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def finish_gradient(
    by_y: Any,
    x: Any,
    mean: Any,
    factor: Any,
    shift: Any,
    window: Any,
    middle: Any,
    along: Any,
    begin: int,
    end: int,
) -> None:
    """by_y = (g − middle − (x − mean)·along)·factor in place, arguments as above, pixels begin..end."""
    _, channels, images = x.shape
    for pixel in range(begin, end):
        for channel in range(channels):
            center, slope, start = mean[channel], factor[channel], shift[channel]
            less, part = middle[channel], along[channel]
            for image in range(images):
                centred = x[pixel, channel, image] - center
                inside = abs(x[pixel, channel, image] * slope + start) <= window
                value = by_y[pixel, channel, image] if inside else x.dtype.type(0)
                by_y[pixel, channel, image] = (value - less - centred * part) * slope
