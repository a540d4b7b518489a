"""From torch's operators to the nodes of a graph.

Moves of numbers (reshapes, permutations, slices, pads, repeats) are followed by what they do to indices, and
become one node where a computation reads them, whatever they are called.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind

from binas.deploy.capture import Captured, CapturedLayer
from binas.deploy.graph import INPUT, Array, Graph, Kind, Node, Shape
from binas.deploy.steps import NotAStep, Steps, steps_of_sums
from binas.errors import UserError

MOST_SUMS = 2**25
"""Numbers up to which a chain behind a convolution is evaluated at every sum that can be."""
UNARY = {
    "relu": "relu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "abs": "abs",
    "neg": "neg",
    "sqrt": "sqrt",
    "floor": "floor",
    "ceil": "ceil",
    "round": "round",
    "exp": "exp",
    "silu": "silu",
    "hardswish": "hardswish",
    "hardsigmoid": "hardsigmoid",
}
BINARY = {"add": "add", "sub": "sub", "mul": "mul", "div": "div", "maximum": "max", "minimum": "min"}
COMPARISONS = {"ge": "ge", "gt": "gt", "le": "le", "lt": "lt"}
MOVES = {
    "view",
    "reshape",
    "_unsafe_view",
    "flatten",
    "permute",
    "transpose",
    "t",
    "slice",
    "select",
    "expand",
    "unsqueeze",
    "squeeze",
    "pad",
    "constant_pad_nd",
    "channel_shuffle",
    "pixel_shuffle",
    "pixel_unshuffle",
    "repeat",
    "repeat_interleave",
    "split",
    "chunk",
    "split_with_sizes",
    "index_select",
    "flip",
    "expand_as",
    "view_as",
    "unflatten",
    "narrow",
    "roll",
    "upsample_nearest2d",
}
NOTHING = {
    "contiguous",
    "clone",
    "detach",
    "detach_",
    "dropout",
    "alias",
    "lift_fresh_copy",
    "feature_dropout",
    "_assert_tensor_metadata",
    "to",
    "_to_copy",
}
CHAIN = {"mul", "add", "sub", "div", "relu", "prelu", "batch_norm", "hardtanh", "clamp", "leaky_relu", "neg"}
"""Operators of one number and constants, which may stand between a convolution and a sign."""


@dataclass(frozen=True)
class Value:
    """What an operator of torch gave: a node's value, with its numbers moved.

    Args:
        name: of the node.
        index: for each of its numbers the place in the node's value (C, H, W order), −1 for `fill`; None: as
            it is.
        shape: as torch has it, with the one image in front.
        fill: what stands where there is none.
    """

    name: str
    shape: tuple[int, ...]
    index: Tensor | None = None
    fill: float = 0.0

    def places(self) -> Tensor:
        """The index, also of what was not moved."""
        if self.index is None:
            return torch.arange(math.prod(self.shape)).reshape(self.shape)
        return self.index


Found = Value | Tensor | tuple[Any, ...] | None


def lower(captured: Captured, example: Tensor) -> Graph:
    """The graph of a captured module.

    Args:
        example: (1, C, H, W), as it was captured with.
    Raises:
        UserError: it uses an operator that no back end knows, named with its module.
    """
    return _Lowering(captured, example).graph()


class _Lowering:
    def __init__(self, captured: Captured, example: Tensor) -> None:
        self.layers = captured.layers
        self.program = captured.program
        self.example = example
        self.nodes: list[Node] = []
        self.found: dict[fx.Node, Found] = {}
        self.source = ""
        self.kinds: dict[str, Kind] = {INPUT: "real"}
        self.materialized: dict[tuple[str, Any], str] = {}
        self._levels_of: dict[str, list[int]] = {}

    def graph(self) -> Graph:
        channels, height, width = self.example.shape[1:]
        self.shapes: dict[str, Shape] = {INPUT: (height, width, channels)}
        constants = self._constants()
        output = ""
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self.found[node] = constants.get(node.name, Value(INPUT, tuple(self.example.shape)))
            elif node.op == "output":
                (result,) = node.args[0]
                output = self._name(self.found[result])
            elif node.op == "call_function":
                self.source = _source(node)
                self.found[node] = self._call(node)
                if _in_place(node):  # whoever reads the tensor later reads it changed
                    self.found[node.args[0]] = self.found[node]
        return Graph((height, width, channels), tuple(self.nodes), output).alive()

    def _constants(self) -> dict[str, Tensor]:
        found = {}
        state = {**self.program.state_dict, **self.program.constants}
        for spec in self.program.graph_signature.input_specs:
            if spec.kind != InputKind.USER_INPUT:
                tensor = state[str(spec.target)]
                assert isinstance(tensor, Tensor)
                found[spec.arg.name] = tensor.detach()
        return found

    # ---- one operator

    def _call(self, node: fx.Node) -> Found:
        if node.target is operator.getitem:
            holder, place = node.args
            found = self.found[holder]  # type: ignore[index]
            assert isinstance(found, tuple | list) and isinstance(place, int)
            chosen: Found = found[place]
            return chosen
        name = _operator(node)
        arguments = [self._given(argument) for argument in node.args]
        words = {key: self._given(value) for key, value in node.kwargs.items()}
        if not any(isinstance(one, Value) for one in _flat([*arguments, *words.values()])):
            with torch.no_grad():
                return node.target(*arguments, **words)  # type: ignore[no-any-return, operator]
        handler: Callable[..., Found] | None = getattr(self, f"_{name}", None)
        if name in MOVES:
            return self._moved(node, arguments, words)
        if name in NOTHING:
            return arguments[0]  # type: ignore[no-any-return]
        if name in UNARY:
            return self._elementwise("unary", arguments[0], function=UNARY[name])
        if name in BINARY:
            return self._binary(name, arguments[0], arguments[1], **words)
        if name in COMPARISONS:
            return self._binary(name, arguments[0], arguments[1])
        if handler is None:
            raise self._unknown(str(node.target))
        return handler(*arguments, **words)

    def _unknown(self, what: str) -> UserError:
        where = f" of '{self.source}'" if self.source else ""
        for layer in self.layers:
            if layer.name == self.source and not layer.steps:
                where += f" (activation binarizer '{layer.conv.active_activation}')"
        return UserError(
            f"export: no back end knows the operator {what}{where}; write it with convolutions, batch-norms,"
            " pools, sums, products and usual activations"
        )

    def _given(self, argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return self.found[argument]
        if isinstance(argument, list | tuple):
            return [self._given(one) for one in argument]
        return argument

    def _emit(
        self,
        op: str,
        inputs: Sequence[str],
        shape: Sequence[int],
        kind: Kind = "real",
        tensors: Mapping[str, Array] | None = None,
        **attributes: Any,
    ) -> Value:
        """A node whose value has that shape of torch, (1, C, H, W) or (1, F)."""
        own = _own_shape(shape)
        if own is None:
            raise self._unknown(f"{op} on numbers of shape {tuple(shape)}")
        name = f"v{len(self.nodes)}"
        self.nodes.append(Node(name, op, tuple(inputs), own, kind, attributes, tensors or {}, self.source))
        self.shapes[name], self.kinds[name] = own, kind
        return Value(name, tuple(shape))

    def _name(self, value: Any) -> str:
        """The node that holds a value as it is, made if it has to be."""
        if isinstance(value, Tensor):
            shape = (1, *value.shape[1:]) if value.dim() in (2, 4) else (1, *value.shape)
            return self._emit("constant", (), shape, tensors={"value": _own(value.reshape(shape))}).name
        if not isinstance(value, Value):
            raise self._unknown("a value that is no tensor")
        if value.index is None:
            return value.name
        own = _own_shape(value.shape)
        if own is None:
            raise self._unknown(f"a move to shape {tuple(value.shape)}")
        key = (value.name, (value.shape, value.fill, value.index.numpy().tobytes()))
        if key not in self.materialized:
            self.materialized[key] = self._move(value, own)
        return self.materialized[key]

    def _move(self, value: Value, own: Shape) -> str:
        """The node for moved numbers: a view, channels chosen, or any gather."""
        assert value.index is not None
        before = self.shapes[value.name]
        place = np.arange(math.prod(before), dtype=np.int64)
        if len(before) == 3:  # C, H, W order to ours
            place = place.reshape(before).transpose(2, 0, 1).reshape(-1)
        flat = value.index.numpy()[0]
        chosen = np.where(flat < 0, -1, place[np.maximum(flat, 0)])
        if chosen.ndim == 3:
            chosen = chosen.transpose(1, 2, 0)
        chosen = np.ascontiguousarray(chosen).reshape(-1)
        kind = self.kinds[value.name]
        if np.array_equal(chosen, np.arange(math.prod(before))):
            return self._emit("view", (value.name,), value.shape, kind).name
        if len(before) == len(own) == 3:
            axes = _axes(chosen.reshape(own), before)
            if axes is not None:
                rows, columns, channels = axes
                how: dict[str, Any] = {"rows": rows, "columns": columns, "channels": channels}
                return self._emit("select", (value.name,), value.shape, kind, fill=value.fill, **how).name
        tensors = {"index": chosen.astype(np.int32)}
        return self._emit("gather", (value.name,), value.shape, kind, tensors, fill=value.fill).name

    def _moved(self, node: fx.Node, arguments: list[Any], words: dict[str, Any]) -> Found:
        value = arguments[0]
        name = _operator(node)
        if name in ("expand_as", "view_as"):
            other = arguments[1]
            arguments[1] = torch.empty(other.shape) if isinstance(other, Value) else other
        if isinstance(value, Tensor):
            raise self._unknown(str(node.target))
        index, fill = value.places(), value.fill
        if name in ("pad", "constant_pad_nd"):
            if name == "pad" and len(arguments) > 2 and arguments[2] != "constant":
                moved = torch.nn.functional.pad(index.double(), arguments[1], arguments[2]).long()
                return Value(value.name, tuple(moved.shape), moved, fill)
            wanted = arguments[3 if name == "pad" else 2 :] or [words.get("value", 0.0)]
            number = float(wanted[0] or 0.0)
            if (index < 0).any() and fill != number:
                value = Value(self._name(value), value.shape)
                index = value.places()
            moved = torch.nn.functional.pad(index, arguments[1], value=-1)
            return Value(value.name, tuple(moved.shape), moved, number)
        if name == "upsample_nearest2d":  # which torch does to real numbers only
            index = index.double()
        moved = node.target(index, *arguments[1:], **words)  # type: ignore[operator]
        if name == "upsample_nearest2d":
            moved = moved.long()
        if isinstance(moved, list | tuple):
            return tuple(Value(value.name, tuple(one.shape), one, fill) for one in moved)
        return Value(value.name, tuple(moved.shape), moved, fill)

    # ---- what computes

    def _elementwise(
        self, op: str, value: Any, tensors: Mapping[str, Array] | None = None, **how: Any
    ) -> Value:
        return self._emit(op, [self._name(value)], value.shape, tensors=tensors, **how)

    def _binary(self, name: str, one: Any, two: Any, alpha: float = 1, **_: Any) -> Value:
        if alpha != 1:
            two = self._binary("mul", two, alpha) if isinstance(two, Value) else two * alpha
        if not isinstance(one, Value) or not isinstance(two, Value):
            return self._with_constant(name, one, two)
        shape = _broadcast(one.shape, two.shape)
        function = BINARY.get(name) or COMPARISONS[name]
        return self._emit("binary", [self._name(one), self._name(two)], shape, function=function)

    def _with_constant(self, name: str, one: Any, two: Any) -> Value:
        """A value and a constant: per channel it is a line, otherwise an operator with a tensor."""
        value, constant, swapped = (one, two, False) if isinstance(one, Value) else (two, one, True)
        number = torch.as_tensor(constant, dtype=torch.float32)
        shape = tuple(_broadcast(value.shape, number.shape))
        per_channel = shape == value.shape and _per_channel(number, value.shape)
        if per_channel is not None and per_channel is not False and name in ("add", "sub", "mul", "div"):
            row = per_channel.numpy().astype(np.float32)
            one_row, zero = np.ones_like(row), np.zeros_like(row)
            if name == "mul":
                return self._line(value, row, zero)
            if name == "add":
                return self._line(value, one_row, row)
            if name == "sub":
                return self._line(value, -one_row, row) if swapped else self._line(value, one_row, -row)
            if not swapped:
                return self._elementwise(
                    "binary_constant", value, {"other": row}, function="div", swapped=False
                )
        if len(shape) not in (2, 4) or shape != value.shape:
            return self._emit(
                "binary",
                [
                    self._name(v) if isinstance(v, Value) else self._name(_four(number, shape))
                    for v in (one, two)
                ],
                shape,
                function=BINARY.get(name) or COMPARISONS[name],
            )
        other = _own(_four(number, value.shape))
        function = BINARY.get(name) or COMPARISONS[name]
        return self._elementwise(
            "binary_constant", value, {"other": other}, function=function, swapped=swapped
        )

    def _line(self, value: Value, factor: Array, offset: Array) -> Value:
        channels = _channels(value.shape)
        tensors = {
            "factor": np.ascontiguousarray(np.broadcast_to(factor, (channels,))),
            "offset": np.ascontiguousarray(np.broadcast_to(offset, (channels,))),
        }
        return self._elementwise("line", value, tensors)

    def _batch_norm(
        self, value: Value, weight: Any, bias: Any, mean: Tensor, variance: Tensor, *rest: Any
    ) -> Value:
        epsilon = rest[2]
        factor = 1 / torch.sqrt(variance + epsilon)
        factor = factor if weight is None else factor * weight
        offset = -mean * factor if bias is None else bias - mean * factor
        return self._line(value, factor.detach().numpy(), offset.detach().numpy())

    def _prelu(self, value: Value, slope: Tensor) -> Value:
        channels = _channels(value.shape)
        return self._elementwise("prelu", value, {"slope": slope.detach().expand(channels).numpy().copy()})

    def _leaky_relu(self, value: Value, slope: float = 0.01) -> Value:
        return self._prelu(value, torch.tensor([slope]))

    def _clamp(self, value: Value, low: Any = None, high: Any = None, **words: Any) -> Value:
        low, high = words.get("min", low), words.get("max", high)
        ends = [-math.inf if low is None else low, math.inf if high is None else high]
        if any(isinstance(end, Tensor | Value) for end in ends):
            raise self._unknown("clamp by tensors")
        return self._elementwise("clamp", value, low=_finite(ends[0]), high=_finite(ends[1]))

    def _hardtanh(self, value: Value, low: float = -1.0, high: float = 1.0) -> Value:
        return self._clamp(value, low, high)

    def _clamp_min(self, value: Value, low: float) -> Value:
        return self._clamp(value, low, None)

    def _relu6(self, value: Value) -> Value:
        return self._clamp(value, 0.0, 6.0)

    def _elu(self, value: Value, alpha: float = 1.0, scale: float = 1.0, inner: float = 1.0) -> Value:
        below = self._clamp(value, None, 0.0)
        below = self._elementwise("unary", self._binary("mul", below, inner), function="exp")
        below = self._binary("mul", self._binary("sub", below, 1.0), alpha)
        found = self._binary("add", self._elementwise("unary", value, function="relu"), below)
        return found if scale == 1 else self._binary("mul", found, scale)

    def _celu(self, value: Value, alpha: float = 1.0) -> Value:
        return self._elu(value, alpha, 1.0, 1 / alpha)

    def _selu(self, value: Value) -> Value:
        return self._elu(value, 1.6732632423543772, 1.0507009873554805)

    def _rrelu(self, value: Value, lower: float = 1 / 8, upper: float = 1 / 3, *_: Any) -> Value:
        return self._leaky_relu(value, (lower + upper) / 2)

    def _rsqrt(self, value: Value) -> Value:
        return self._binary("div", 1.0, self._elementwise("unary", value, function="sqrt"))

    def _reciprocal(self, value: Value) -> Value:
        return self._binary("div", 1.0, value)

    def _square(self, value: Value) -> Value:
        return self._binary("mul", value, value)

    def _pow(self, value: Any, exponent: Any) -> Value:
        if isinstance(value, Value) and exponent == 0.5:
            return self._elementwise("unary", value, function="sqrt")
        if not isinstance(value, Value) or exponent not in (2, 3, 4):
            raise self._unknown(f"pow with the exponent {exponent}")
        found = square = self._square(value)
        if exponent == 3:
            found = self._binary("mul", square, value)
        return self._square(square) if exponent == 4 else found

    def _glu(self, value: Value, dim: int = -1) -> Value:
        halves = value.places().chunk(2, dim)
        one, two = (Value(value.name, tuple(half.shape), half, value.fill) for half in halves)
        return self._binary("mul", one, self._elementwise("unary", two, function="sigmoid"))

    def _sign(self, value: Value) -> Value:
        raise self._unknown("sign, which is 0 at 0; compare instead (x >= 0)")

    def _conv2d(
        self,
        value: Value,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Value:
        if not isinstance(weight, Tensor) or isinstance(bias, Value):
            raise self._unknown("conv2d with weights that are computed from the image")
        strides, dilations = _pair(stride), _pair(dilation)
        kernel = weight.shape[2:]
        if padding == "same":
            raise self._unknown("conv2d with padding 'same'")
        pads = (0, 0) if padding == "valid" else _pair(padding)
        sizes = [
            (value.shape[2 + d] + 2 * pads[d] - dilations[d] * (kernel[d] - 1) - 1) // strides[d] + 1
            for d in (0, 1)
        ]
        tensors = {"weight": weight.detach().numpy().astype(np.float32)}
        if bias is not None:
            tensors["bias"] = bias.detach().numpy().astype(np.float32)
        return self._emit(
            "convolution",
            [self._name(value)],
            (1, weight.shape[0], *sizes),
            tensors=tensors,
            stride=list(strides),
            padding=list(pads),
            dilation=list(dilations),
            groups=groups,
        )

    def _linear(self, value: Value, weight: Tensor, bias: Tensor | None = None) -> Value:
        if not isinstance(weight, Tensor) or len(value.shape) != 2:
            raise self._unknown("linear on something else than (N, features)")
        tensors = {"weight": weight.detach().numpy().astype(np.float32)}
        if bias is not None:
            tensors["bias"] = bias.detach().numpy().astype(np.float32)
        return self._emit("linear", [self._name(value)], (1, weight.shape[0]), tensors=tensors)

    def _max_pool2d(
        self,
        value: Value,
        kernel: Any,
        stride: Any = (),
        padding: Any = 0,
        dilation: Any = 1,
        ceil: bool = False,
    ) -> Value:
        return self._pool("max", value, kernel, stride, padding, dilation, ceil)

    def _avg_pool2d(
        self,
        value: Value,
        kernel: Any,
        stride: Any = (),
        padding: Any = 0,
        ceil: bool = False,
        include: bool = True,
        divisor: int | None = None,
    ) -> Value:
        return self._pool("mean", value, kernel, stride, padding, 1, ceil, include, divisor)

    def _pool(
        self,
        function: str,
        value: Value,
        kernel: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        ceil: bool,
        include: bool = True,
        divisor: int | None = None,
    ) -> Value:
        kernels, pads, dilations = _pair(kernel), _pair(padding), _pair(dilation)
        strides = _pair(stride) if stride not in ((), [], None) else kernels
        sizes = []
        for d in (0, 1):
            length = value.shape[2 + d]
            reach = dilations[d] * (kernels[d] - 1) + 1
            free = length + 2 * pads[d] - reach
            size = (-(-free // strides[d]) if ceil else free // strides[d]) + 1
            if ceil and (size - 1) * strides[d] >= length + pads[d]:
                size -= 1
            sizes.append(size)
        return self._emit(
            "pool",
            [self._name(value)],
            (1, value.shape[1], *sizes),
            function=function,
            kernel=list(kernels),
            stride=list(strides),
            padding=list(pads),
            dilation=list(dilations),
            counts_padding=include,
            divisor=divisor,
        )

    def _adaptive_pool(self, function: str, name: str, value: Value, size: Any) -> Value:
        wanted = _pair(size)
        lengths = value.shape[2:]
        if any(length % want for length, want in zip(lengths, wanted, strict=True)):
            raise self._unknown(f"{name} from {tuple(lengths)} to {wanted}")
        kernel = [length // want for length, want in zip(lengths, wanted, strict=True)]
        return self._pool(function, value, kernel, kernel, 0, 1, False)

    def _adaptive_avg_pool2d(self, value: Value, size: Any) -> Value:
        return self._adaptive_pool("mean", "adaptive_avg_pool2d", value, size)

    def _split_scales(self, value: Value, function: str, samples: int) -> Value:
        wide = 2 if function == "two_bases" else 1
        return self._emit("split_scales", [self._name(value)], (1, wide), function=function, samples=samples)

    def _adaptive_max_pool2d(self, value: Value, size: Any) -> tuple[Value, None]:
        return self._adaptive_pool("max", "adaptive_max_pool2d", value, size), None

    def _amax(self, value: Value, dims: Any = (), keep: bool = False) -> Value:
        if sorted(d % len(value.shape) for d in dims) != [2, 3]:
            raise self._unknown(f"amax over dimensions {list(dims)}")
        found = self._pool("max", value, value.shape[2:], value.shape[2:], 0, 1, False)
        return found if keep else self._flat(found, (0, 1))

    def _sum(self, value: Value, dims: Any = None, keep: bool = False, **words: Any) -> Value:
        axes = [d % len(value.shape) for d in dims or range(1, len(value.shape))]
        count = math.prod(value.shape[axis] for axis in axes)
        return self._binary("mul", self._mean(value, axes, keep, **words), float(count))

    def _flat(self, value: Value, kept: Sequence[int]) -> Value:
        rest = tuple(value.shape[axis] for axis in kept)
        return Value(value.name, rest, torch.arange(math.prod(rest)).reshape(rest))

    def _mean(self, value: Value, dims: Any = None, keep: bool = False, **_: Any) -> Value:
        axes = sorted(d % len(value.shape) for d in dims)
        shape = [1 if d in axes else n for d, n in enumerate(value.shape)]
        if axes == [2, 3]:
            found = self._pool("mean", value, value.shape[2:], value.shape[2:], 0, 1, False)
        elif axes == [1] and len(shape) == 4:
            found = self._emit("channel_mean", [self._name(value)], shape)
        elif axes == [1, 2, 3]:
            pixels = self._pool("mean", value, value.shape[2:], value.shape[2:], 0, 1, False)
            found = self._emit("channel_mean", [pixels.name], shape)
        else:
            raise self._unknown(f"mean over dimensions {axes}")
        if keep:
            return found
        return self._flat(found, [d for d in range(len(value.shape)) if d not in axes])

    def _cat(self, values: list[Any], dim: int = 0) -> Value:
        first = next(value for value in values if isinstance(value, Value))
        if dim % len(first.shape) != 1:
            raise self._unknown(f"cat along dimension {dim}")
        values = [value for value in values if value.shape[1]]
        shape = [1, sum(value.shape[1] for value in values), *first.shape[2:]]
        names = [self._name(value) for value in values]
        kinds = {self.kinds[name] for name in names}
        return self._emit("concat", names, shape, kinds.pop() if len(kinds) == 1 else "real")

    def _where(self, condition: Any, one: Any, two: Any) -> Value:
        """c·one + (1 − c)·two, exactly, where the condition c is 0 or 1 and both are finite."""
        shape = [1]
        for value in (condition, one, two):
            shape = list(_broadcast(shape, getattr(value, "shape", ())))
        names = [
            self._name(value if isinstance(value, Value) else _four(torch.as_tensor(value).float(), shape))
            for value in (condition, one, two)
        ]
        return self._emit("where", names, shape)

    def _new_zeros(self, value: Value, shape: Sequence[int], **_: Any) -> Tensor:
        return torch.zeros(list(shape))

    def _new_full(self, value: Value, shape: Sequence[int], fill: float, **_: Any) -> Tensor:
        return torch.full(list(shape), float(fill))

    def _new_ones(self, value: Value, shape: Sequence[int], **_: Any) -> Tensor:
        return torch.ones(list(shape))

    def _new_empty(self, value: Value, shape: Sequence[int], **_: Any) -> Tensor:
        return torch.zeros(list(shape))

    def _zeros_like(self, value: Value, **_: Any) -> Tensor:
        return torch.zeros(value.shape)

    def _ones_like(self, value: Value, **_: Any) -> Tensor:
        return torch.ones(value.shape)

    def _empty_like(self, value: Value, **_: Any) -> Tensor:
        return torch.zeros(value.shape)

    # ---- what is binary

    def _step(self, value: Value, number: int, base: int) -> Value:
        layer = self.layers[number]
        steps = layer.steps[base]
        folded = self._of_sums(number, base)
        if folded is not None:
            name, steps = folded
            return self._emit_steps("threshold", name, value.shape, steps)
        return self._emit_steps("step", self._name(value), value.shape, steps)

    def _emit_steps(self, op: str, name: str, shape: Sequence[int], steps: Steps) -> Value:
        tensors = {"thresholds": steps.thresholds, "falls": steps.falls.astype(np.uint8)}
        found = self._emit(op, [name], shape, "codes", tensors, levels=list(steps.levels))
        self._levels_of[found.name] = sorted(set(steps.levels))
        return found

    def _of_sums(self, number: int, base: int) -> tuple[str, Steps] | None:
        """The convolution that a step decides about, and its thresholds there, if constants lie between."""
        node = next(n for n in self.program.graph.nodes if _is(n, "step") and n.args[1:] == (number, base))
        chain: list[fx.Node] = []
        at = node.args[0]
        while isinstance(at, fx.Node) and not _is(at, "convolve"):
            values = [a for a in at.args if isinstance(a, fx.Node) and isinstance(self.found[a], Value)]
            if (
                at.op != "call_function"
                or _operator(at) not in CHAIN | NOTHING
                or len(values) != 1
                or at.kwargs
            ):
                return None
            chain.insert(0, at)
            at = values[0]
        if not isinstance(at, fx.Node):
            return None
        sums = self.found[at]
        if not isinstance(sums, Value) or sums.index is not None:
            return None
        layer = self.layers[int(at.args[1])]  # type: ignore[arg-type]
        largest = int(self._largest(layer, int(at.args[2])))  # type: ignore[arg-type]
        channels = sums.shape[1]
        if (2 * largest + 1) * channels > MOST_SUMS or len(sums.shape) != 4:
            return None
        reachable = np.arange(-largest, largest + 1)
        given = torch.from_numpy(reachable.astype(np.float32))[None, None, None].expand(1, channels, 1, -1)
        own = self.layers[number]
        with torch.no_grad():
            values_of: dict[fx.Node, Tensor] = {at: given}
            for step in chain:
                try:
                    values_of[step] = self._evaluated(step, values_of)
                except RuntimeError:  # a constant for each pixel
                    return None
                if values_of[step].shape != given.shape:
                    return None
            last = values_of[chain[-1]] if chain else given
            codes = own.conv.activation_binarizer(last)[base][0][0, :, 0].numpy().T
        try:
            return sums.name, steps_of_sums(
                codes, reachable, tuple(sorted(own.conv.activation_binarizer.levels))
            )
        except NotAStep:
            return None

    def _evaluated(self, node: fx.Node, values: Mapping[fx.Node, Tensor]) -> Tensor:
        def given(argument: Any) -> Any:
            return values[argument] if argument in values else self._given(argument)

        found: Tensor = node.target(*[given(a) if isinstance(a, fx.Node) else a for a in node.args])  # type: ignore[operator]
        return found

    def _largest(self, layer: CapturedLayer, base: int) -> float:
        binarizer = layer.conv.activation_binarizer
        top = max(map(abs, (*binarizer.levels, layer.conv.pad_value)))
        return float(layer.kernels[base].abs().flatten(1).sum(1).max()) * top

    def _convolve(self, value: Any, number: int, base: int, size: Sequence[int]) -> Value:
        layer = self.layers[number]
        conv = layer.conv
        name = self._name(value)
        levels = self._levels_of[name] if layer.steps else sorted(conv.activation_binarizer.levels)
        if self.kinds[name] == "real":  # codes that were computed with the input's statistics
            between = np.array([(a + b) / 2 for a, b in itertools.pairwise(levels)], np.float32)
            steps = Steps(
                tuple(levels), between[None].repeat(conv.in_channels, 0), np.zeros(conv.in_channels, bool)
            )
            name = self._emit_steps("step", name, value.shape, steps).name
        return self._emit(
            "binary_convolution",
            [name],
            (1, *size),
            "sums",
            {"weight": layer.kernels[base].detach().numpy().astype(np.int16)},
            levels=levels,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            groups=conv.groups,
            pad_value=int(conv.pad_value),
            layer=layer.name,
        )


# ---- shapes


def _broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(n) for n in np.broadcast_shapes(*map(tuple, shapes)))


def _own_shape(shape: Sequence[int]) -> Shape | None:
    """Ours of torch's: (1, C, H, W) is (H, W, C), (1, F) is (F,)."""
    if len(shape) == 4 and shape[0] == 1:
        return (shape[2], shape[3], shape[1])
    if len(shape) == 2 and shape[0] == 1:
        return (shape[1],)
    return None


