"""The back end that writes ONNX: standard operators only, weights exactly as they are.

ONNX's Sign is 0 at 0, so a step is a comparison and a choice. Padding that is no 0 is an operator of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from binas.deploy.graph import INPUT, Array, Graph, Node
from binas.deploy.model_file import Model
from binas.errors import UserError
from binas.run.files import write_atomic

OPSET = 17
FLOAT, DOUBLE = 1, 11
"""As ONNX numbers them."""
UNARY = {
    "relu": "Relu",
    "abs": "Abs",
    "neg": "Neg",
    "sqrt": "Sqrt",
    "floor": "Floor",
    "ceil": "Ceil",
    "round": "Round",
    "exp": "Exp",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "hardswish": "HardSwish",
}
BINARY = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min"}
COMPARE = {"ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual", "lt": "Less"}


def write_onnx(model: Model, path: Path) -> int:
    """Writes the model, checked by ONNX's checker, with classes and preparation as metadata; gives its bytes.

    Raises:
        UserError: the package onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise UserError("export: the format onnx needs the package onnx: pip install 'binas[onnx]'") from None
    made = _Writer(model.graph).model()
    text = model.text
    for key, value in (
        ("classes", "\n".join(text.classes)),
        ("mean", str(text.mean)),
        ("std", str(text.std)),
    ):
        entry = made.metadata_props.add()
        entry.key, entry.value = f"binas_{key}", value
    onnx.checker.check_model(made, full_check=True)
    content = made.SerializeToString()
    write_atomic(path, content)
    return len(content)


