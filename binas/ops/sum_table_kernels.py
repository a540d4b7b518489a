"""Compiled loops of `binas.ops.sum_tables`: build a table of sums, look its rows up, add them.

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
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 32
"""Numbers in a row of the input's gradient: images."""
WEIGHT_LANES = 16
"""Numbers in a row of the kernel's gradient: output channels."""
MAX_TERMS = 16
"""Tables at a time, so that they stay in the first-level cache."""
ROWS = 16
WEIGHT_ROWS = 17
"""Row 16 of the kernel's gradient is zero, for pixels outside the image."""

_FLOAT, _INT16, _INT32, _INT64 = ir.FloatType(), ir.IntType(16), ir.IntType(32), ir.IntType(64)


def _load(builder: Any, address: Any, kind: Any, align: int) -> Any:
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = align
    return value


def _store(builder: Any, value: Any, address: Any, align: int = 64) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = align


def _at(builder: Any, address: Any, offset: int) -> Any:
    return builder.add(address, ir.Constant(_INT64, offset))


def _write_table(builder: Any, vectors: list[Any], table: Any, row_bytes: int) -> None:
    low, high = ({}, {})  # type: dict[int, Any], dict[int, Any]
    for pairs, (first, second) in ((low, vectors[:2]), (high, vectors[2:])):
        pairs[3], pairs[1] = builder.fadd(first, second), builder.fsub(first, second)
        pairs[0], pairs[2] = builder.fneg(pairs[3]), builder.fneg(pairs[1])
    for row in range(ROWS):
        total = builder.fadd(low[row & 3], high[row >> 2])
        _store(builder, total, _at(builder, table, row * row_bytes))


def _adding(lanes: int) -> Any:
    """The intrinsic that adds rows of a table, given by byte offsets, to a row of sums."""

    @intrinsic
    def add_rows(context: Any, sums: Any, table: Any, offsets: Any, terms: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            sums, table, offsets, terms = arguments
            vector = ir.VectorType(_FLOAT, lanes)
            total = cgutils.alloca_once(builder, vector)
            builder.store(_load(builder, sums, vector, 64), total)
            with cgutils.for_range(builder, terms) as loop:
                at = builder.add(offsets, builder.shl(loop.index, ir.Constant(_INT64, 1)))
                offset = builder.zext(_load(builder, at, _INT16, 2), _INT64)
                row = _load(builder, builder.add(table, offset), vector, 64)
                builder.store(builder.fadd(builder.load(total), row), total)
            _store(builder, builder.load(total), sums)
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, types.intp, types.intp), generate

    return add_rows


_add_image_rows = _adding(LANES)
_add_channel_rows = _adding(WEIGHT_LANES)