def _axes(index: Array, before: Shape) -> tuple[list[int], ...] | None:
    """A move that chooses rows, columns and channels each for itself, −1: none; None: another move."""
    inside = index >= 0
    chosen = []
    parts = np.unravel_index(np.maximum(index, 0), before)
    for axis, place in enumerate(parts):
        others = tuple(other for other in range(3) if other != axis)
        chosen.append(np.where(inside, place, -1).max(others))
    rows, columns, channels = chosen
    whole = np.ravel_multi_index(
        (
            np.maximum(rows, 0)[:, None, None],
            np.maximum(columns, 0)[None, :, None],
            np.maximum(channels, 0)[None, None],
        ),
        before,
    )
    valid = (rows >= 0)[:, None, None] & (columns >= 0)[None, :, None] & (channels >= 0)[None, None]
    if not np.array_equal(np.where(valid, whole, -1), index):
        return None
    return tuple([int(one) for one in axis] for axis in chosen)


def _own(value: Tensor) -> Array:
    """A constant (1, C, H, W) or (1, F) in our order."""
    array = value.detach().float().numpy()[0]
    return np.ascontiguousarray(array.transpose(1, 2, 0) if array.ndim == 3 else array)


def _four(value: Tensor, shape: Sequence[int]) -> Tensor:
    return value.float().expand(tuple(shape)).contiguous()


