"""Vector instructions that several files of compiled loops share, written for LLVM.

numba's results on disk follow the dates of the files with the loops: whoever changes this file touches those.

Legend: addresses are integers; steps and alignments are in bytes.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

ROWS = 16
"""Rows of a table: row m is ±a ± b ± c ± d for vectors a..d, + where the bit of the vector in m is set."""
_INT32, _INT64 = ir.IntType(32), ir.IntType(64)


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
