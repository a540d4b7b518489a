"""Compiled loops of `binas.kernels.sum_tables.sum_tables`: build a table of sums, look its rows up, add them.

numba compiles them at their first use and keeps the result on disk. Vectors of LANES numbers are written
as LLVM instructions, because the row that is added is known only when it is read.

Legend: a row is LANES float32 numbers, 64 bytes aligned; a table has 16 rows for 4 source vectors a..d:
row m is ±a ± b ± c ± d, with + where the bit of the vector in m is set; addresses are integers.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from binas.kernels.vectors import ROWS, load, row_adding, spread, table_of_channels, write_table

LANES = 32
"""Numbers in a row of the input's gradient: images."""
WEIGHT_LANES = 16
"""Numbers in a row of the kernel's gradient: output channels."""
MAX_TERMS = 16
"""Tables at a time, so that they stay in the first-level cache."""
WEIGHT_ROWS = 17
"""Row 16 of the kernel's gradient is zero, for pixels outside the image."""

_FLOAT, _INT32 = ir.FloatType(), ir.IntType(32)


_table_of_channels = table_of_channels(LANES, 64)
_add_image_row, _add_image_rows = row_adding(LANES, 1, 64), row_adding(LANES, 2, 64)
_add_channel_row, _add_channel_rows = row_adding(WEIGHT_LANES, 1, 64), row_adding(WEIGHT_LANES, 2, 64)


