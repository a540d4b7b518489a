"""Compiled loops of `channels_last.py`: matrices are transposed in blocks that fit the registers.

numba compiles them at their first use and keeps the result on disk. Addresses and steps are in bytes.
"""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

BLOCK = 8
"""Numbers in a row and in a column of a block."""
TILE = 64
"""Columns of the source that are read before the next rows: whole cache lines of it."""

_FLOAT, _INT32, _INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)


def _address(builder: Any, start: Any, step: Any, index: int, kind: Any) -> Any:
    place = builder.add(start, builder.mul(step, ir.Constant(_INT64, index)))
    return builder.inttoptr(place, kind.as_pointer())


def _exchanged(builder: Any, rows: list[Any], distance: int) -> list[Any]:
    """Rows i and i + distance with their off-diagonal parts of that width exchanged."""
    new = list(rows)
    for i in range(BLOCK):
        if i & distance:
            continue
        upper, lower = [], []
        for j in range(BLOCK):
            here = j & distance == 0
            upper.append(j if here else BLOCK + (j ^ distance))
            lower.append(j ^ distance if here else BLOCK + j)
        for place, order in ((i, upper), (i | distance, lower)):
            mask = ir.Constant(ir.VectorType(_INT32, BLOCK), order)
            new[place] = builder.shuffle_vector(rows[i], rows[i | distance], mask)
    return new


@intrinsic
def _transpose_block(context: Any, source: Any, source_step: Any, target: Any, target_step: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, source_step, target, target_step = arguments
        vector = ir.VectorType(_FLOAT, BLOCK)
        rows = []
        for index in range(BLOCK):
            rows.append(builder.load(_address(builder, source, source_step, index, vector)))
            rows[-1].align = 4
        for distance in (4, 2, 1):
            rows = _exchanged(builder, rows, distance)
        for index, row in enumerate(rows):
            builder.store(row, _address(builder, target, target_step, index, vector)).align = 4
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), generate


@intrinsic
def _copy(context: Any, source: Any, target: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, target = (builder.inttoptr(address, _FLOAT.as_pointer()) for address in arguments)
        builder.store(builder.load(source), target)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


@numba.njit(nogil=True, cache=True)
def transpose(source: int, source_step: int, target: int, target_step: int, rows: int, columns: int) -> None:
    """target[column, row] = source[row, column], float32; steps are from row to row of each."""
    whole_rows, whole_columns = rows - rows % BLOCK, columns - columns % BLOCK
    for start in range(0, whole_columns, TILE):
        for row in range(0, whole_rows, BLOCK):
            for column in range(start, min(start + TILE, whole_columns), BLOCK):
                _transpose_block(
                    source + row * source_step + column * 4,
                    source_step,
                    target + column * target_step + row * 4,
                    target_step,
                )
    for row in range(rows):
        for column in range(whole_columns if row < whole_rows else 0, columns):
            _copy(source + row * source_step + column * 4, target + column * target_step + row * 4)


@numba.njit(nogil=True, cache=True)
def transpose_all(
    source: int, source_steps: Any, target: int, target_steps: Any, count: int, rows: int, columns: int
) -> None:
    """`transpose` of `count` matrices; steps are from matrix to matrix and from row to row."""
    for _ in range(count):
        transpose(source, source_steps[1], target, target_steps[1], rows, columns)
        source += source_steps[0]
        target += target_steps[0]
