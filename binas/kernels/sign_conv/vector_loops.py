"""Vector instructions of `binas.kernels.sign_conv.loops`, written for LLVM because they work on bits.

numba's results on disk follow the dates of the files with the loops: whoever changes this file touches those.

Legend: images are the innermost dimension everywhere; addresses are integers; steps are in bytes.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from binas.kernels import vectors
from binas.kernels.vectors import address_at, load, row_adding, spread, store, write_table

LANES = 32
"""Images in a word of bits, and in a row of the tables of the input's gradient."""
CHANNELS = 16
"""Output channels in a row of the tables of the kernel's gradient."""
_FLOAT, _INT16, _INT32, _INT64 = ir.FloatType(), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_INDEX = types.intp


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
        both = spread(builder, factor, LANES), spread(builder, shift, LANES)
        y = builder.call(multiply_add, [load(builder, source, vector), *both])
        positive = builder.fcmp_ordered(">=", y, ir.Constant(y.type, None))
        store(builder, builder.bitcast(positive, _INT32), image_word)
        integers = ir.VectorType(_INT32, LANES)
        chosen = spread(builder, builder.shl(ir.Constant(_INT32, 1), builder.trunc(bit, _INT32)), LANES)
        before = load(builder, words, integers)
        added = builder.select(positive, chosen, ir.Constant(integers, None))
        store(builder, builder.or_(before, added), words)
        return context.get_dummy_value()

    return types.void(_INDEX, types.float32, types.float32, *[_INDEX] * 3), generate


@intrinsic
def convolve_lanes(
    context: Any,
    taps: Any,
    num_taps: Any,
    num_words: Any,
    step: Any,
    kernel: Any,
    terms: Any,
    scale: Any,
    out: Any,
    mask: Any,
) -> Any:
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
            at = load(builder, pair, _INT64, 8)
            sign = builder.add(kernel, load(builder, address_at(builder, pair, 8), _INT64, 8))
            with cgutils.for_range(builder, num_words) as word:
                codes = load(builder, builder.add(at, builder.mul(word.index, step)), integers)
                four = builder.shl(word.index, ir.Constant(_INT64, 2))
                one = load(builder, builder.add(sign, four), _INT32)
                differs = builder.call(count, [builder.xor(codes, spread(builder, one, LANES))])
                builder.store(builder.add(builder.load(total), differs), total)
        twice = builder.shl(builder.load(total), ir.Constant(integers, [1] * LANES))
        sums = builder.sub(spread(builder, builder.trunc(terms, _INT32), LANES), twice)
        zero = ir.Constant(integers, None)
        positive = builder.icmp_signed(">", sums, zero)
        store(builder, builder.bitcast(positive, _INT32), mask)
        rectified = builder.sitofp(builder.select(positive, sums, zero), ir.VectorType(_FLOAT, LANES))
        store(builder, builder.fmul(rectified, spread(builder, scale, LANES)), out)
        return context.get_dummy_value()

    return types.void(*[_INDEX] * 6, types.float32, _INDEX, _INDEX), generate


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
            bits = load(builder, builder.add(masks, builder.mul(place, mask_step)), _INT16, 2)
            bits = builder.select(exists, bits, ir.Constant(_INT16, 0))
            values = load(builder, builder.add(source, builder.mul(place, step)), vector)
            chosen = builder.bitcast(bits, ir.VectorType(ir.IntType(1), CHANNELS))
            rows.append(builder.select(chosen, values, ir.Constant(vector, None)))
        for distance in (1, 2, 4, 8):
            rows = _exchanged(builder, rows, distance)
        for image, row in enumerate(rows):
            store(builder, row, address_at(builder, target, image * CHANNELS * 4), 64)
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
            load(builder, address_at(builder, source, image * CHANNELS * 4), vector, 64) for image in range(4)
        ]
        write_table(builder, vectors, table, CHANNELS * 4)
        return context.get_dummy_value()

    return types.void(_INDEX, _INDEX), generate


table_of_channels = vectors.table_of_channels(LANES, 4)
add_image_row = row_adding(LANES, 1, 4)
add_channel_row = row_adding(CHANNELS, 1, 4)
