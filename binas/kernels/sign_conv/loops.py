"""Compiled loops of `sign_conv.py`: signs in bits, sums of ±1 by counting bits, and their gradients.

numba compiles them at their first use and keeps the result on disk.

Legend: N images, a multiple of LANES; C and O channels of input and output; P pixels, P' of the output;
images are the innermost dimension everywhere; addresses are integers.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from binas.kernels.sign_conv.vector_loops import (
    CHANNELS,
    LANES,
    add_channel_row,
    add_image_row,
    convolve_lanes,
    pack_lanes,
    table_of_channels,
    table_of_images,
    transposed,
)
from binas.kernels.vectors import ROWS

MAX_TERMS = 12
"""Tables of the input's gradient at a time, so that they stay in the first-level cache."""
MAX_UNITS = 16
"""Tables of the kernel's gradient at a time, likewise."""


@numba.njit(nogil=True, cache=True)
def pack(
    x: int, words: int, image_words: int, factor: Any, shift: Any, images: int, begin: int, end: int
) -> None:
    """Signs of x·factor + shift for pixels begin..end, in two orders.

    Args:
        x: address of (P, C, N) float32.
        words: address of (P, ⌈C/32⌉, N) uint32 of zeros: bits over channels.
        image_words: address of (P, C, N/32) uint32: bits over images.
    """
    channels = len(factor)
    num_words, groups = (channels + 31) // 32, images // LANES
    for pixel in range(begin, end):
        for channel in range(channels):
            at = pixel * channels + channel
            word = pixel * num_words + channel // 32
            for group in range(groups):
                pack_lanes(
                    x + (at * images + group * LANES) * 4,
                    factor[channel],
                    shift[channel],
                    channel % 32,
                    words + (word * images + group * LANES) * 4,
                    image_words + (at * groups + group) * 4,
                )


@numba.njit(nogil=True, cache=True)
def _valid_taps(y: int, x: int, geometry: Any, source: Any, number: Any) -> int:
    """Writes the input pixel and the number of each tap that lies inside the image; gives their count."""
    kernel_size, stride, padding, dilation, height, width = geometry
    count = 0
    for row in range(kernel_size):
        top = y * stride - padding + row * dilation
        for column in range(kernel_size):
            left = x * stride - padding + column * dilation
            if 0 <= top < height and 0 <= left < width:
                source[count] = top * width + left
                number[count] = row * kernel_size + column
                count += 1
    return count