@intrinsic
def _table_of_images(context: Any, source: Any, stride: Any, masks: Any, bit: Any, table: Any) -> Any:
    """Table of 4 images: vectors over channels, masked by the image's bit in a word for each channel."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, stride, masks, bit, table = arguments
        vector = ir.VectorType(_FLOAT, WEIGHT_LANES)
        words_type = ir.VectorType(_INT32, WEIGHT_LANES)
        words = load(builder, masks, words_type, 64)
        zero, no_bits = ir.Constant(vector, None), ir.Constant(words_type, None)
        bit32 = builder.trunc(bit, _INT32)
        vectors = []
        for image in range(4):
            values = load(builder, source, vector, 64)
            source = builder.add(source, stride)
            one = builder.shl(ir.Constant(_INT32, 1), builder.add(bit32, ir.Constant(_INT32, image)))
            tested = builder.and_(words, spread(builder, one, WEIGHT_LANES))
            chosen = builder.icmp_unsigned("!=", tested, no_bits)
            vectors.append(builder.select(chosen, values, zero))
        write_table(builder, vectors, table, WEIGHT_LANES * 4)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 5), generate


@numba.njit(nogil=True, cache=True)
def add_input_gradient(
    gradient: int, masks: int, scales: int, offsets: Any, sums: int, table: int, taps: Any, geometry: Any
) -> None:
    """Adds a convolution's gradient by its input for LANES images.

    Args:
        gradient, masks, scales: addresses of (P, O, LANES), (P, O) of 32-bit words, (O,).
        offsets: (groups, blocks, k·k, I, MAX_TERMS) uint16, which row of each table.
        sums: address of (padded pixels, groups·I, LANES).
        table: address of MAX_TERMS tables.
        taps: (k·k,) pixels from an output pixel's first one to the one that a tap reads.
        geometry: rows, columns of the output; columns of the padded input; stride; terms of a group.
    """
    rows, columns, padded_columns, stride, terms = geometry
    groups, blocks, num_taps, channels, _ = offsets.shape
    row_bytes, table_bytes = LANES * 4, ROWS * LANES * 4
    width = groups * terms * 4
    for y in range(rows):
        for x in range(columns):
            first = (y * stride) * padded_columns + x * stride
            for group in range(groups):
                for block in range(blocks):
                    channel = group * terms * 4 + block * MAX_TERMS * 4
                    here = min(MAX_TERMS, terms - block * MAX_TERMS)
                    source = (y * columns + x) * width + channel
                    for term in range(here):
                        at = source + 4 * term
                        _table_of_channels(
                            gradient + at * row_bytes,
                            row_bytes,
                            masks + at * 4,
                            4,
                            scales + (channel + 4 * term) * 4,
                            table + term * table_bytes,
                        )
                    at = offsets[group, block].ctypes.data
                    for tap in range(num_taps):
                        to = sums + ((first + taps[tap]) * groups + group) * channels * row_bytes
                        for _ in range(channels // 2):
                            _add_image_rows(to, table, at, MAX_TERMS * 2, here, 0)
                            to += 2 * row_bytes
                            at += 2 * MAX_TERMS * 2
                        if channels % 2:
                            _add_image_row(to, table, at, 0, here, 0)
                            at += MAX_TERMS * 2


@numba.njit(nogil=True, cache=True)
def add_kernel_gradient(
    gradient: int, masks: int, offsets: Any, sums: int, table: int, taps: Any, geometry: Any
) -> None:
    """Adds a convolution's gradient by its kernel for WEIGHT_LANES output channels of one group.

    Args:
        gradient, masks: addresses of the first of these channels in (P, images, O) and, as 32-bit words
            of as many images, in (images / 32, P, O).
        offsets: (padded pixels, all input channels, images / 4) uint16, which row of each table.
        sums: address of (k·k, I, WEIGHT_LANES).
        table: address of MAX_TERMS tables with a row of zeros each.
        taps: as above.
        geometry: first row and the one after the last; rows, columns of the output; columns of the padded
            input; stride; O; images; first input channel and number of input channels of the group.
    """
    top, bottom, rows, columns, padded_columns, stride, width, images, begin, channels = geometry
    num_taps, units = len(taps), images // 4
    row_bytes, table_bytes = WEIGHT_LANES * 4, WEIGHT_ROWS * WEIGHT_LANES * 4
    step = offsets.shape[1] * units * 2
    start = offsets.ctypes.data + begin * units * 2
    pixels = rows * columns
    for y in range(top, bottom):
        for x in range(columns):
            pixel = y * columns + x
            first = (y * stride) * padded_columns + x * stride
            for unit in range(0, units, MAX_TERMS):
                here = min(MAX_TERMS, units - unit)
                for term in range(here):
                    image = 4 * (unit + term)
                    word = masks + ((image // 32) * pixels + pixel) * width * 4
                    _table_of_images(
                        gradient + (pixel * images + image) * width * 4,
                        width * 4,
                        word,
                        image % 32,
                        table + term * table_bytes,
                    )
                to = sums
                for tap in range(num_taps):
                    at = start + (first + taps[tap]) * step + unit * 2
                    for _ in range(channels // 2):
                        _add_channel_rows(to, table, at, units * 2, here, 0)
                        to += 2 * row_bytes
                        at += 2 * units * 2
                    if channels % 2:
                        _add_channel_row(to, table, at, 0, here, 0)
                        to += row_bytes


@numba.njit(nogil=True, cache=True)
def take_sums(
    sums: Any, scales: Any, total: Any, masks: Any, values: Any, first_image: int, is_first: bool
) -> None:
    """Adds rectified sums, scaled, to a total; sets a bit where one is positive; keeps them where wanted.

    Args:
        sums: (n, P·O) float32, not negative.
        scales: (S,), those of the O channels repeated for some pixels, which are worked on at a time.
        total: as `sums`; overwritten if `is_first`.
        masks: (images / 32, P·O) uint32, zeros where nothing was written.
        values: (images, P·O) int16, or without images where they are not wanted.
        first_image: place of the first of these images among all.
    """
    keeps = len(values) > 0
    for start in range(0, sums.shape[1], len(scales)):
        size = min(len(scales), sums.shape[1] - start)
        stop = start + size
        for index in range(len(sums)):
            image = first_image + index
            bit = np.uint32(image % 32)
            y, words = sums[index, start:stop], masks[image // 32, start:stop]
            for place in range(size):
                words[place] |= np.uint32(y[place] > 0) << bit
            to = total[index, start:stop]
            if is_first:
                for place in range(size):
                    to[place] = y[place] * scales[place]
            else:
                for place in range(size):
                    to[place] += y[place] * scales[place]
            if keeps:
                kept = values[image, start:stop]
                for place in range(size):
                    kept[place] = np.int16(y[place])


@numba.njit(nogil=True, cache=True)
def kernel_offsets(signs: Any, groups: int, row_bytes: int) -> Any:
    """Byte offsets of the table rows that a kernel's signs choose.

    Args:
        signs: (O, I/groups, k·k), positive or not.
    Shape: (groups, blocks, k·k, I/groups, MAX_TERMS)
    """
    width, channels, taps = signs.shape
    terms = width // groups // 4
    blocks = (terms + MAX_TERMS - 1) // MAX_TERMS
    offsets = np.zeros((groups, blocks, taps, channels, MAX_TERMS), dtype=np.uint16)
    for output in range(0, width, 4):
        group, term = output // 4 // terms, output // 4 % terms
        block, place = term // MAX_TERMS, term % MAX_TERMS
        for channel in range(channels):
            for tap in range(taps):
                row = place * ROWS
                for bit in range(4):
                    if signs[output + bit, channel, tap] > 0:
                        row += 1 << bit
                offsets[group, block, tap, channel, place] = row * row_bytes
    return offsets


@numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc"})
def add_products(values: Any, gradient: Any, totals: Any, begin: int, end: int) -> None:
    """totals (O,) float64 += Σ of values (N, P, O) · gradient (P, N', O) over images begin..end."""
    _, pixels, width = values.shape
    partial = np.zeros(width, dtype=np.float32)
    for image in range(begin, end):
        partial[:] = 0
        for pixel in range(pixels):
            for channel in range(width):
                partial[channel] += (
                    np.float32(values[image, pixel, channel]) * gradient[pixel, image, channel]
                )
        for channel in range(width):
            totals[channel] += partial[channel]
