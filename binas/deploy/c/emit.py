"""A graph as one C99 program: kernels, constants, a function for each group, one arena."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from binas.deploy.c.groups import Block, Group, grouped, placed
from binas.deploy.graph import INPUT, Array, Graph, Node
from binas.deploy.planes import WORD, Levels, levels_of, packed
from binas.errors import UserError

LANES, FLOAT_LANES = 16, 32
"""Output channels in a block of weights; the same numbers stand in kernels.h."""
WORTH_THREADS = 200_000
"""Instructions from which sharing a step between threads pays for their meeting."""
SMALL_GROUP = 64
"""Bits of a small group: taps × channels that one word holds."""


@dataclass(frozen=True)
class Place:
    """Where a value lies in the arena.

    Args:
        block: name of its block.
        offset: floats before its first number there.
        stride: floats from pixel to pixel.
    """

    block: str
    offset: int
    stride: int


@dataclass(frozen=True)
class BitPlace:
    """Where codes lie: planes of words, with a margin of pixels around them.

    Args:
        margin: pixels on every side.
        words: of a pixel.
        levels: what the planes stand for.
        fill: the value in the margin.
    """

    margin: int
    words: int
    levels: Levels
    fill: int


@dataclass(frozen=True)
class Program:
    """What was written.

    Args:
        source: the `.c`.
        header: the `.h`.
        arena_bytes: of all values.
        constant_bytes: of all weights and thresholds as they lie in memory.
        groups: name and source of each function, in order, with its kind of work.
    """

    source: str
    header: str
    arena_bytes: int
    constant_bytes: int
    groups: tuple[tuple[str, str, str], ...]


def emit(graph: Graph, name: str = "model") -> Program:
    """The program of a graph, whose passes have run.

    Args:
        name: prefix of its public functions.
    Raises:
        UserError: a node is none that this back end knows.
    """
    return _Emitter(graph, name).program()


class _Emitter:
    def __init__(self, graph: Graph, name: str) -> None:
        self.graph, self.name = graph, name
        self.nodes = graph.by_name()
        self.readers = graph.readers()
        self.groups = grouped(graph)
        self.group_of = {node.name: group.number for group in self.groups for node in group.nodes}
        self.group_of[INPUT] = -1
        self.constants: list[str] = []
        self.constant_bytes = 0
        self.known: dict[bytes, str] = {}
        self.scratch = 0
        self.blocks: dict[str, Block] = {}
        self.alias: dict[str, Place] = {}
        self.bits: dict[str, BitPlace] = {}
        self.body: list[str] = []
        self.calls: list[tuple[str, int, bool]] = []
        self.told: list[tuple[str, str, str]] = []
        self.sums: list[tuple[Node, int]] = []

    # ---- whole

    def program(self) -> Program:
        self._place()
        for group in self.groups:
            self._group(group)
        arena = placed(list(self.blocks.values()))
        height, width, channels = self.graph.input_shape
        outputs = math.prod(self.nodes[self.graph.output].shape)
        kernels = files("binas.deploy.c").joinpath("kernels.h").read_text(encoding="utf-8")
        frame = files("binas.deploy.c").joinpath("frame.c").read_text(encoding="utf-8")
        calls = "\n".join(
            f"    RUN(g{f}, {rows}, {'RUN_ALL' if is_large else 'RUN_ONE'});"
            for f, rows, is_large in self.calls
        )
        is_shared = any(is_large for _, _, is_large in self.calls)
        words = {
            "NAME": self.name,
            "UPPER": self.name.upper(),
            "ARENA": str(arena),
            "SCRATCH": str(max(self.scratch, 64)),
            "INPUTS": str(height * width * channels),
            "HEIGHT": str(height),
            "WIDTH": str(width),
            "CHANNELS": str(channels),
            "OUTPUTS": str(outputs),
            "KERNELS": kernels,
            "BLOCKS": "\n".join(
                f"#define B_{b.name} (arena.bytes + {b.offset})" for b in self.blocks.values()
            ),
            "CONSTANTS": "\n".join(self.constants),
            "GROUPS": "\n".join(self.body),
            "BEGIN": "    BEGIN_THREADS\n" if is_shared else "",
            "END": "    END_THREADS\n" if is_shared else "",
            "CALLS": calls,
            "RESULT": self._float(self.graph.output, 0),
            "SUMS": "\n".join(f"static int32_t S_{n.name}[{n.size}];" for n, _ in self.sums),
            "SUM_TABLE": "".join(f"    case {i}: return S_{n.name};\n" for i, (n, _) in enumerate(self.sums)),
            "NUM_GROUPS": str(len(self.calls)),
        }
        source = _filled(frame, words)
        header = _filled(files("binas.deploy.c").joinpath("frame.h").read_text(encoding="utf-8"), words)
        return Program(source, header, arena, self.constant_bytes, tuple(self.told))

    # ---- where values lie

    def _is_stored(self, node: Node) -> bool:
        own = self.group_of[node.name]
        return node.name == self.graph.output or any(
            self.group_of[r.name] != own for r in self.readers[node.name]
        )

    def _place(self) -> None:
        """A block for each value that another group reads; parts of a concatenation lie in its own."""
        inside: dict[str, tuple[str, int]] = {}
        for node in self.graph.nodes:
            if node.op == "concat":
                at = 0
                for part in node.inputs:
                    size = self.graph.shape_of(part)[-1]
                    producer = self.nodes.get(part)
                    if (
                        producer is not None
                        and producer.op not in ("constant", "view")
                        and producer.kind != "codes"
                        and part not in inside
                        and node.inputs.count(part) == 1
                    ):
                        inside[part] = (node.name, at)
                    at += size
        self.alias[INPUT] = Place(INPUT, 0, self.graph.input_shape[2])
        self._block(INPUT, math.prod(self.graph.input_shape) * 4, -1)
        self.inside = inside
        for node in reversed(self.graph.nodes):
            if node.kind == "codes" or not (self._is_stored(node) or node.op == "concat"):
                continue
            if node.op in ("view", "constant"):
                continue
            if node.name in inside:
                holder, at = inside[node.name]
                outer = self.alias[holder]
                self.alias[node.name] = Place(outer.block, outer.offset + at, outer.stride)
            else:
                self.alias[node.name] = Place(node.name, 0, node.shape[-1])
                self._block(node.name, node.size * 4, self.group_of[node.name])
        for node in self.graph.nodes:
            if node.op == "view":
                source = self.alias[node.inputs[0]]
                before = self.graph.shape_of(node.inputs[0])
                if source.stride != before[-1] and math.prod(before[:-1]) > 1:
                    raise UserError(f"export: c: a view of a part of '{node.inputs[0]}' is not known")
                self.alias[node.name] = Place(source.block, source.offset, node.shape[-1])
        self._live()
        for node in self.graph.nodes:
            if node.kind == "codes":
                self._place_codes(node)

    def _block(self, name: str, size: int, born: int) -> None:
        self.blocks[name] = Block(name, size, born, born)

    def _live(self) -> None:
        for node in self.graph.nodes:
            place = self.alias.get(node.name)
            if place is not None and place.block in self.blocks:
                block = self.blocks[place.block]
                block.born = min(block.born, self.group_of[node.name])
                block.dies = max([block.dies, *(self.group_of[r.name] for r in self.readers[node.name])])
        for reader in self.readers[INPUT]:
            self.blocks[INPUT].dies = max(self.blocks[INPUT].dies, self.group_of[reader.name])
        last = len(self.groups)
        self.blocks[self.alias[self.graph.output].block].dies = last

    def _place_codes(self, node: Node) -> None:
        """Codes are stored with the margin of the convolutions that read them."""
        levels = levels_of(node.attributes["levels"])
        pads = []
        for reader in self.readers[node.name]:
            if reader.op != "binary_convolution":
                raise UserError(
                    f"export: c: '{reader.source}' reads codes by {reader.op}, which is not known"
                )
            pads.append((reader.attributes["padding"], self._fill(levels, reader)))
        margin = max((pad for pad, _ in pads), default=0)
        fills = {fill for pad, fill in pads if pad}
        fill = fills.pop() if fills else levels.top
        height, width, channels = node.shape
        words = -(-channels // WORD)
        self.bits[node.name] = BitPlace(margin, words, levels, fill)
        size = levels.planes * (height + 2 * margin) * (width + 2 * margin) * words * 8
        self._block(node.name, size, self.group_of[node.name])
        block = self.blocks[node.name]
        block.dies = max([block.born, *(self.group_of[r.name] for r in self.readers[node.name])])

    @staticmethod
    def _fill(levels: Levels, conv: Node) -> int:
        """What stands in the margin: padding that is a level, otherwise the top, which is taken off."""
        value = conv.attributes["pad_value"]
        return value if levels.holds(value) else levels.top

    def _float(self, name: str, first: int = 0) -> str:
        """A pointer to the first number of a stored value."""
        if name in self.nodes and self.nodes[name].op == "constant":
            return self._constant(self.nodes[name].tensors["value"].reshape(-1), "float")
        place = self.alias[name]
        offset = place.offset + first
        return f"((float *)B_{place.block})" + (f" + {offset}" if offset else "")

    def _stride(self, name: str) -> int:
        if name in self.nodes and self.nodes[name].op == "constant":
            return self.nodes[name].shape[-1]
        return self.alias[name].stride

    def _constant(self, values: Array, kind: str) -> str:
        """The name of a constant array; equal ones are written once."""
        values = np.ascontiguousarray(values).reshape(-1)
        key = kind.encode() + values.tobytes()
        if key not in self.known:
            name = f"c{len(self.known)}"
            self.known[key] = name
            self.constant_bytes += values.nbytes
            self.constants.append(_array(name, values, kind))
        return self.known[key]

    # ---- a group

    def _group(self, group: Group) -> None:
        if group.root is not None and group.root.op in ("view", "constant"):
            return
        if len(group.shape) == 3:
            height, width, channels = group.shape
        else:
            height, width, channels = 1, 1, group.shape[0]
        lines: list[str] = []
        row = channels
        source = "y"
        if group.root is not None:
            maker: Callable[..., tuple[list[str], int, str]] | None = getattr(self, f"_{group.root.op}", None)
            if maker is None:
                raise UserError(f"export: c: no way to write {group.root.op} of '{group.root.source}'")
            made, row, source = maker(group.root, width, channels)
            lines += made
        lines += self._epilogue(group, width, channels, row, source)
        if not lines:
            return
        number = group.number
        for node in group.followers:
            if node.kind == "codes" and self.bits[node.name].margin:
                self._margin(node)
        about = group.nodes[0]
        text = [
            f"/* {about.source or about.op} */",
            f"APART static void g{number}(int from, int to, int thread)",
            "{",
        ]
        text += ["    unsigned char *spare = scratch.bytes[thread];", "    int oy, p, c;"]
        text += ["    (void)spare; (void)p; (void)c;"]
        text += ["    for (oy = from; oy < to; oy++) {", *[f"        {line}" for line in lines], "    }", "}"]
        self.body.append("\n".join(text))
        self.calls.append((str(number), height, self._work(group) >= WORTH_THREADS))
        kind = "glue"
        if about.op == "binary_convolution":
            kind = "1-bit"
        elif about.op in ("convolution", "linear"):
            kind = "real"
        self.told.append((f"g{number}", about.source, kind))

    @staticmethod
    def _work(group: Group) -> int:
        """About how many instructions a group takes."""
        root = group.root
        found = math.prod(group.shape) * (1 + len(group.followers))
        if root is not None and "weight" in root.tensors:
            terms = root.tensors["weight"][0].size
            found += root.size * (-(-terms // WORD) if root.op == "binary_convolution" else terms)
        return found

    def _row_scratch(self, lines: list[str], kind: str, name: str, count: int, used: list[int]) -> None:
        lines.append(f"{kind} *{name} = ({kind} *)(void *)(spare + {used[0]});")
        used[0] += -(-count * 4 // 64) * 64
        self.scratch = max(self.scratch, used[0])

    def _epilogue(self, group: Group, width: int, channels: int, row: int, source: str) -> list[str]:
        used = [self._used]
        own = {node.name for node in group.nodes}
        lines: list[str] = []
        loads: list[str] = []
        inner: list[str] = []
        after: list[str] = []
        names: dict[str, str] = {}
        pixel = f"(size_t)(oy * {width} + p)" if len(group.shape) == 3 else "(size_t)0"
        if group.root is not None:
            names[group.root.name] = "v0"
            kind = "(float)" if source == "acc" else ""
            inner.append(f"const float v0 = {kind}{source}[p * {row} + c]; (void)v0;")

        def load(name: str) -> str:
            """The C expression of a value of another group at this pixel and channel."""
            if name not in names:
                shape = self.graph.shape_of(name)
                pointer, stride = self._float(name), self._stride(name)
                pointer_name = f"x{len(names)}"
                if len(shape) == 1 or shape[:2] == (1, 1) != group.shape[:2]:
                    at = pointer
                elif shape[:2] == group.shape[:2]:
                    at = f"{pointer} + {pixel} * {stride}"
                else:
                    high = "0" if shape[0] == 1 else "oy"
                    wide = "0" if shape[1] == 1 else "p"
                    at = f"{pointer} + (size_t)({high} * {shape[1]} + {wide}) * {stride}"
                loads.append(f"const float *{pointer_name} = {at};")
                names[name] = f"{pointer_name}[{'c' if shape[-1] > 1 or channels == 1 else '0'}]"
            return names[name]

        def constant(values: Array, count: int) -> str:
            values = np.ascontiguousarray(np.broadcast_to(values.astype(np.float32), (count,)))
            if (values == values[0]).all() and np.isfinite(values[0]):
                return _number(values[0])
            return f"{self._constant(values, 'float')}[c]"

        stores: list[tuple[Node, str]] = []
        if group.root is not None and self._is_stored(group.root) and group.root.op != "concat":
            stores.append((group.root, "v0"))
        packs: list[Node] = []
        for place, node in enumerate(group.followers, 1):
            if node.kind == "codes":
                packs.append(node)
                continue
            values = [names[n] if n in own else load(n) for n in node.inputs]
            variable = f"v{place}"
            inner.append(
                f"const float {variable} = {self._expression(node, values, constant, channels, group)};"
            )
            names[node.name] = variable
            if self._is_stored(node):
                stores.append((node, variable))
        direct: dict[str, tuple[str, int]] = {}
        for node, variable in stores:
            place_of = self.alias[node.name]
            pointer = f"o{len(direct)}"
            loads.append(f"float *{pointer} = {self._float(node.name)} + {pixel} * {place_of.stride};")
            inner.append(f"{pointer}[c] = {variable};")
            direct[node.name] = (pointer, place_of.stride)
        for node in packs:
            (read,) = node.inputs
            if (
                node.op == "threshold"
                and group.root is not None
                and read == group.root.name
                and source == "acc"
            ):
                after += self._pack(node, f"acc + p * {row}", width, "ints")
                continue
            if read in direct:
                pointer = direct[read][0]
            elif read not in own:
                load(read)
                pointer = names[read].split("[")[0]
            else:
                pointer = f"r{len(direct)}"
                if read not in direct:
                    scratch: list[str] = []
                    self._row_scratch(scratch, "float", pointer, channels, used)
                    lines += scratch
                    inner.append(f"{pointer}[c] = {names[read]};")
                    direct[read] = (pointer, channels)
            after += self._pack(node, pointer, width, "floats")
        if direct:
            loop = [f"for (c = 0; c < {channels}; c++) {{", *[f"    {line}" for line in inner], "}"]
        else:
            loop = []
        if not loop and not after:
            return []
        lines += [
            f"for (p = 0; p < {width}; p++) {{",
            *[f"    {line}" for line in [*loads, *loop, *after]],
            "}",
        ]
        return lines

    def _expression(
        self,
        node: Node,
        values: list[str],
        constant: Callable[[Array, int], str],
        channels: int,
        group: Group,
    ) -> str:
        how = node.attributes
        match node.op:
            case "line":
                factor = constant(node.tensors["factor"], channels)
                offset = constant(node.tensors["offset"], channels)
                return f"fmaf({values[0]}, {factor}, {offset})"
            case "prelu":
                slope = constant(node.tensors["slope"], channels)
                return f"{values[0]} > 0.0f ? {values[0]} : {values[0]} * {slope}"
            case "clamp":
                text = values[0]
                if how["low"] is not None:
                    low = _number(how["low"])
                    text = f"({text} > {low} ? {text} : {low})"
                if how["high"] is not None:
                    high = _number(how["high"])
                    text = f"({text} < {high} ? {text} : {high})"
                return text
            case "unary":
                return _UNARY[how["function"]].format(x=values[0])
            case "binary":
                return _BINARY[how["function"]].format(a=values[0], b=values[1])
            case "binary_constant":
                other = node.tensors["other"]
                if other.size in (1, channels) and (other.ndim == 1 or other.shape[:2] == (1, 1)):
                    text = constant(other.reshape(-1), channels)
                else:
                    full = np.ascontiguousarray(np.broadcast_to(other, node.shape))
                    width = node.shape[1] if len(node.shape) == 3 else 1
                    text = f"{self._constant(full, 'float')}[((size_t)(oy * {width} + p)) * {channels} + c]"
                one, two = (text, values[0]) if how["swapped"] else (values[0], text)
                return _BINARY[how["function"]].format(a=one, b=two)
            case "where":
                return f"{values[0]} != 0.0f ? {values[1]} : {values[2]}"
        raise UserError(f"export: c: no way to write {node.op} of '{node.source}'")

    def _pack(self, node: Node, pointer: str, width: int, kind: str) -> list[str]:
        """Lines that store the codes of a pixel."""
        if len(node.shape) == 1:
            raise UserError("export: c: codes of a vector")
        place = self.bits[node.name]
        channels = node.shape[-1]
        levels = tuple(node.attributes["levels"])
        thresholds = np.broadcast_to(node.tensors["thresholds"], (channels, len(levels) - 1))
        falls = np.broadcast_to(node.tensors["falls"].astype(bool), (channels,))
        row = (node.shape[1] + 2 * place.margin) * place.words
        plane = (node.shape[0] + 2 * place.margin) * row
        at = f"((uint64_t *)(void *)B_{node.name}) + (size_t)(oy + {place.margin}) * {row}"
        at += f" + (size_t)(p + {place.margin}) * {place.words}"
        type_ = "int32_t" if kind == "ints" else "float"
        array = thresholds.astype(np.int32 if kind == "ints" else np.float32)
        if len(levels) == 2:
            flips = self._constant(packed(falls.astype(np.uint8)), "uint64_t")
            name = self._constant(array[:, 0], type_)
            return [f"pack_{kind}({pointer}, {name}, {flips}, {channels}, {at});"]
        indices = [(level - place.levels.lowest) // place.levels.step for level in levels]
        table = self._constant(np.asarray(indices, np.uint8), "uint8_t")
        flips = self._constant(falls.astype(np.uint8), "uint8_t")
        name = self._constant(array.T, type_)
        return [
            f"pack_levels_{kind}({pointer}, {name}, {flips}, {table}, {len(levels)}, {channels},"
            f" {place.levels.planes}, {at}, {plane});"
        ]

    # ---- roots: lines that make a row, floats from pixel to pixel, and its name

    _used = 0

    def _convolution(self, node: Node, width: int, channels: int) -> tuple[list[str], int, str]:
        weight, how = node.tensors["weight"], node.attributes
        outputs, inputs, rows, columns = weight.shape
        (high, wide, depth), groups = self.graph.shape_of(node.inputs[0]), how["groups"]
        (top, left), (down, right) = how["padding"], how["stride"]
        bias = node.tensors.get("bias", np.zeros(outputs, np.float32))
        stride = self._stride(node.inputs[0])
        x = self._float(node.inputs[0])
        lines: list[str] = []
        if top or left:
            name = f"{node.name}_padded"
            size = (high + 2 * top) * (wide + 2 * left) * depth * 4
            self._block(name, size, self.group_of[node.name])
            self._pads(
                node,
                f"pad_floats({x}, {high}, {wide}, {depth}, {stride}, {top}, {left}, (float *)B_{name},"
                " from, to);",
                high + 2 * top,
            )
            x, stride = f"((float *)B_{name})", depth
            wide += 2 * left
        offsets = [
            (r * how["dilation"][0] * wide + c * how["dilation"][1]) * stride
            for r, c in itertools.product(range(rows), range(columns))
        ]
        table = self._constant(np.asarray(offsets, np.int32), "int")
        start = f"{x} + (size_t)oy * {down * wide * stride}"
        if groups > 1:
            row = outputs
            self._float_row(lines, row * width)
            order = np.ascontiguousarray(weight.reshape(outputs, inputs, -1).transpose(2, 1, 0))
            lines.append(
                f"grouped_floats_row({start}, {self._constant(order, 'float')},"
                f" {self._constant(bias, 'float')}, {table}, {rows * columns},"
                f" {inputs}, {groups}, {outputs}, {right * stride}, {width}, y);"
            )
            return lines, row, "y"
        blocks = -(-outputs // FLOAT_LANES)
        row = blocks * FLOAT_LANES
        self._float_row(lines, row * width)
        padded = np.zeros((row, inputs, rows * columns), np.float32)
        padded[:outputs] = weight.reshape(outputs, inputs, -1)
        order = padded.reshape(blocks, FLOAT_LANES, inputs, -1).transpose(0, 3, 2, 1)
        full = np.zeros(row, np.float32)
        full[:outputs] = bias
        lines.append(f"const FloatReach r = {{{rows * columns}, {inputs}, {table}, {right * stride}}};")
        lines.append(
            f"floats_row({start}, {self._constant(order, 'float')}, {self._constant(full, 'float')},"
            f" &r, {width}, {blocks}, y, {row});"
        )
        return lines, row, "y"

    def _float_row(self, lines: list[str], count: int) -> None:
        used = [0]
        self._row_scratch(lines, "float", "y", count, used)
        self._used = used[0]

    def _pads(self, node: Node, call: str, rows: int, name: str = "before") -> None:
        """A function of its own that runs before the group."""
        number = f"{self.group_of[node.name]}_{name}"
        self.body.append(
            f"APART static void g{number}(int from, int to, int thread)\n{{\n    (void)thread;\n"
            f"    {call}\n}}"
        )
        self.calls.append((number, rows, False))
        self.told.append((f"g{number}", node.source, "glue"))

    def _margin(self, node: Node) -> None:
        place = self.bits[node.name]
        high, wide, channels = node.shape
        pattern = self._constant(self._fill_words(place.levels, place.fill, 1, channels), "uint64_t")
        self._pads(
            node,
            f"(void)from; (void)to; fill_margin((uint64_t *)(void *)B_{node.name}, {high}, {wide},"
            f" {place.margin}, {place.words}, {place.levels.planes}, {pattern});",
            1,
            f"margin_{node.name}",
        )

    def _linear(self, node: Node, width: int, channels: int) -> tuple[list[str], int, str]:
        weight = node.tensors["weight"]
        square = node.changed(
            tensors={**node.tensors, "weight": weight[:, :, None, None]},
            attributes={"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1},
        )
        lines: list[str] = []
        outputs, inputs = weight.shape
        blocks = -(-outputs // FLOAT_LANES)
        row = blocks * FLOAT_LANES
        self._float_row(lines, row)
        padded = np.zeros((row, inputs), np.float32)
        padded[:outputs] = weight
        order = padded.reshape(blocks, FLOAT_LANES, inputs).transpose(0, 2, 1)
        full = np.zeros(row, np.float32)
        full[:outputs] = square.tensors.get("bias", np.zeros(outputs, np.float32))
        zero = self._constant(np.zeros(1, np.int32), "int")
        lines.append(f"const FloatReach r = {{1, {inputs}, {zero}, 0}};")
        lines.append(
            f"floats_row({self._float(node.inputs[0])}, {self._constant(order, 'float')},"
            f" {self._constant(full, 'float')}, &r, 1, {blocks}, y, {row});"
        )
        return lines, row, "y"

    def _binary_convolution(self, node: Node, width: int, channels: int) -> tuple[list[str], int, str]:
        weight, how = node.tensors["weight"].astype(np.int64), node.attributes
        outputs, inputs, side, _ = weight.shape
        place, groups = self.bits[node.inputs[0]], how["groups"]
        high, wide, _ = self.graph.shape_of(node.inputs[0])
        pad, stride, dilation, taps = how["padding"], how["stride"], how["dilation"], side * side
        ours, theirs = place.levels, levels_of([int(v) for v in np.unique(weight)])
        fill = self._fill(ours, node)
        each = outputs // groups
        lines: list[str] = []
        used = [0]
        small = groups > 1 and taps * inputs <= SMALL_GROUP
        lanes = -(-each // LANES) * LANES
        row = outputs if small or (groups == 1 and outputs % LANES == 0) else groups * lanes
        acc_row = row
        self._row_scratch(lines, "int32_t", "acc", acc_row * width, used)
        # the input: as it lies, or copied into groups of words of their own, or with another padding
        words = -(-inputs // WORD)
        fits = (place.fill == fill or pad == 0) and (groups == 1 or small or inputs % WORD == 0)
        if fits:
            block, margin, pixel = node.inputs[0], place.margin, place.words
        else:
            block, margin, pixel = f"{node.name}_padded", pad, groups * words
            size = ours.planes * (high + 2 * pad) * (wide + 2 * pad) * pixel * 8
            self._block(block, size, self.group_of[node.name])
            pattern = self._constant(self._fill_words(ours, fill, groups, inputs), "uint64_t")
            source = (high + 2 * place.margin) * (wide + 2 * place.margin) * place.words
            self._pads(
                node,
                f"regroup((uint64_t *)(void *)B_{node.inputs[0]}, {high}, {wide}, {place.margin},"
                f" {place.words}, {ours.planes}, {source}, {groups}, {inputs}, {pad}, {pattern},"
                f" (uint64_t *)(void *)B_{block}, from, to);",
                high + 2 * pad,
            )
        line = (wide + 2 * margin) * pixel
        plane = (high + 2 * margin) * line
        start = f"((uint64_t *)(void *)B_{block})"
        first = (margin - pad) * (line + pixel)
        offsets = [
            (r * dilation) * line + (c * dilation) * pixel
            for r, c in itertools.product(range(side), range(side))
        ]
        table = self._constant(np.asarray(offsets, np.int32), "int")
        planes: list[tuple[float, Array]] = list(zip(theirs.factors, theirs.bits(weight), strict=True))
        if theirs.constant:
            planes.append((theirs.constant, np.zeros_like(weight)))
        pairs = [(4 * a * b, i, bits) for i, a in enumerate(ours.factors) for b, bits in planes]
        constant = 4 * ours.constant * weight.reshape(outputs, -1).sum(1)
        single = len(pairs) == 1 and pairs[0][0] == 4 and not constant.any()
        if not single:
            self._row_scratch(lines, "int32_t", "total", row * width, used)
            base = self._constant(self._lanes_of(constant, groups, row), "int32_t")
            lines.append(f"fill_row(total, {base}, {row}, {width});")
        bits_of_all = taps * inputs
        for factor, i, bits in pairs:
            own = f"{start} + (size_t)oy * {stride * line} + {first + i * plane}"
            if small:
                flat = packed(bits.transpose(0, 2, 3, 1).reshape(outputs, -1))  # (tap, channel)
                lines.append(
                    f"small_groups_row({own}, {self._constant(flat, 'uint64_t')}, {table}, {taps}, {inputs},"
                    f" {groups}, {each}, {stride * pixel}, {width}, acc);"
                )
            else:
                order = self._lane_words(bits, groups, words)
                name = self._constant(order, "uint64_t")
                lines.append("{")
                lines.append(f"    const Reach r = {{{taps}, {words}, {table}, {stride * pixel}}};")
                block_words = taps * words * lanes
                if groups == 1:
                    blocks = -(-outputs // LANES)
                    lines.append(f"    count_row({own}, {name}, &r, {width}, {blocks}, acc, {acc_row});")
                else:
                    lines.append(f"    for (c = 0; c < {groups}; c++)")
                    lines.append(
                        f"        count_row({own} + c * {words}, {name} + (size_t)c * {block_words}, &r,"
                        f" {width}, {lanes // LANES}, acc + c * {lanes}, {acc_row});"
                    )
                lines.append("}")
            if single:
                lines.append(f"sums_of_counts(acc, {bits_of_all}, {acc_row * width});")
            else:
                lines.append(f"add_counts(total, acc, {int(factor)}, {bits_of_all}, {acc_row * width});")
        name = "acc"
        if not single:
            lines.append(f"quarter(total, {row * width});")
            name = "total"
        if pad and fill != how["pad_value"]:
            sums = weight.reshape(outputs, inputs, taps).sum(1).T * (fill - how["pad_value"])
            tensor = np.stack([self._lanes_of(s, groups, row) for s in sums])
            lines.append(
                f"take_off_edges({name}, {self._constant(tensor, 'int32_t')}, {row}, {width}, {side},"
                f" {stride}, {dilation}, {pad}, {high}, {wide}, oy);"
            )
        if groups > 1 and not small and row != outputs:
            lines.append(f"close_ranks({name}, {groups}, {each}, {lanes}, {row}, {width});")
            row = outputs
        if name != "acc":
            lines.append("acc = total;")
        self.sums.append((node, row))
        lines.append(f"KEEP(S_{node.name}, acc, {row}, {outputs}, {width}, oy)")
        self._used = used[0]
        return lines, row, "acc"

    @staticmethod
    def _fill_words(levels: Levels, fill: int, groups: int, inputs: int) -> Array:
        """The words of a pixel in the margin, for each plane."""
        codes = np.full((groups, inputs), fill)
        return np.stack([packed(bits) for bits in levels.bits(codes)])

    @staticmethod
    def _lanes_of(values: Array, groups: int, row: int) -> Array:
        """Numbers of output channels where their lanes are."""
        each, lanes = len(values) // groups, row // groups
        found = np.zeros((groups, lanes), np.int32)
        found[:, :each] = values.reshape(groups, each)
        return found.reshape(-1)

    @staticmethod
    def _lane_words(bits: Array, groups: int, words: int) -> Array:
        """(O, I, k, k) bits as [group][block][tap][word][lane]."""
        outputs, inputs = bits.shape[:2]
        each = outputs // groups
        blocks = -(-each // LANES)
        taps = bits.shape[2] * bits.shape[3]
        own = packed(bits.reshape(outputs, inputs, taps).transpose(0, 2, 1))  # (O, taps, words)
        padded = np.zeros((groups, blocks * LANES, taps, words), np.uint64)
        padded[:, :each] = own.reshape(groups, each, taps, words)
        return padded.reshape(groups, blocks, LANES, taps, words).transpose(0, 1, 3, 4, 2)

    def _pool(self, node: Node, width: int, channels: int) -> tuple[list[str], int, str]:
        how = node.attributes
        high, wide, _ = self.graph.shape_of(node.inputs[0])
        lines: list[str] = []
        self._float_row(lines, channels * width)
        numbers = [*how["kernel"], *how["stride"], *how["padding"], *how["dilation"]]
        lines.append(
            f"pool_row({self._float(node.inputs[0])}, {self._stride(node.inputs[0])}, {high}, {wide},"
            f" {channels}, {', '.join(map(str, numbers))}, {int(how['function'] == 'mean')},"
            f" {int(how['counts_padding'])}, {how['divisor'] or 0}, oy, {width}, y);"
        )
        return lines, channels, "y"

    def _channel_mean(self, node: Node, width: int, channels: int) -> tuple[list[str], int, str]:
        depth = self.graph.shape_of(node.inputs[0])[-1]
        lines: list[str] = []
        self._float_row(lines, width)
        stride = self._stride(node.inputs[0])
        x = f"{self._float(node.inputs[0])} + (size_t)oy * {width * stride}"
        lines.append(f"channel_mean_row({x}, {stride}, {depth}, {width}, y);")
        return lines, 1, "y"

    def _split_scales(self, node: Node, width: int, channels: int) -> tuple[list[str], int, str]:
        height, wide, depth = self.graph.shape_of(node.inputs[0])
        count, samples = height * wide * depth, node.attributes["samples"]
        step = -(-count // samples)
        name = f"{node.name}_sorted"
        self._block(name, 8 * -(-count // step), self.group_of[node.name])
        lines: list[str] = []
        self._float_row(lines, channels)
        x, stride = self._float(node.inputs[0]), self._stride(node.inputs[0])
        is_ternary = int(node.attributes["function"] == "ternary")
        lines.append(
            f"split_scales({x}, {stride}, {depth}, {height * wide}, {step}, {is_ternary},"
            f" (double *)(void *)B_{name}, y);"
        )
        return lines, channels, "y"

    def _select(self, node: Node, width: int, channels: int) -> tuple[list[str], int, str]:
        lines: list[str] = []
        self._float_row(lines, channels * width)
        stride = self._stride(node.inputs[0])
        wide = self.graph.shape_of(node.inputs[0])[1]
        rows, columns, chosen = (
            self._constant(np.asarray(node.attributes[key], np.int32), "int")
            for key in ("rows", "columns", "channels")
        )
        lines.append(
            f"select_row({self._float(node.inputs[0])}, {stride}, {wide}, {rows}[oy], {columns}, {chosen},"
            f" {_number(node.attributes['fill'])}, {channels}, {width}, y);"
        )
        return lines, channels, "y"

    def _gather(self, node: Node, width: int, channels: int) -> tuple[list[str], int, str]:
        lines: list[str] = []
        self._float_row(lines, channels * width)
        depth = self.graph.shape_of(node.inputs[0])[-1]
        stride = self._stride(node.inputs[0])
        index = node.tensors["index"].astype(np.int64)
        index = np.where(index < 0, -1, index // depth * stride + index % depth)
        name = self._constant(index.astype(np.int32), "int")
        lines.append(
            f"gather_row({self._float(node.inputs[0])}, {name} + (size_t)oy * {width * channels},"
            f" {_number(node.attributes['fill'])}, {width * channels}, y);"
        )
        return lines, channels, "y"

    def _concat(self, node: Node, width: int, channels: int) -> tuple[list[str], int, str]:
        """Parts that lie in it already are not moved."""
        place = self.alias[node.name]
        lines: list[str] = []
        at = 0
        rows = f"(size_t)oy * {width}" if len(node.shape) == 3 else "(size_t)0"
        for part in node.inputs:
            size = self.graph.shape_of(part)[-1]
            if self.inside.get(part) != (node.name, at):
                lines.append(
                    f"copy_channels({self._float(part)} + {rows} * {self._stride(part)},"
                    f" {self._stride(part)}, {size}, {self._float(node.name, at)}"
                    f" + {rows} * {place.stride}, {place.stride}, {width});"
                )
            at += size
        lines.append(f"const float *y = {self._float(node.name)} + {rows} * {place.stride}; (void)y;")
        self._used = 0
        return lines, place.stride, "y"


_UNARY = {
    "relu": "({x} > 0.0f ? {x} : 0.0f)",
    "abs": "fabsf({x})",
    "neg": "-{x}",
    "sqrt": "sqrtf({x})",
    "floor": "floorf({x})",
    "ceil": "ceilf({x})",
    "round": "rintf({x})",
    "exp": "binas_exp({x})",
    "sigmoid": "binas_sigmoid({x})",
    "tanh": "binas_tanh({x})",
    "silu": "{x} * binas_sigmoid({x})",
    "hardsigmoid": "binas_hardsigmoid({x})",
    "hardswish": "{x} * binas_hardsigmoid({x})",
}
_BINARY = {
    "add": "{a} + {b}",
    "sub": "{a} - {b}",
    "mul": "{a} * {b}",
    "div": "{a} / {b}",
    "max": "({a} > {b} ? {a} : {b})",
    "min": "({a} < {b} ? {a} : {b})",
    "ge": "({a} >= {b} ? 1.0f : 0.0f)",
    "gt": "({a} > {b} ? 1.0f : 0.0f)",
    "le": "({a} <= {b} ? 1.0f : 0.0f)",
    "lt": "({a} < {b} ? 1.0f : 0.0f)",
}


def _number(value: Any) -> str:
    value = float(np.float32(value))
    if math.isinf(value):
        return "-INFINITY" if value < 0 else "INFINITY"
    text = value.hex() if value != int(value) or abs(value) > 1e6 else f"{value:.1f}"
    return f"{text}f" if value >= 0 and not text.startswith("-") else f"({text}f)"


def _array(name: str, values: Array, kind: str) -> str:
    if kind == "float":
        words: Iterator[str] = (_number(value) for value in values.tolist())
    elif kind == "uint64_t":
        words = (f"0x{value:x}u" if value < 2**32 else f"0x{value:x}ull" for value in values.tolist())
    else:
        words = map(str, values.tolist())
    lines = []
    text = list(words)
    for start in range(0, len(text), 256):
        lines.append(",".join(text[start : start + 256]))
    return f"static const {kind} {name}[{len(text)}] = {{\n" + ",\n".join(lines) + "};"


def _filled(text: str, words: dict[str, str]) -> str:
    for key, value in words.items():
        text = text.replace(f"@{key}@", value)
    return text