@numba.njit(nogil=True, cache=True)
def convolve(
    words: int,
    kernel: Any,
    scales: Any,
    out: int,
    masks: int,
    geometry: Any,
    channels: int,
    images: int,
    columns: int,
    begin: int,
    end: int,
) -> None:
    """scale · relu(convolution of signs) for output pixels begin..end.

    Args:
        words: as from `pack`.
        kernel: (O, k·k, ⌈C/32⌉) uint32, bits over channels.
        scales: (O,) float32.
        out: address of (P', O, N) float32.
        masks: address of (P', O, N/32) uint32: bits of sums that are positive.
        geometry: kernel size, stride, padding, dilation; rows and columns of the input.
        columns: of the output.
    """
    width, num_taps, num_words = kernel.shape
    source, number = np.empty(num_taps, np.int64), np.empty(num_taps, np.int64)
    pairs = np.empty((num_taps, 2), np.int64)
    groups, bits, step = images // LANES, kernel.ctypes.data, num_taps * num_words * 4
    for pixel in range(begin, end):
        count = _valid_taps(pixel // columns, pixel % columns, geometry, source, number)
        for group in range(groups):
            for tap in range(count):
                pairs[tap, 0] = words + (source[tap] * num_words * images + group * LANES) * 4
                pairs[tap, 1] = number[tap] * num_words * 4
            for channel in range(width):
                at = pixel * width + channel
                convolve_lanes(
                    pairs.ctypes.data,
                    count,
                    num_words,
                    images * 4,
                    bits + channel * step,
                    channels * count,
                    scales[channel],
                    out + (at * images + group * LANES) * 4,
                    masks + (at * groups + group) * 4,
                )


@numba.njit(nogil=True, cache=True)
def add_input_gradient(
    gradient: int,
    masks: int,
    scales: int,
    offsets: Any,
    sums: int,
    table: int,
    geometry: Any,
    width: int,
    images: int,
    pixels: int,
    columns: int,
    group: int,
    begin: int,
    end: int,
    fresh: bool,
) -> None:
    """Adds the gradient by the signs of the input's channels begin..end for LANES images.

    Args:
        gradient, masks: addresses of (P', O, N) and of the bits (P', O, N/32).
        scales: address of (O,).
        offsets: (blocks, k·k, C, terms of a block) uint16, which row of each table.
        sums: address of (P, C, N).
        table: address of room for the tables of a block.
        geometry: as above.
        pixels, columns: of the output.
        group: which LANES images.
        fresh: sums hold nothing yet, and each is reached by a single tap.
    """
    blocks, num_taps, channels, terms = offsets.shape
    source, number = np.empty(num_taps, np.int64), np.empty(num_taps, np.int64)
    groups, first = images // LANES, group * LANES * 4
    for pixel in range(pixels):
        count = _valid_taps(pixel // columns, pixel % columns, geometry, source, number)
        for block in range(blocks):
            here = min(terms, width // 4 - block * terms)
            for term in range(here):
                channel = (block * terms + term) * 4
                at = pixel * width + channel
                table_of_channels(
                    gradient + at * images * 4 + first,
                    images * 4,
                    masks + (at * groups + group) * 4,
                    groups * 4,
                    scales + channel * 4,
                    table + term * ROWS * LANES * 4,
                )
            for tap in range(count):
                to = sums + (source[tap] * channels + begin) * images * 4 + first
                at = offsets[block, number[tap], begin].ctypes.data
                for _ in range(begin, end):
                    add_image_row(to, table, at, 0, here, fresh and block == 0)
                    to += images * 4
                    at += terms * 2


@numba.njit(nogil=True, cache=True)
def add_kernel_gradient(
    gradient: int,
    masks: int,
    offsets: Any,
    sums: Any,
    table: int,
    geometry: Any,
    width: int,
    columns: int,
    begin: int,
    end: int,
) -> None:
    """Adds the gradient by the kernel, before its scale, of output pixels begin..end.

    Args:
        gradient, masks: as above.
        offsets: (P, C, N/4) uint16, which row of each table.
        sums: (⌈O/CHANNELS⌉, k·k, C, CHANNELS) float32, 64 bytes aligned.
        table: address of room for 4·CHANNELS·N/4 numbers and the tables.
    """
    _, channels, units = offsets.shape
    blocks, num_taps, _, _ = sums.shape
    source, number = np.empty(num_taps, np.int64), np.empty(num_taps, np.int64)
    images, row = 4 * units, CHANNELS * 4
    groups, start = images // LANES, offsets.ctypes.data
    turned = table
    table = turned + images * row
    for pixel in range(begin, end):
        count = _valid_taps(pixel // columns, pixel % columns, geometry, source, number)
        for block in range(blocks):
            at = pixel * width + block * CHANNELS
            for part in range(images // 16):
                transposed(
                    gradient + (at * images + part * 16) * 4,
                    images * 4,
                    masks + at * groups * 4 + part * 2,
                    groups * 4,
                    width - block * CHANNELS,
                    turned + part * 16 * row,
                )
            for unit in range(0, units, MAX_UNITS):
                here = min(MAX_UNITS, units - unit)
                for term in range(here):
                    table_of_images(turned + (unit + term) * 4 * row, table + term * ROWS * row)
                for tap in range(count):
                    to = sums[block, number[tap]].ctypes.data
                    at = start + (source[tap] * channels * units + unit) * 2
                    for _ in range(channels):
                        add_channel_row(to, table, at, 0, here, 0)
                        to += row
                        at += units * 2


@numba.njit(nogil=True, cache=True)
def unit_offsets(image_words: Any, offsets: Any, begin: int, end: int) -> None:
    """offsets (P, C, N/4): byte offset of the row that the signs of 4 images choose, pixels begin..end."""
    _, channels, groups = image_words.shape
    for pixel in range(begin, end):
        for channel in range(channels):
            for group in range(groups):
                word = image_words[pixel, channel, group]
                for unit in range(8):
                    place = group * 8 + unit
                    row = (word >> np.uint32(4 * unit)) & np.uint32(15)
                    offset = (np.uint32(place % MAX_UNITS) * np.uint32(ROWS) + row) * np.uint32(CHANNELS * 4)
                    offsets[pixel, channel, place] = np.uint16(offset)
