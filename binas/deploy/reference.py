"""The slow and obvious back end: a graph run in NumPy, one image, one node after another.

All other back ends give the same bits: sums of floats are added in a stated order, by fused multiply-adds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from binas.deploy import arithmetic
from binas.deploy.arithmetic import F32, fma
from binas.deploy.graph import INPUT, Array, Graph, Node
from binas.deploy.steps import Steps

UNARY: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, F32(0)),
    "abs": np.abs,
    "neg": np.negative,
    "sqrt": np.sqrt,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "exp": arithmetic.exp,
    "sigmoid": arithmetic.sigmoid,
    "tanh": arithmetic.tanh,
    "silu": lambda x: x * arithmetic.sigmoid(x),
    "hardsigmoid": lambda x: np.clip(fma(x, F32(1 / 6), F32(0.5)), F32(0), F32(1)),
    "hardswish": lambda x: x * np.clip(fma(x, F32(1 / 6), F32(0.5)), F32(0), F32(1)),
}
BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "ge": lambda a, b: (a >= b).astype(np.float32),
    "gt": lambda a, b: (a > b).astype(np.float32),
    "le": lambda a, b: (a <= b).astype(np.float32),
    "lt": lambda a, b: (a < b).astype(np.float32),
}


def run(graph: Graph, image: Array, given: dict[str, Array] | None = None) -> dict[str, Array]:
    """The value of every node.

    Args:
        image: (H, W, C) float32.
        given: values of nodes to take in place of computing them.
    """
    values: dict[str, Array] = {INPUT: np.asarray(image, np.float32)}
    for node in graph.nodes:
        if given is not None and node.name in given:
            values[node.name] = given[node.name]
        else:
            values[node.name] = evaluate(node, [values[name] for name in node.inputs])
    return values


def evaluate(node: Node, inputs: list[Array]) -> Array:
    """The value of one node."""
    found = OPERATIONS[node.op](node, *inputs)
    assert found.shape == node.shape, (node, found.shape)
    return found.astype({"real": np.float32, "codes": np.int16, "sums": np.int32}[node.kind], copy=False)


def _real(x: Array) -> Array:
    return x.astype(np.float32, copy=False)


def _line(node: Node, x: Array) -> Array:
    return fma(_real(x), node.tensors["factor"], node.tensors["offset"])


def _prelu(node: Node, x: Array) -> Array:
    x = _real(x)
    return np.where(x > 0, x, x * node.tensors["slope"])


def _clamp(node: Node, x: Array) -> Array:
    low, high = (node.attributes[key] for key in ("low", "high"))
    x = _real(x)
    x = x if low is None else np.maximum(x, F32(low))
    return x if high is None else np.minimum(x, F32(high))


def _binary(node: Node, one: Array, two: Array) -> Array:
    return BINARY[node.attributes["function"]](_real(one), _real(two))


def _binary_constant(node: Node, x: Array) -> Array:
    pair = (_real(x), node.tensors["other"])
    return BINARY[node.attributes["function"]](*(pair[::-1] if node.attributes["swapped"] else pair))


def _where(node: Node, condition: Array, one: Array, two: Array) -> Array:
    return np.where(condition != 0, _real(one), _real(two))


def _steps(node: Node, x: Array) -> Array:
    falls = node.tensors["falls"].astype(bool)
    return Steps(tuple(node.attributes["levels"]), node.tensors["thresholds"], falls)(x)


def _convolution(node: Node, x: Array) -> Array:
    weight, how = node.tensors["weight"], node.attributes
    outputs, inputs, rows, columns = weight.shape
    groups = how["groups"]
    (top, left), (down, right) = how["padding"], how["stride"]
    padded = np.pad(_real(x), ((top, top), (left, left), (0, 0)))
    high, wide = node.shape[:2]
    bias = node.tensors.get("bias", np.zeros(outputs, np.float32))
    total = np.broadcast_to(bias, node.shape).astype(np.float32)
    each = outputs // groups
    for row, column in itertools.product(range(rows), range(columns)):
        y, z = row * how["dilation"][0], column * how["dilation"][1]
        seen = padded[y : y + down * (high - 1) + 1 : down, z : z + right * (wide - 1) + 1 : right]
        for channel in range(inputs):
            if groups == 1:
                given = seen[:, :, channel, None]
            else:
                given = np.repeat(seen[:, :, channel::inputs], each, 2)
            total = fma(given, weight[:, channel, row, column], total)
    return total


def _binary_convolution(node: Node, x: Array) -> Array:
    weight, how = node.tensors["weight"].astype(np.int64), node.attributes
    outputs, inputs, rows, columns = weight.shape
    pad, stride, groups = how["padding"], how["stride"], how["groups"]
    padded = np.pad(x.astype(np.int64), ((pad, pad), (pad, pad), (0, 0)), constant_values=how["pad_value"])
    high, wide = node.shape[:2]
    total = np.zeros((high, wide, outputs), np.int64)
    each = outputs // groups
    for row, column in itertools.product(range(rows), range(columns)):
        y, z = row * how["dilation"], column * how["dilation"]
        seen = padded[y : y + stride * (high - 1) + 1 : stride, z : z + stride * (wide - 1) + 1 : stride]
        for group in range(groups):
            outs = slice(group * each, (group + 1) * each)
            own = seen[:, :, group * inputs : (group + 1) * inputs]
            total[:, :, outs] += own @ weight[outs, :, row, column].T
    return total.reshape(node.shape)


def _linear(node: Node, x: Array) -> Array:
    weight = node.tensors["weight"]
    total = node.tensors.get("bias", np.zeros(len(weight), np.float32)).astype(np.float32)
    for place, number in enumerate(_real(x)):
        total = fma(number, weight[:, place], total)
    return total


def _pool(node: Node, x: Array) -> Array:
    how, x = node.attributes, _real(x)
    is_mean = how["function"] == "mean"
    (height, width), (high, wide) = x.shape[:2], node.shape[:2]
    found = np.zeros(node.shape, np.float32)
    places = [
        _windows(how, axis, length, size)
        for axis, (length, size) in enumerate(((height, high), (width, wide)))
    ]
    for i, j in itertools.product(range(high), range(wide)):
        (rows, above), (columns, beside) = places[0][i], places[1][j]
        total: Any = None
        for row, column in itertools.product(rows, columns):
            one = x[row, column]
            total = one if total is None else (total + one if is_mean else np.maximum(total, one))
        if is_mean:
            count = above * beside if how["counts_padding"] else len(rows) * len(columns)
            total = total / F32(how["divisor"] or count)
        found[i, j] = total
    return found


def _windows(how: Any, axis: int, length: int, size: int) -> list[tuple[list[int], int]]:
    """For each output along an axis the inputs of its window, and how many it counts with padding."""
    kernel, stride, pad, dilation = (how[key][axis] for key in ("kernel", "stride", "padding", "dilation"))
    found = []
    for place in range(size):
        start = place * stride - pad
        within = [start + k * dilation for k in range(kernel) if 0 <= start + k * dilation < length]
        found.append((within, min(start + kernel, length + pad) - start))
    return found


def _channel_mean(node: Node, x: Array) -> Array:
    total = np.zeros(x.shape[:-1], np.float32)
    for channel in range(x.shape[-1]):
        total = total + _real(x)[..., channel]
    return (total / F32(x.shape[-1]))[..., None]


def _split_scales(node: Node, x: Array) -> Array:
    """As `binas.binarize.optimal`, sums one after another in the order of channels, then pixels."""
    everything = np.abs(x.transpose(2, 0, 1).reshape(-1)).astype(np.float64)
    chosen = np.sort(everything[:: -(-len(everything) // node.attributes["samples"])])
    n = len(chosen)
    if node.attributes["function"] == "ternary":
        sums = np.cumsum(chosen[::-1])
        best = int((sums * sums / np.arange(1, n + 1)).argmax())
        low, high = 0.0, sums[best] / (best + 1)
        split = high / 2
    elif n == 1:
        return np.array([chosen[0], 0], np.float32)
    else:
        sums = np.cumsum(chosen)
        below, above, count = sums[:-1], sums[-1] - sums[:-1], np.arange(1, n)
        best = int((below * below / count + above * above / (n - count)).argmax())
        low, high = below[best] / (best + 1), above[best] / (n - best - 1)
        split = (low + high) / 2
    if n < len(everything):
        over = everything > split
        number, total = int(over.sum()), np.cumsum(everything)[-1]
        sum_over = np.cumsum(np.where(over, everything, 0.0))[-1]
        low = (total - sum_over) / (len(everything) - number) if number < len(everything) else low
        high = sum_over / number if number else high
    if node.attributes["function"] == "ternary":
        return np.array([high], np.float32)
    return np.array([(high + low) / 2, (high - low) / 2], np.float32)


def _select(node: Node, x: Array) -> Array:
    rows, columns, channels = (np.asarray(node.attributes[key]) for key in ("rows", "columns", "channels"))
    rows, columns, channels = rows[:, None, None], columns[None, :, None], channels[None, None]
    is_there = (rows >= 0) & (columns >= 0) & (channels >= 0)
    return np.where(is_there, x[rows, columns, channels], np.asarray(node.attributes["fill"], x.dtype))


def _gather(node: Node, x: Array) -> Array:
    index = node.tensors["index"]
    flat = x.reshape(-1)
    fill = np.asarray(node.attributes["fill"], x.dtype)
    return np.where(index < 0, fill, flat[np.maximum(index, 0)]).reshape(node.shape)


OPERATIONS: dict[str, Callable[..., Array]] = {
    "constant": lambda node: node.tensors["value"],
    "view": lambda node, x: x.reshape(node.shape),
    "select": _select,
    "gather": _gather,
    "concat": lambda node, *parts: np.concatenate(
        [_real(p) if node.kind == "real" else p for p in parts], -1
    ),
    "line": _line,
    "unary": lambda node, x: UNARY[node.attributes["function"]](_real(x)),
    "prelu": _prelu,
    "clamp": _clamp,
    "binary": _binary,
    "binary_constant": _binary_constant,
    "where": _where,
    "step": _steps,
    "threshold": _steps,
    "convolution": _convolution,
    "binary_convolution": _binary_convolution,
    "linear": _linear,
    "pool": _pool,
    "channel_mean": _channel_mean,
    "split_scales": _split_scales,
}
"""What each node does, by its `op`."""
