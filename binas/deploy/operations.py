"""What the nodes of a graph may be, and the check of one that comes from a file.

A file is data from others: a node whose shapes, numbers and constants do not belong together is refused here,
so that no back end reads beyond what is there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from binas.deploy.graph import Node, Shape
from binas.deploy.planes import LARGEST_CODE, levels_of

LARGEST = 2**20
"""Of kernels, strides, pads and dilations."""
UNARY = (
    *("relu", "abs", "neg", "sqrt", "floor", "ceil", "round"),
    *("exp", "sigmoid", "tanh", "silu", "hardsigmoid", "hardswish"),
)
BINARY = ("add", "sub", "mul", "div", "max", "min", "ge", "gt", "le", "lt")


def check_node(node: Node, shapes: Sequence[Shape], kinds: Sequence[str]) -> None:
    """Raises ValueError where a node does not fit what it reads.

    Args:
        shapes, kinds: of its inputs.
    """
    if any(not isinstance(n, int) or not 0 < n < 2**24 for n in node.shape) or node.size > 2**28:
        raise ValueError(f"node '{node.name}': its shape is none")
    count, tensors, attributes, check = OPERATIONS[node.op]
    if count is not None and len(shapes) != count:
        raise ValueError(f"node '{node.name}': {node.op} reads {count} values, not {len(shapes)}")
    names = set(node.tensors)
    if not {t for t in tensors if not t.endswith("?")} <= names <= {t.rstrip("?") for t in tensors}:
        raise ValueError(f"node '{node.name}': {node.op} has other constants")
    if set(node.attributes) != set(attributes):
        raise ValueError(f"node '{node.name}': {node.op} has other attributes")
    wanted = {"step": "codes", "threshold": "codes", "binary_convolution": "sums"}.get(node.op)
    if wanted is not None and node.kind != wanted:
        raise ValueError(f"node '{node.name}': gives {wanted}")
    if wanted is None and node.kind == "codes":
        raise ValueError(f"node '{node.name}': only steps give codes")
    needs_codes = node.op == "binary_convolution"
    if any((kind == "codes") != needs_codes for kind in kinds):
        raise ValueError(f"node '{node.name}': {node.op} reads {'codes' if needs_codes else 'numbers'}")
    if not check(node, list(shapes)):
        raise ValueError(f"node '{node.name}': the shapes of {node.op} do not fit")


def _int(value: Any, low: int = 0, high: int = LARGEST) -> bool:
    return type(value) is int and low <= value <= high


def _ints(values: Any, low: int, high: int = LARGEST, length: int | None = 2) -> bool:
    return (
        isinstance(values, list | tuple)
        and (length is None or len(values) == length)
        and all(_int(value, low, high) for value in values)
    )


def _real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _same(node: Node, shapes: list[Shape]) -> bool:
    return node.shape == shapes[0] and all(
        value.dtype == np.float32 and value.shape == (node.shape[-1],) for value in node.tensors.values()
    )


def _clamp(node: Node, shapes: list[Shape]) -> bool:
    return _same(node, shapes) and all(v is None or _real(v) for v in node.attributes.values())


def _unary(node: Node, shapes: list[Shape]) -> bool:
    return _same(node, shapes) and node.attributes["function"] in UNARY


def _broadcasts(node: Node, shapes: list[Shape]) -> bool:
    try:
        return tuple(np.broadcast_shapes(*shapes)) == node.shape
    except ValueError:
        return False


def _binary(node: Node, shapes: list[Shape]) -> bool:
    if node.attributes.get("function", "add") not in BINARY or any(len(s) != len(node.shape) for s in shapes):
        return False
    return _broadcasts(node, shapes)


def _binary_constant(node: Node, shapes: list[Shape]) -> bool:
    other = node.tensors["other"]
    is_fit = node.attributes["function"] in BINARY and isinstance(node.attributes["swapped"], bool)
    return (
        is_fit
        and node.shape == shapes[0]
        and other.dtype == np.float32
        and _broadcasts(node, [*shapes, other.shape])
    )


def _steps(node: Node, shapes: list[Shape]) -> bool:
    levels, thresholds, falls = node.attributes["levels"], node.tensors["thresholds"], node.tensors["falls"]
    if (
        not _ints(levels, -LARGEST_CODE, LARGEST_CODE, None)
        or not 2 <= len(levels) <= 256
        or len(node.shape) != 3
    ):
        return False
    kind = np.float32 if node.op == "step" else np.int32
    return (
        len(set(levels)) > 1
        and levels_of(levels).planes <= 8
        and node.shape == shapes[0]
        and thresholds.dtype == kind
        and thresholds.shape == (node.shape[-1], len(levels) - 1)
        and falls.shape == (node.shape[-1],)
        and bool((falls <= 1).all())
    )


def _sizes(lengths: Sequence[int], kernel: Any, stride: Any, padding: Any, dilation: Any) -> list[int]:
    return [
        (lengths[d] + 2 * padding[d] - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1 for d in range(2)
    ]


def _convolution(node: Node, shapes: list[Shape]) -> bool:
    how, weight, bias = node.attributes, node.tensors["weight"], node.tensors.get("bias")
    (shape,) = shapes
    groups = how["groups"]
    if len(shape) != 3 or len(node.shape) != 3 or weight.ndim != 4 or not _int(groups, 1):
        return False
    if not (_ints(how["stride"], 1) and _ints(how["padding"], 0) and _ints(how["dilation"], 1)):
        return False
    outputs, inputs, *kernel = weight.shape
    sizes = _sizes(shape[:2], kernel, how["stride"], how["padding"], how["dilation"])
    fits = inputs * groups == shape[2] and outputs % groups == 0
    return (
        fits
        and node.shape == (*sizes, outputs)
        and weight.dtype == np.float32
        and (bias is None or (bias.dtype == np.float32 and bias.shape == (outputs,)))
    )


def _binary_convolution(node: Node, shapes: list[Shape]) -> bool:
    how, weight = node.attributes, node.tensors["weight"]
    (shape,) = shapes
    if len(shape) != 3 or weight.ndim != 4 or weight.dtype != np.int16 or weight.shape[2] != weight.shape[3]:
        return False
    if not (
        _int(how["stride"], 1)
        and _int(how["padding"])
        and _int(how["dilation"], 1)
        and _int(how["groups"], 1)
    ):
        return False
    if (
        not _int(how["pad_value"], -LARGEST_CODE, LARGEST_CODE)
        or not _ints(how["levels"], -LARGEST_CODE, LARGEST_CODE, None)
        or len(how["levels"]) < 2
    ):
        return False
    outputs, inputs, *kernel = weight.shape
    sizes = _sizes(shape[:2], kernel, [how["stride"]] * 2, [how["padding"]] * 2, [how["dilation"]] * 2)
    fits = (
        inputs * how["groups"] == shape[2]
        and outputs % how["groups"] == 0
        and inputs * kernel[0] ** 2 < 2**20
    )
    return fits and node.shape == (*sizes, outputs) and isinstance(how["layer"], str)


def _linear(node: Node, shapes: list[Shape]) -> bool:
    weight, bias = node.tensors["weight"], node.tensors.get("bias")
    return (
        weight.dtype == np.float32
        and weight.ndim == 2
        and shapes[0] == (weight.shape[1],)
        and node.shape == (weight.shape[0],)
        and (bias is None or (bias.dtype == np.float32 and bias.shape == node.shape))
    )


def _pool(node: Node, shapes: list[Shape]) -> bool:
    how, (shape,) = node.attributes, shapes
    if len(shape) != 3 or len(node.shape) != 3 or how["function"] not in ("max", "mean"):
        return False
    kernel, stride, padding, dilation = (how[key] for key in ("kernel", "stride", "padding", "dilation"))
    if not (_ints(kernel, 1) and _ints(stride, 1) and _ints(padding, 0) and _ints(dilation, 1)):
        return False
    if not isinstance(how["counts_padding"], bool) or not (how["divisor"] is None or _int(how["divisor"], 1)):
        return False
    if any(2 * pad > size for pad, size in zip(padding, kernel, strict=True)):
        return False
    exact = _sizes(shape[:2], kernel, stride, padding, dilation)
    within = all(0 <= node.shape[d] - exact[d] <= 1 for d in (0, 1))
    # with a last window that is cut: it must begin within the image
    begins = all((node.shape[d] - 1) * stride[d] - padding[d] < shape[d] for d in (0, 1))
    return within and begins and node.shape[2] == shape[2]


def _channel_mean(node: Node, shapes: list[Shape]) -> bool:
    return len(shapes[0]) == 3 and node.shape == (*shapes[0][:2], 1)


def _split_scales(node: Node, shapes: list[Shape]) -> bool:
    function, samples = node.attributes["function"], node.attributes["samples"]
    wide = {"two_bases": 2, "ternary": 1}.get(function) if isinstance(function, str) else None
    return len(shapes[0]) == 3 and node.shape == (wide,) and _int(samples, 1, 2**20)


def _select(node: Node, shapes: list[Shape]) -> bool:
    if len(shapes[0]) != 3 or len(node.shape) != 3 or not _real(node.attributes["fill"]):
        return False
    return all(
        _ints(node.attributes[key], -1, shapes[0][axis] - 1, node.shape[axis])
        for axis, key in enumerate(("rows", "columns", "channels"))
    )


def _gather(node: Node, shapes: list[Shape]) -> bool:
    index = node.tensors["index"]
    return bool(
        index.dtype == np.int32
        and index.shape == (node.size,)
        and int(index.min()) >= -1
        and int(index.max()) < math.prod(shapes[0])
        and _real(node.attributes["fill"])
    )


def _concat(node: Node, shapes: list[Shape]) -> bool:
    return (
        len(shapes) > 0
        and all(shape[:-1] == node.shape[:-1] for shape in shapes)
        and sum(shape[-1] for shape in shapes) == node.shape[-1]
    )


def _constant(node: Node, shapes: list[Shape]) -> bool:
    return bool(node.tensors["value"].dtype == np.float32 and node.tensors["value"].shape == node.shape)


Check = Callable[[Node, list[Shape]], bool]
OPERATIONS: dict[str, tuple[int | None, tuple[str, ...], tuple[str, ...], Check]] = {
    "constant": (0, ("value",), (), _constant),
    "view": (1, (), (), lambda node, shapes: node.size == math.prod(shapes[0])),
    "select": (1, (), ("rows", "columns", "channels", "fill"), _select),
    "gather": (1, ("index",), ("fill",), _gather),
    "concat": (None, (), (), _concat),
    "line": (1, ("factor", "offset"), (), _same),
    "unary": (1, (), ("function",), _unary),
    "prelu": (1, ("slope",), (), _same),
    "clamp": (1, (), ("low", "high"), _clamp),
    "binary": (2, (), ("function",), _binary),
    "binary_constant": (1, ("other",), ("function", "swapped"), _binary_constant),
    "where": (3, (), (), _binary),
    "step": (1, ("thresholds", "falls"), ("levels",), _steps),
    "threshold": (1, ("thresholds", "falls"), ("levels",), _steps),
    "convolution": (1, ("weight", "bias?"), ("stride", "padding", "dilation", "groups"), _convolution),
    "binary_convolution": (
        1,
        ("weight",),
        ("levels", "stride", "padding", "dilation", "groups", "pad_value", "layer"),
        _binary_convolution,
    ),
    "linear": (1, ("weight", "bias?"), (), _linear),
    "pool": (
        1,
        (),
        ("function", "kernel", "stride", "padding", "dilation", "counts_padding", "divisor"),
        _pool,
    ),
    "channel_mean": (1, (), (), _channel_mean),
    "split_scales": (1, (), ("function", "samples"), _split_scales),
}
"""For each operation: values that it reads, constants (? where it may lack one), attributes, its check."""