def _channels(shape: Sequence[int]) -> int:
    return shape[1]


def _per_channel(number: Tensor, shape: Sequence[int]) -> Tensor | None:
    """A constant as one number, or one for each channel; None where it is neither."""
    if number.numel() == 1:
        return number.reshape(1)
    padded = (1,) * (len(shape) - number.dim()) + tuple(number.shape)
    return number.reshape(-1) if all(n == 1 for d, n in enumerate(padded) if d != 1) else None


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    found = [int(one) for one in value]
    return (found[0], found[0]) if len(found) == 1 else (found[0], found[1])


def _finite(value: Any) -> float | None:
    return None if math.isinf(value) else float(value)


def _flat(values: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        found += _flat(value) if isinstance(value, list | tuple) else [value]
    return found


def _operator(node: fx.Node) -> str:
    """The name of torch's operator, without its overload and its underscore for in-place."""
    overload: Any = node.target
    name: str = getattr(overload, "_schema", overload).name if hasattr(overload, "_schema") else str(overload)
    return name.split("::")[-1].rstrip("_")


def _in_place(node: fx.Node) -> bool:
    schema: Any = getattr(node.target, "_schema", None)
    return schema is not None and schema.name.endswith("_")


def _is(node: fx.Node, name: str) -> bool:
    return node.op == "call_function" and node.target is not operator.getitem and _operator(node) == name


def _source(node: fx.Node) -> str:
    """The path of the module that an operator stands in."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if isinstance(path, str)]
    return paths[-1].removeprefix("L['self'].") if paths else ""
