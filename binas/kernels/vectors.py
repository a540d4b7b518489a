"""Vector instructions that several files of compiled loops share, written for LLVM.

numba's results on disk follow the dates of the files with the loops: whoever changes this file touches those.

Legend: addresses are integers; steps and alignments are in bytes.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

ROWS = 16
"""Rows of a table: row m is ±a ± b ± c ± d for vectors a..d, + where the bit of the vector in m is set."""
_FLOAT, _INT16, _INT32, _INT64 = ir.FloatType(), ir.IntType(16), ir.IntType(32), ir.IntType(64)


def load(builder: Any, address: Any, kind: Any, align: int = 4) -> Any:
    """A value of a kind, read from an address."""
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = align
    return value


def store(builder: Any, value: Any, address: Any, align: int = 4) -> None:
    """Writes a value to an address."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = align


def address_at(builder: Any, address: Any, offset: int) -> Any:
    """The address so many bytes on."""
    return builder.add(address, ir.Constant(_INT64, offset))


def spread(builder: Any, value: Any, lanes: int) -> Any:
    """A vector of as many lanes, each holding the value."""
    vector = ir.VectorType(value.type, lanes)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(_INT32, 0))
    order = ir.Constant(ir.VectorType(_INT32, lanes), [0] * lanes)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), order)


def write_table(builder: Any, vectors: list[Any], table: Any, row_bytes: int) -> None:
    """The 16 signed sums of four vectors, row after row."""
    low, high = ({}, {})  # type: dict[int, Any], dict[int, Any]
    for pairs, (first, second) in ((low, vectors[:2]), (high, vectors[2:])):
        pairs[3], pairs[1] = builder.fadd(first, second), builder.fsub(first, second)
        pairs[0], pairs[2] = builder.fneg(pairs[3]), builder.fneg(pairs[1])
    for row in range(ROWS):
        total = builder.fadd(low[row & 3], high[row >> 2])
        store(builder, total, address_at(builder, table, row * row_bytes), 64)


def table_of_channels(lanes: int, align: int) -> Any:
    """The intrinsic that makes a table of 4 channels: images masked by a bit each, scaled by channel.

    Args:
        lanes: images in a row, and bits in a word of the mask.
        align: of the vectors.
    """

    @intrinsic
    def write(
        context: Any, source: Any, step: Any, masks: Any, mask_step: Any, scales: Any, table: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            source, step, masks, mask_step, scales, table = arguments
            vector = ir.VectorType(_FLOAT, lanes)
            vectors = []
            for channel in range(4):
                word = load(builder, masks, ir.IntType(lanes))
                bits = builder.bitcast(word, ir.VectorType(ir.IntType(1), lanes))
                scale = spread(
                    builder, load(builder, address_at(builder, scales, 4 * channel), _FLOAT), lanes
                )
                scaled = builder.fmul(load(builder, source, vector, align), scale)
                vectors.append(builder.select(bits, scaled, ir.Constant(vector, None)))
                source, masks = builder.add(source, step), builder.add(masks, mask_step)
            write_table(builder, vectors, table, lanes * 4)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 6), generate

    return write


def row_adding(lanes: int, channels: int, align: int) -> Any:
    """The intrinsic that adds rows of tables to rows of sums, or to 0 if `fresh`, of channels side by side.

    Rows are given by byte offsets; `step` is from those of one channel to the next's. The additions of
    several channels do not wait for each other.

    Args:
        lanes: numbers in a row.
        channels: whose sums lie one after another.
        align: of the sums.
    """

    @intrinsic
    def add_rows(context: Any, sums: Any, table: Any, offsets: Any, step: Any, terms: Any, fresh: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            sums, table, offsets, step, terms, fresh = arguments
            vector = ir.VectorType(_FLOAT, lanes)
            places = [address_at(builder, sums, channel * lanes * 4) for channel in range(channels)]
            totals: list[Any] = [cgutils.alloca_once(builder, vector) for _ in places]  # type: ignore[no-untyped-call]
            for total in totals:
                builder.store(ir.Constant(vector, None), total)
            with builder.if_then(builder.icmp_signed("==", fresh, ir.Constant(_INT64, 0))):
                for place, total in zip(places, totals, strict=True):
                    builder.store(load(builder, place, vector, align), total)
            with cgutils.for_range(builder, terms) as loop:
                at = builder.add(offsets, builder.shl(loop.index, ir.Constant(_INT64, 1)))
                for total in totals:
                    offset = builder.zext(load(builder, at, _INT16, 2), _INT64)
                    row = load(builder, builder.add(table, offset), vector, 64)
                    builder.store(builder.fadd(builder.load(total), row), total)
                    at = builder.add(at, step)
            for place, total in zip(places, totals, strict=True):
                store(builder, builder.load(total), place, align)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 6), generate

    return add_rows
