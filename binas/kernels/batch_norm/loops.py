"""Compiled loops of `plain.py`; numba compiles them at their first use and keeps the result."""

from __future__ import annotations

from typing import Any

import numba

_FAST = {"contract", "reassoc"}


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def normalize(x: Any, y: Any, mean: Any, variance: Any, epsilon: float, begin: int, end: int) -> None:
    """y = (x − mean) / sqrt(variance + epsilon) for channels begin..end; x, y (N, C, P)."""
    images, _, pixels = x.shape
    count = images * pixels
    for channel in range(begin, end):
        total = 0.0
        for image in range(images):
            part = 0.0
            for pixel in range(pixels):
                part += x[image, channel, pixel]
            total += part
        center = total / count
        squares = 0.0
        for image in range(images):
            part = 0.0
            for pixel in range(pixels):
                part += (x[image, channel, pixel] - center) ** 2
            squares += part
        mean[channel], variance[channel] = center, squares / count
        shift = x.dtype.type(center)
        factor = x.dtype.type(1 / (variance[channel] + epsilon) ** 0.5)
        for image in range(images):
            for pixel in range(pixels):
                y[image, channel, pixel] = (x[image, channel, pixel] - shift) * factor


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def gradient(y: Any, by_y: Any, by_x: Any, variance: Any, epsilon: float, begin: int, end: int) -> None:
    """by_x = (by_y − mean(by_y) − y·mean(by_y·y)) / sqrt(variance + epsilon), all (N, C, P)."""
    images, _, pixels = y.shape
    count = images * pixels
    for channel in range(begin, end):
        total, products = 0.0, 0.0
        for image in range(images):
            part, product = 0.0, 0.0
            for pixel in range(pixels):
                part += by_y[image, channel, pixel]
                product += by_y[image, channel, pixel] * y[image, channel, pixel]
            total += part
            products += product
        middle, along = y.dtype.type(total / count), y.dtype.type(products / count)
        factor = y.dtype.type(1 / (variance[channel] + epsilon) ** 0.5)
        for image in range(images):
            for pixel in range(pixels):
                left = by_y[image, channel, pixel] - middle - y[image, channel, pixel] * along
                by_x[image, channel, pixel] = left * factor