@intrinsic
def _table_of_channels(context: Any, source: Any, masks: Any, scales: Any, table: Any) -> Any:
    """Table of 4 channels: vectors over images, masked by a bit for each image, scaled by channel."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, masks, scales, table = arguments
        vector = ir.VectorType(_FLOAT, LANES)
        zero = ir.Constant(vector, None)
        vectors = []
        for channel in range(4):
            values = _load(builder, _at(builder, source, channel * LANES * 4), vector, 64)
            word = _load(builder, _at(builder, masks, channel * 4), _INT32, 4)
            chosen = builder.bitcast(word, ir.VectorType(ir.IntType(1), LANES))
            scale = _load(builder, _at(builder, scales, channel * 4), _FLOAT, 4)
            wide = cgutils.alloca_once(builder, vector)
            one = builder.insert_element(builder.load(wide), scale, ir.Constant(_INT32, 0))
            order = ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES)
            scaled = builder.fmul(values, builder.shuffle_vector(one, zero, order))
            vectors.append(builder.select(chosen, scaled, zero))
        _write_table(builder, vectors, table, LANES * 4)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp), generate


@intrinsic
def _table_of_images(context: Any, source: Any, stride: Any, masks: Any, bit: Any, table: Any) -> Any:
    """Table of 4 images: vectors over channels, masked by the image's bit in a word for each channel."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, stride, masks, bit, table = arguments
        vector = ir.VectorType(_FLOAT, WEIGHT_LANES)
        words_type = ir.VectorType(_INT32, WEIGHT_LANES)
        words = _load(builder, masks, words_type, 64)
        zero, no_bits = ir.Constant(vector, None), ir.Constant(words_type, None)
        order = ir.Constant(words_type, [0] * WEIGHT_LANES)
        bit32 = builder.trunc(bit, _INT32)
        vectors = []
        for image in range(4):
            values = _load(builder, source, vector, 64)
            source = builder.add(source, stride)
            one = builder.shl(ir.Constant(_INT32, 1), builder.add(bit32, ir.Constant(_INT32, image)))
            wide = builder.insert_element(no_bits, one, ir.Constant(_INT32, 0))
            tested = builder.and_(words, builder.shuffle_vector(wide, no_bits, order))
            chosen = builder.icmp_unsigned("!=", tested, no_bits)
            vectors.append(builder.select(chosen, values, zero))
        _write_table(builder, vectors, table, WEIGHT_LANES * 4)
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
                            gradient + at * row_bytes, masks + at * 4, scales + (channel + 4 * term) * 4,
                            table + term * table_bytes,
                        )  # fmt: skip
                    at = offsets[group, block].ctypes.data
                    for tap in range(num_taps):
                        to = sums + ((first + taps[tap]) * groups + group) * channels * row_bytes
                        for _ in range(channels):
                            _add_image_rows(to, table, at, here)
                            to += row_bytes
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
        geometry: rows, columns of the output; columns of the padded input; stride; O; images; first
            input channel and number of input channels of the group.
    """
    rows, columns, padded_columns, stride, width, images, begin, channels = geometry
    num_taps, units = len(taps), images // 4
    row_bytes, table_bytes = WEIGHT_LANES * 4, WEIGHT_ROWS * WEIGHT_LANES * 4
    step = offsets.shape[1] * units * 2
    start = offsets.ctypes.data + begin * units * 2
    pixels = rows * columns
    for y in range(rows):
        for x in range(columns):
            pixel = y * columns + x
            first = (y * stride) * padded_columns + x * stride
            for unit in range(0, units, MAX_TERMS):
                here = min(MAX_TERMS, units - unit)
                for term in range(here):
                    image = 4 * (unit + term)
                    word = masks + ((image // 32) * pixels + pixel) * width * 4
                    _table_of_images(
                        gradient + (pixel * images + image) * width * 4, width * 4, word, image % 32,
                        table + term * table_bytes,
                    )  # fmt: skip
                to = sums
                for tap in range(num_taps):
                    at = start + (first + taps[tap]) * step + unit * 2
                    for _ in range(channels):
                        _add_channel_rows(to, table, at, here)
                        to += row_bytes
                        at += units * 2


@numba.njit(nogil=True, cache=True)
def add_masks(sums: Any, masks: Any, values: Any, first_image: int) -> None:
    """Sets a bit where a number is positive; keeps the numbers as 16-bit integers where there is room.

    Args:
        sums: (n, P, O) float32, not negative.
        masks: (images / 32, P, O) uint32, zeros where nothing was written.
        values: (images, P, O) int16, or without images where they are not wanted.
        first_image: place of the first of these images among all.
    """
    images, pixels, width = sums.shape
    keeps = len(values) > 0
    for pixel in range(pixels):
        for image in range(images):
            word, bit = (first_image + image) // 32, np.uint32((first_image + image) % 32)
            for channel in range(width):
                masks[word, pixel, channel] |= np.uint32(sums[image, pixel, channel] > 0) << bit
            if keeps:
                for channel in range(width):
                    values[first_image + image, pixel, channel] = np.int16(sums[image, pixel, channel])


TILE = 64
"""Pixels that are read and written at a time: whole cache lines, whatever the strides are."""


@numba.njit(nogil=True, cache=True)
def add_image_rows(out: Any, rows: Any, first: int, step: int, run: int, word: int) -> None:
    """rows[p, o, image] = out[image, c, p] for the images of a word.

    Args:
        out: (N, C, P).
        rows: (P, O, LANES).
        first, step, run: channel c goes to o = first + (c // run)·step + c % run.
        word: which LANES images.
    """
    images, channels, pixels = out.shape
    begin = word * LANES
    count = min(LANES, images - begin)
    tile = np.zeros((TILE, LANES), dtype=np.float32)
    for channel in range(channels):
        to = first + channel // run * step + channel % run
        for start in range(0, pixels, TILE):
            size = min(TILE, pixels - start)
            for image in range(count):
                for pixel in range(size):
                    tile[pixel, image] = out[begin + image, channel, start + pixel]
            for pixel in range(size):
                for image in range(LANES):
                    rows[start + pixel, to, image] = tile[pixel, image]


@numba.njit(nogil=True, cache=True)
def add_channel_rows(out: Any, rows: Any, first: int, step: int, run: int, begin: int, end: int) -> None:
    """rows[p, image, o] = out[image, c, p] for images begin..end; arguments as above."""
    _, channels, pixels = out.shape
    tile = np.empty((TILE, run), dtype=np.float32)
    for image in range(begin, end):
        for group in range(channels // run):
            to = first + group * step
            for start in range(0, pixels, TILE):
                size = min(TILE, pixels - start)
                for channel in range(run):
                    for pixel in range(size):
                        tile[pixel, channel] = out[image, group * run + channel, start + pixel]
                for pixel in range(size):
                    for channel in range(run):
                        rows[start + pixel, image, to + channel] = tile[pixel, channel]


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