class _Writer:
    """One writer for one graph; images are (1, C, H, W) there."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.count = 0

    def model(self) -> Any:
        from onnx import TensorProto, helper

        for node in self.graph.nodes:
            write: Callable[[Node], None] = getattr(self, f"_{node.op}")
            write(node)
        height, width, channels = self.graph.input_shape
        outputs = self.graph.by_name()[self.graph.output].shape
        made = helper.make_graph(
            self.nodes,
            "binas",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [1, channels, height, width])],
            [helper.make_tensor_value_info(self.graph.output, TensorProto.FLOAT, [1, *outputs])],
            self.constants,
        )
        return helper.make_model(
            made, producer_name="binas", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9
        )

    def _add(self, op: str, inputs: Sequence[str], output: str, *more: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(
            helper.make_node(op, list(inputs), [output, *more], name=f"n{len(self.nodes)}", **attributes)
        )
        return output

    def _new(self) -> str:
        self.count += 1
        return f"t{self.count}"

    def _keep(self, value: Array | np.floating[Any]) -> str:
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _channel(self, value: Array, node: Node) -> str:
        """Numbers of channels in the shape that broadcasts."""
        value = value.astype(np.float32)
        return self._keep(value.reshape(1, -1, 1, 1) if len(node.shape) == 3 else value.reshape(1, -1))

    @staticmethod
    def _theirs(value: Array) -> Array:
        """(H, W, C) as (1, C, H, W)."""
        return value.transpose(2, 0, 1)[None] if value.ndim == 3 else value[None]

    def _line(self, node: Node) -> None:
        product = self._add("Mul", [node.inputs[0], self._channel(node.tensors["factor"], node)], self._new())
        self._add("Add", [product, self._channel(node.tensors["offset"], node)], node.name)

    def _unary(self, node: Node) -> None:
        function, (x,) = node.attributes["function"], node.inputs
        if function == "silu":
            self._add("Mul", [x, self._add("Sigmoid", [x], self._new())], node.name)
        elif function == "hardsigmoid":
            self._add("HardSigmoid", [x], node.name, alpha=1 / 6, beta=0.5)
        else:
            self._add(UNARY[function], [x], node.name)

    def _prelu(self, node: Node) -> None:
        slope = node.tensors["slope"]
        shaped = slope.reshape(-1, 1, 1) if len(node.shape) == 3 else slope
        self._add("PRelu", [node.inputs[0], self._keep(shaped)], node.name)

    def _clamp(self, node: Node) -> None:
        ends = [node.attributes[key] for key in ("low", "high")]
        names = ["" if end is None else self._keep(np.float32(end)) for end in ends]
        self._add("Clip", [node.inputs[0], *names], node.name)

    def _function(self, function: str, one: str, two: str, output: str) -> None:
        if function in BINARY:
            self._add(BINARY[function], [one, two], output)
        else:
            self._add("Cast", [self._add(COMPARE[function], [one, two], self._new())], output, to=1)

    def _binary(self, node: Node) -> None:
        one, two = node.inputs
        self._function(node.attributes["function"], one, two, node.name)

    def _binary_constant(self, node: Node) -> None:
        other = node.tensors["other"]
        if other.ndim == 1 and len(node.shape) == 3:
            other = other.reshape(1, 1, -1)
        pair = [node.inputs[0], self._keep(self._theirs(other))]
        one, two = pair[::-1] if node.attributes["swapped"] else pair
        self._function(node.attributes["function"], one, two, node.name)

    def _where(self, node: Node) -> None:
        condition = self._add("Cast", [node.inputs[0]], self._new(), to=9)
        self._add("Where", [condition, *node.inputs[1:]], node.name)

    def _steps(self, node: Node) -> None:
        levels, falls = node.attributes["levels"], node.tensors["falls"].astype(bool)
        thresholds = node.tensors["thresholds"].astype(np.float32)
        if len(levels) == 2 and not falls.any() and (thresholds == thresholds[0]).all():
            reached = self._add("GreaterOrEqual", [node.inputs[0], self._keep(thresholds[0, 0])], self._new())
            high, low = (self._keep(np.float32(level)) for level in (levels[1], levels[0]))
            self._add("Where", [reached, high, low], node.name)
            return
        low = np.where(falls, levels[-1], levels[0]).astype(np.float32)
        found = self._channel(low, node)
        for place, column in enumerate(node.tensors["thresholds"].T):
            reached = self._add("GreaterOrEqual", [node.inputs[0], self._channel(column, node)], self._new())
            level = np.where(falls, levels[len(levels) - 2 - place], levels[place + 1]).astype(np.float32)
            last = place == len(levels) - 2
            found = self._add(
                "Where", [reached, self._channel(level, node), found], node.name if last else self._new()
            )

    _step = _threshold = _steps

    def _convolution(self, node: Node) -> None:
        how = node.attributes
        inputs = [node.inputs[0], self._keep(node.tensors["weight"])]
        if "bias" in node.tensors:
            inputs.append(self._keep(node.tensors["bias"]))
        top, left = how["padding"]
        self._add(
            "Conv",
            inputs,
            node.name,
            strides=how["stride"],
            pads=[top, left, top, left],
            dilations=how["dilation"],
            group=how["groups"],
        )

    def _binary_convolution(self, node: Node) -> None:
        how = node.attributes
        x, pad = node.inputs[0], how["padding"]
        if pad and how["pad_value"]:
            pads = self._keep(np.array([0, 0, pad, pad, 0, 0, pad, pad], np.int64))
            x = self._add("Pad", [x, pads, self._keep(np.float32(how["pad_value"]))], self._new())
            pad = 0
        self._add(
            "Conv",
            [x, self._keep(node.tensors["weight"].astype(np.float32))],
            node.name,
            strides=[how["stride"]] * 2,
            pads=[pad] * 4,
            dilations=[how["dilation"]] * 2,
            group=how["groups"],
        )

    def _linear(self, node: Node) -> None:
        inputs = [node.inputs[0], self._keep(node.tensors["weight"])]
        if "bias" in node.tensors:
            inputs.append(self._keep(node.tensors["bias"]))
        self._add("Gemm", inputs, node.name, transB=1)

    def _pool(self, node: Node) -> None:
        how = node.attributes
        before = self.graph.shape_of(node.inputs[0])
        pads = list(how["padding"])
        ends = []
        for axis in (0, 1):  # a last window that is cut needs padding of its own
            kernel, stride, dilation = (how[key][axis] for key in ("kernel", "stride", "dilation"))
            reach = (node.shape[axis] - 1) * stride + dilation * (kernel - 1) + 1
            ends.append(max(pads[axis], reach - before[axis] - pads[axis]))
        geometry = {"kernel_shape": how["kernel"], "strides": how["stride"], "pads": [*pads, *ends]}
        if how["function"] == "max":
            self._add("MaxPool", node.inputs, node.name, dilations=how["dilation"], **geometry)
            return
        if how["divisor"] is not None or (ends != pads and how["counts_padding"]):
            raise UserError(
                f"export: onnx: the average pool of '{node.source}' divides by what ONNX cannot say"
            )
        self._add(
            "AveragePool", node.inputs, node.name, count_include_pad=int(how["counts_padding"]), **geometry
        )

    def _channel_mean(self, node: Node) -> None:
        self._add("ReduceMean", node.inputs, node.name, axes=[1], keepdims=1)

    def _split_scales(self, node: Node) -> None:
        """As the reference, in doubles: sorted magnitudes, their running sums, the best place to split."""
        how = node.attributes
        count = math.prod(self.graph.shape_of(node.inputs[0]))
        step = -(-count // how["samples"])
        n, ternary = -(-count // step), how["function"] == "ternary"

        def whole(*numbers: int) -> str:
            return self._keep(np.array(numbers, np.int64))

        def real(*numbers: float) -> str:
            return self._keep(np.array(numbers, np.float64))

        def does(op: str, *inputs: str, **attributes: Any) -> str:
            return self._add(op, list(inputs), self._new(), **attributes)

        flat = does("Reshape", node.inputs[0], whole(-1))
        everything = does("Cast", does("Abs", flat), to=DOUBLE)
        chosen = does("Slice", everything, whole(0), whole(count), whole(0), whole(step))
        values, places = self._new(), self._new()
        self._add("TopK", [chosen, whole(n)], values, places, largest=int(ternary))
        sums = does("CumSum", values, self._keep(np.array(0, np.int64)))
        if ternary:
            counts = real(*range(1, n + 1))
            score = does("Div", does("Mul", sums, sums), counts)
            best = does("ArgMax", score, axis=0, keepdims=1)
            high = does("Gather", does("Div", sums, counts), best, axis=0)
            low, split = real(0.0), does("Div", high, real(2.0))
        elif n == 1:
            low = high = split = values
        else:
            below = does("Slice", sums, whole(0), whole(n - 1))
            above = does("Sub", does("Slice", sums, whole(n - 1), whole(n)), below)
            one, other = real(*range(1, n)), real(*range(n - 1, 0, -1))
            first, second = does("Div", below, one), does("Div", above, other)
            score = does("Add", does("Mul", below, first), does("Mul", above, second))
            best = does("ArgMax", score, axis=0, keepdims=1)
            low, high = (does("Gather", means, best, axis=0) for means in (first, second))
            split = does("Div", does("Add", low, high), real(2.0))
        if n < count:
            over = does("Cast", does("Greater", everything, split), to=DOUBLE)
            number = does("ReduceSum", over, whole(0))
            total = does("ReduceSum", everything, whole(0))
            sum_over = does("ReduceSum", does("Mul", everything, over), whole(0))
            rest = does("Sub", real(count), number)
            found = does("Div", does("Sub", total, sum_over), does("Max", rest, real(1.0)))
            low = does("Where", does("Greater", rest, real(0.5)), found, low)
            found = does("Div", sum_over, does("Max", number, real(1.0)))
            high = does("Where", does("Greater", number, real(0.5)), found, high)
        if ternary:
            result = high
        else:
            parts = (does(op, high, low) for op in ("Add", "Sub"))
            result = does("Concat", *(does("Div", part, real(2.0)) for part in parts), axis=0)
            result = does("Reshape", result, whole(-1))
        short = does("Cast", result, to=FLOAT)
        self._add("Reshape", [short, whole(1, *node.shape)], node.name)

    def _view(self, node: Node) -> None:
        shape = [1, node.shape[2], *node.shape[:2]] if len(node.shape) == 3 else [1, *node.shape]
        before = self.graph.shape_of(node.inputs[0])
        x = node.inputs[0]
        if len(before) == 3 and len(node.shape) == 1:  # our order of numbers is pixels, then channels
            x = self._add("Transpose", [x], self._new(), perm=[0, 2, 3, 1])
        elif len(before) == 1 and len(node.shape) == 3:
            wide = self._keep(np.array([1, *node.shape], np.int64))
            x = self._add("Reshape", [x, wide], self._new())
            self._add("Transpose", [x], node.name, perm=[0, 3, 1, 2])
            return
        self._add("Reshape", [x, self._keep(np.array(shape, np.int64))], node.name)

    def _select(self, node: Node) -> None:
        x = node.inputs[0]
        fill = self._keep(np.float32(node.attributes["fill"]))
        for axis, key in ((2, "rows"), (3, "columns"), (1, "channels")):
            chosen = np.asarray(node.attributes[key])
            length = self.graph.shape_of(node.inputs[0])[(axis - 2) if axis > 1 else 2]
            if np.array_equal(chosen, np.arange(length)):
                continue
            if (chosen < 0).any():  # one more entry, which is the fill
                pads = np.zeros(8, np.int64)
                pads[4 + axis] = 1
                x = self._add("Pad", [x, self._keep(pads), fill], self._new())
                chosen = np.where(chosen < 0, length, chosen)
            x = self._add("Gather", [x, self._keep(chosen.astype(np.int64))], self._new(), axis=axis)
        self._add("Identity", [x], node.name)

    def _gather(self, node: Node) -> None:
        before = self.graph.shape_of(node.inputs[0])
        x = node.inputs[0]
        if len(before) == 3:
            x = self._add("Transpose", [x], self._new(), perm=[0, 2, 3, 1])
        flat = self._add("Reshape", [x, self._keep(np.array([-1], np.int64))], self._new())
        fill = self._keep(np.array([node.attributes["fill"]], np.float32))
        flat = self._add("Concat", [flat, fill], self._new(), axis=0)
        index = node.tensors["index"].astype(np.int64)
        index = np.where(index < 0, int(np.prod(before)), index)
        found = self._add("Gather", [flat, self._keep(index)], self._new(), axis=0)
        wide = self._keep(np.array([1, *node.shape], np.int64))
        if len(node.shape) == 1:
            self._add("Reshape", [found, wide], node.name)
            return
        found = self._add("Reshape", [found, wide], self._new())
        self._add("Transpose", [found], node.name, perm=[0, 3, 1, 2])

    def _concat(self, node: Node) -> None:
        self._add("Concat", node.inputs, node.name, axis=1)

    def _constant(self, node: Node) -> None:
        self._add("Identity", [self._keep(self._theirs(node.tensors["value"]))], node.name)
