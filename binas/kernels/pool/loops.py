"""Compiled loops of 3×3 pools with images innermost; numba compiles them at first use and keeps the result.

Legend: x (H, W, C, N), y (H', W', C, N); output pixel (r, c) reads rows and columns s·r − 1 .. s·r + 1 with
stride s; rows begin..end of the output, or of the channels where gradients are added up.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


@numba.njit(nogil=True, cache=True)
def max_pool(x: Any, y: Any, places: Any, stride: int, begin: int, end: int) -> None:
    """y and the number 0..8 of the first largest pixel (H', W', C, N) int8; NaN is larger than all."""
    height, width, channels, images = x.shape
    for row in range(begin, end):
        for column in range(y.shape[1]):
            top, left = row * stride - 1, column * stride - 1
            for channel in range(channels):
                best, place = y[row, column, channel], places[row, column, channel]
                best[:] = -np.inf
                place[:] = 4
                for tap in range(9):
                    down, right = top + tap // 3, left + tap % 3
                    if 0 <= down < height and 0 <= right < width:
                        here = x[down, right, channel]
                        for image in range(images):
                            larger = not (here[image] <= best[image])
                            best[image] = here[image] if larger else best[image]
                            place[image] = np.int8(tap) if larger else place[image]


@numba.njit(nogil=True, cache=True)
def add_max_gradient(by_y: Any, places: Any, by_x: Any, stride: int, begin: int, end: int) -> None:
    """by_x += by_y at the places of the largest pixels, channels begin..end."""
    height, width, _, images = by_x.shape
    for row in range(by_y.shape[0]):
        for column in range(by_y.shape[1]):
            top, left = row * stride - 1, column * stride - 1
            for channel in range(begin, end):
                given, place = by_y[row, column, channel], places[row, column, channel]
                for tap in range(9):
                    down, right = top + tap // 3, left + tap % 3
                    if 0 <= down < height and 0 <= right < width:
                        here = by_x[down, right, channel]
                        for image in range(images):
                            here[image] += given[image] if place[image] == tap else np.float32(0)


@numba.njit(nogil=True, cache=True)
def average_pool(x: Any, y: Any, stride: int, begin: int, end: int) -> None:
    """y, the mean of the pixels inside the image."""
    height, width, channels, images = x.shape
    for row in range(begin, end):
        for column in range(y.shape[1]):
            top, left = row * stride - 1, column * stride - 1
            rows, columns = min(top + 3, height) - max(top, 0), min(left + 3, width) - max(left, 0)
            share = np.float32(1) / np.float32(rows * columns)
            for channel in range(channels):
                total = y[row, column, channel]
                total[:] = 0
                for down in range(max(top, 0), min(top + 3, height)):
                    for right in range(max(left, 0), min(left + 3, width)):
                        here = x[down, right, channel]
                        for image in range(images):
                            total[image] += here[image]
                for image in range(images):
                    total[image] *= share


@numba.njit(nogil=True, cache=True)
def add_average_gradient(by_y: Any, by_x: Any, stride: int, begin: int, end: int) -> None:
    """by_x += the share of by_y of each pixel, channels begin..end."""
    height, width, _, images = by_x.shape
    for row in range(by_y.shape[0]):
        for column in range(by_y.shape[1]):
            top, left = row * stride - 1, column * stride - 1
            rows, columns = min(top + 3, height) - max(top, 0), min(left + 3, width) - max(left, 0)
            share = np.float32(1) / np.float32(rows * columns)
            for channel in range(begin, end):
                given = by_y[row, column, channel]
                for down in range(max(top, 0), min(top + 3, height)):
                    for right in range(max(left, 0), min(left + 3, width)):
                        here = by_x[down, right, channel]
                        for image in range(images):
                            here[image] += given[image] * share
