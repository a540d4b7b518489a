"""Vector instructions of `binas.ops.sign_conv_kernels`, written for LLVM because they work on bits.

numba's results on disk follow the dates of the files with the loops: whoever changes this file touches those.

Legend: images are the innermost dimension everywhere; addresses are integers; steps are in bytes.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 32
"""Images in a word of bits, and in a row of the tables of the input's gradient."""
CHANNELS = 16
"""Output channels in a row of the tables of the kernel's gradient."""
ROWS = 16
"""Rows of a table: row m is ±a ± b ± c ± d for vectors a..d, + where the bit of the vector in m is set."""
_FLOAT, _INT16, _INT32, _INT64 = ir.FloatType(), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_INDEX = types.intp


def _load(builder: Any, address: Any, kind: Any, align: int = 4) -> Any:
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = align
    return value


def _store(builder: Any, value: Any, address: Any, align: int = 4) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = align


def _at(builder: Any, address: Any, offset: int) -> Any:
    return builder.add(address, ir.Constant(_INT64, offset))


def _spread(builder: Any, value: Any, lanes: int) -> Any:
    vector = ir.VectorType(value.type, lanes)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(_INT32, 0))
    order = ir.Constant(ir.VectorType(_INT32, lanes), [0] * lanes)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), order)


def _write_table(builder: Any, vectors: list[Any], table: Any, row_bytes: int) -> None:
    low, high = ({}, {})  # type: dict[int, Any], dict[int, Any]
    for pairs, (first, second) in ((low, vectors[:2]), (high, vectors[2:])):
        pairs[3], pairs[1] = builder.fadd(first, second), builder.fsub(first, second)
        pairs[0], pairs[2] = builder.fneg(pairs[3]), builder.fneg(pairs[1])
    for row in range(ROWS):
        total = builder.fadd(low[row & 3], high[row >> 2])
        _store(builder, total, _at(builder, table, row * row_bytes), 64)


@intrinsic
def pack_lanes(
    context: Any, source: Any, factor: Any, shift: Any, bit: Any, words: Any, image_word: Any
) -> Any:
    """Signs of x·factor + shift, rounded once, of LANES images: in each image's word, in a word of bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, factor, shift, bit, words, image_word = arguments
        vector = ir.VectorType(_FLOAT, LANES)
        multiply_add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{LANES}f32"
        )
        spread = _spread(builder, factor, LANES), _spread(builder, shift, LANES)
        y = builder.call(multiply_add, [_load(builder, source, vector), *spread])
        positive = builder.fcmp_ordered(">=", y, ir.Constant(y.type, None))
        _store(builder, builder.bitcast(positive, _INT32), image_word)
        integers = ir.VectorType(_INT32, LANES)
        chosen = _spread(builder, builder.shl(ir.Constant(_INT32, 1), builder.trunc(bit, _INT32)), LANES)
        before = _load(builder, words, integers)
        added = builder.select(positive, chosen, ir.Constant(integers, None))
        _store(builder, builder.or_(before, added), words)
        return context.get_dummy_value()

    return types.void(_INDEX, types.float32, types.float32, *[_INDEX] * 3), generate


@intrinsic
def convolve_lanes(
    context: Any, taps: Any, num_taps: Any, num_words: Any, step: Any, kernel: Any, terms: Any, scale: Any,
    out: Any, mask: Any,
) -> Any:  # fmt: skip
    """scale · relu(Σ ±1·±1) of LANES images for one output channel and pixel, and the bits of sums > 0.

    `taps` holds pairs of addresses: of the input's words and of the kernel's, relative to `kernel`.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        taps, num_taps, num_words, step, kernel, terms, scale, out, mask = arguments
        integers = ir.VectorType(_INT32, LANES)
        count = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(integers, [integers]), f"llvm.ctpop.v{LANES}i32"
        )
        total = cgutils.alloca_once(builder, integers)
        builder.store(ir.Constant(integers, None), total)
        with cgutils.for_range(builder, num_taps) as tap:
            pair = builder.add(taps, builder.shl(tap.index, ir.Constant(_INT64, 4)))
            at = _load(builder, pair, _INT64, 8)
            sign = builder.add(kernel, _load(builder, _at(builder, pair, 8), _INT64, 8))
            with cgutils.for_range(builder, num_words) as word:
                codes = _load(builder, builder.add(at, builder.mul(word.index, step)), integers)
                four = builder.shl(word.index, ir.Constant(_INT64, 2))
                one = _load(builder, builder.add(sign, four), _INT32)
                differs = builder.call(count, [builder.xor(codes, _spread(builder, one, LANES))])
                builder.store(builder.add(builder.load(total), differs), total)
        twice = builder.shl(builder.load(total), ir.Constant(integers, [1] * LANES))
        sums = builder.sub(_spread(builder, builder.trunc(terms, _INT32), LANES), twice)
        zero = ir.Constant(integers, None)
        positive = builder.icmp_signed(">", sums, zero)
        _store(builder, builder.bitcast(positive, _INT32), mask)
        rectified = builder.sitofp(builder.select(positive, sums, zero), ir.VectorType(_FLOAT, LANES))
        _store(builder, builder.fmul(rectified, _spread(builder, scale, LANES)), out)
        return context.get_dummy_value()

    return types.void(*[_INDEX] * 6, types.float32, _INDEX, _INDEX), generate


@intrinsic
def table_of_channels(
    context: Any, source: Any, step: Any, masks: Any, mask_step: Any, scales: Any, table: Any
) -> Any:
    """Table of 4 channels: vectors over images, masked by a bit for each image, scaled by channel."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, step, masks, mask_step, scales, table = arguments
        vector = ir.VectorType(_FLOAT, LANES)
        vectors = []
        for channel in range(4):
            bits = builder.bitcast(_load(builder, masks, _INT32), ir.VectorType(ir.IntType(1), LANES))
            scale = _spread(builder, _load(builder, _at(builder, scales, 4 * channel), _FLOAT), LANES)
            scaled = builder.fmul(_load(builder, source, vector), scale)
            vectors.append(builder.select(bits, scaled, ir.Constant(vector, None)))
            source, masks = builder.add(source, step), builder.add(masks, mask_step)
        _write_table(builder, vectors, table, LANES * 4)
        return context.get_dummy_value()

    return types.void(*[_INDEX] * 6), generate


@intrinsic
def transposed(
    context: Any, source: Any, step: Any, masks: Any, mask_step: Any, count: Any, target: Any
) -> Any:
    """A block of CHANNELS channels × 16 images, masked by 16 bits for each channel, images first.

    Channels from `count` on are zero.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, step, masks, mask_step, count, target = arguments
        vector = ir.VectorType(_FLOAT, CHANNELS)
        rows = []
        for channel in range(CHANNELS):
            here = ir.Constant(_INT64, channel)
            exists = builder.icmp_signed("<", here, count)
            place = builder.select(exists, here, ir.Constant(_INT64, 0))
            bits = _load(builder, builder.add(masks, builder.mul(place, mask_step)), _INT16, 2)
            bits = builder.select(exists, bits, ir.Constant(_INT16, 0))
            values = _load(builder, builder.add(source, builder.mul(place, step)), vector)
            chosen = builder.bitcast(bits, ir.VectorType(ir.IntType(1), CHANNELS))
            rows.append(builder.select(chosen, values, ir.Constant(vector, None)))
        for distance in (1, 2, 4, 8):
            rows = _exchanged(builder, rows, distance)
        for image, row in enumerate(rows):
            _store(builder, row, _at(builder, target, image * CHANNELS * 4), 64)
        return context.get_dummy_value()

    return types.void(*[_INDEX] * 6), generate


def _exchanged(builder: Any, rows: list[Any], distance: int) -> list[Any]:
    """One step of a transposition: blocks of `distance` off the diagonal change places."""
    integers = ir.VectorType(_INT32, CHANNELS)
    low = [lane if not lane & distance else lane - distance + CHANNELS for lane in range(CHANNELS)]
    high = [lane + distance if not lane & distance else lane + CHANNELS for lane in range(CHANNELS)]
    result = list(rows)
    for row in range(CHANNELS):
        if not row & distance:
            pair = rows[row], rows[row + distance]
            result[row] = builder.shuffle_vector(*pair, ir.Constant(integers, low))
            result[row + distance] = builder.shuffle_vector(*pair, ir.Constant(integers, high))
    return result


@intrinsic
def table_of_images(context: Any, source: Any, table: Any) -> Any:
    """Table of 4 images: vectors over channels, one after another."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, table = arguments
        vector = ir.VectorType(_FLOAT, CHANNELS)
        vectors = [
            _load(builder, _at(builder, source, image * CHANNELS * 4), vector, 64) for image in range(4)
        ]
        _write_table(builder, vectors, table, CHANNELS * 4)
        return context.get_dummy_value()

    return types.void(_INDEX, _INDEX), generate


def _adding(lanes: int) -> Any:
    """The intrinsic that adds rows of tables, given by byte offsets, to a row of sums, or to 0 if `fresh`."""

    @intrinsic
    def add_rows(context: Any, sums: Any, table: Any, offsets: Any, terms: Any, fresh: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            sums, table, offsets, terms, fresh = arguments
            vector = ir.VectorType(_FLOAT, lanes)
            total = cgutils.alloca_once(builder, vector)
            builder.store(ir.Constant(vector, None), total)
            with builder.if_then(builder.icmp_signed("==", fresh, ir.Constant(_INT64, 0))):
                builder.store(_load(builder, sums, vector), total)
            with cgutils.for_range(builder, terms) as loop:
                at = builder.add(offsets, builder.shl(loop.index, ir.Constant(_INT64, 1)))
                offset = builder.zext(_load(builder, at, _INT16, 2), _INT64)
                row = _load(builder, builder.add(table, offset), vector, 64)
                builder.store(builder.fadd(builder.load(total), row), total)
            _store(builder, builder.load(total), sums)
            return context.get_dummy_value()

        return types.void(*[_INDEX] * 5), generate

    return add_rows


add_image_row = _adding(LANES)
add_channel_row = _adding(CHANNELS)
