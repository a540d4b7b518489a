"""`model.binas`: a graph, packed, with its classes and how pictures become its input.

A safetensors file. Its metadata hold one JSON text under `binas`, compressed (zlib, base85); its one tensor
holds the bytes of all constants, node by node, by their names. Signs are one bit each, without padding;
integers of few levels are planes of bits; all else is float32, int16 or int32. Nothing in it is code.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from binas.config import Config
from binas.deploy.graph import INPUT, Array, Graph, Kind, Node
from binas.deploy.operations import OPERATIONS, check_node
from binas.deploy.planes import LARGEST_CODE, MOST_PLANES, levels_of
from binas.errors import UserError
from binas.run.files import write_atomic

MOST_NODES, MOST_NUMBERS, MOST_TEXT, MOST_SAME = 100_000, 2**31, 2**26, 2**22
"""A file that says more is refused before anything is made of it."""


MANY = 2**14
"""Numbers above which those that are all the same are stored nevertheless."""


class PackedTensor(Config):
    """How a constant is stored.

    `bits` has planes of signs one after another; bit 1 is −1. `same` stores nothing: all are the float32
    `value`, as the shifts of a scale are.
    """

    shape: tuple[int, ...] = Field(max_length=4)
    type: Literal["float32", "int16", "int32", "bits", "same"]
    value: float = Field(0.0, allow_inf_nan=False)
    lowest: int = 0
    """Of a packed integer: value = lowest + step·k, k of so many planes."""
    step: int = Field(1, ge=1, le=2 * LARGEST_CODE)
    planes: int = Field(1, ge=1, le=MOST_PLANES)

    @property
    def numbers(self) -> int:
        """How many."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Of the stored tensor."""
        if self.type == "bits":
            return -(-self.numbers * self.planes // 8)
        if self.type == "same":
            return 0
        return self.numbers * np.dtype(self.type).itemsize

    @model_validator(mode="after")
    def _of_some_size(self) -> PackedTensor:
        if any(not 0 < length < MOST_NUMBERS for length in self.shape) or self.numbers > MOST_NUMBERS:
            raise ValueError("its shape is none")
        return self


class NodeText(Config):
    """A node in the file."""

    name: str = Field(min_length=1, max_length=40, pattern=r"^v[0-9]+$")
    op: str
    inputs: tuple[str, ...] = Field(max_length=4096)
    shape: tuple[int, ...] = Field(min_length=1, max_length=3)
    kind: Kind = "real"
    attributes: dict[str, Any] = {}
    tensors: dict[str, PackedTensor] = {}
    source: str = ""


class ModelText(Config):
    """Everything in the file but the numbers."""

    format: Literal["binas-model"] = "binas-model"
    version: Literal[2] = 2
    input_shape: tuple[int, int, int]
    """Height, width and channels of an image."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Of the pixels, scaled to 0..1, for each channel; the input is (pixel − mean) / std."""
    classes: tuple[str, ...] = Field(min_length=1)
    nodes: tuple[NodeText, ...] = Field(max_length=MOST_NODES)
    output: str
    provenance: dict[str, Any] = {}

    @model_validator(mode="after")
    def _fits(self) -> ModelText:
        channels = self.input_shape[2]
        if not len(self.mean) == len(self.std) == channels or not all(
            math.isfinite(v) for v in (*self.mean, *self.std)
        ):
            raise ValueError(f"mean and std: one finite number for each of the {channels} channels is needed")
        packed = [one for node in self.nodes for one in node.tensors.values()]
        if sum(one.numbers for one in packed if one.type == "same") > MOST_SAME:
            raise ValueError("it has more numbers than are stored in it")
        if any(not std > 0 for std in self.std):
            raise ValueError("std: numbers above 0 are needed")
        return self


class Model:
    """A program with its classes and how pictures become its input.

    Args:
        graph: what it computes.
        text: everything else.
    """

    def __init__(self, graph: Graph, text: ModelText) -> None:
        self.graph, self.text = graph, text

    @property
    def hash(self) -> str:
        """A name of what is computed: graph, constants and preparation of pictures."""
        digest = hashlib.sha256()
        digest.update(
            json.dumps([self.text.input_shape, self.text.mean, self.text.std, self.text.output]).encode()
        )
        for node in self.graph.nodes:
            digest.update(
                json.dumps([node.name, node.op, node.inputs, node.shape, dict(node.attributes)]).encode()
            )
            for key in sorted(node.tensors):
                digest.update(key.encode() + np.ascontiguousarray(node.tensors[key]).tobytes())
        return digest.hexdigest()[:16]

    def sizes(self) -> dict[str, int]:
        """Bytes of the constants: of signs and codes, `1-bit`, and of all else, `real`."""
        found = {"1-bit": 0, "real": 0}
        for node in self.text.nodes:
            for packed in node.tensors.values():
                found["1-bit" if packed.type == "bits" else "real"] += packed.num_bytes
        return found


def model_of(
    graph: Graph,
    *,
    classes: tuple[str, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    provenance: Mapping[str, Any] | None = None,
) -> Model:
    """A model of a graph whose passes have run."""
    nodes = tuple(
        NodeText(
            name=node.name,
            op=node.op,
            inputs=node.inputs,
            shape=node.shape,
            kind=node.kind,
            attributes=dict(node.attributes),
            tensors={key: _packing(node, key, value) for key, value in node.tensors.items()},
            source=node.source,
        )
        for node in graph.nodes
    )
    height, width, channels = graph.input_shape
    text = ModelText(
        input_shape=(height, width, channels),
        mean=mean,
        std=std,
        classes=classes,
        nodes=nodes,
        output=graph.output,
        provenance=dict(provenance or {}),
    )
    return Model(graph, text)


def _packing(node: Node, key: str, value: Array) -> PackedTensor:
    shape = tuple(value.shape)
    if node.op == "binary_convolution" and key == "weight":
        levels = levels_of([int(one) for one in np.unique(value)])
        return PackedTensor(
            shape=shape, type="bits", lowest=levels.lowest, step=levels.step, planes=levels.planes
        )
    if key == "falls":
        return PackedTensor(shape=shape, type="bits", lowest=0, step=1, planes=1)
    if value.dtype == np.float32:
        first = value.reshape(-1)[:1]
        if (
            1 < value.size <= MANY
            and first.tobytes() * value.size == value.tobytes()
            and np.isfinite(first[0])
        ):
            return PackedTensor(shape=shape, type="same", value=float(first[0]))
        return PackedTensor(shape=shape, type="float32")
    # int8 would do for some: the size of a file follows from shapes, not from what was learned
    for type_ in ("int16", "int32"):
        ends = np.iinfo(type_)
        if ends.min <= value.min() and value.max() <= ends.max:
            return PackedTensor(shape=shape, type=type_)
    raise AssertionError(value.dtype)


def write_model(model: Model, path: Path) -> int:
    """Writes the file, whole or not at all; gives its bytes."""
    from safetensors.numpy import save

    parts = [
        _pack(node.tensors[key], text.tensors[key]).tobytes()
        for node, text in zip(model.graph.nodes, model.text.nodes, strict=True)
        for key in sorted(text.tensors)
    ]
    constants = np.frombuffer(b"".join(parts), np.uint8)
    content = save({"constants": constants}, metadata={"binas": packed_text(model.text)})
    write_atomic(path, content)
    return len(content)


def packed_text(text: ModelText) -> str:
    """The text as it stands in a file; `version` is said although it is the only one."""
    plain = {"version": text.version, **text.model_dump(mode="json", exclude_defaults=True)}
    words = json.dumps(plain, separators=(",", ":"))
    return base64.b85encode(zlib.compress(words.encode(), 9)).decode()


def unpacked_text(words: str) -> ModelText:
    """The text of a file.

    Raises:
        ValueError: it is none.
    """
    if words.startswith("{"):
        raise ValueError("it is of an earlier version of binas")
    decompressor = zlib.decompressobj()
    try:
        plain = decompressor.decompress(base64.b85decode(words), MOST_TEXT)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError("its text is cut off, or too long")
    return ModelText.model_validate_json(plain)


def _pack(value: Array, packing: PackedTensor) -> Array:
    if packing.type == "same":
        return np.zeros(0, np.uint8)
    if packing.type != "bits":
        return np.ascontiguousarray(value).astype(np.dtype(packing.type).newbyteorder("<"))
    digits = (value.reshape(-1).astype(np.int64) - packing.lowest) // packing.step
    planes = np.stack([1 - (digits >> plane & 1) for plane in range(packing.planes)])
    return np.packbits(planes.astype(np.uint8).reshape(-1), bitorder="little")


def _unpacked(stored: bytes, packing: PackedTensor, key: str) -> Array:
    if packing.type == "same":
        return np.full(packing.shape, packing.value, np.float32)
    if packing.type != "bits":
        values = np.frombuffer(stored, np.dtype(packing.type).newbyteorder("<")).reshape(packing.shape)
        values = values.astype(packing.type)
        if values.dtype == np.float32 and np.isnan(values).any():
            raise ValueError("a constant is not a number")
        wanted = {"thresholds": np.int32, "index": np.int32}.get(key)
        return values if wanted is None or values.dtype == np.float32 else values.astype(wanted)
    bits = np.unpackbits(np.frombuffer(stored, np.uint8), bitorder="little")[
        : packing.numbers * packing.planes
    ]
    planes = 1 - bits.reshape(packing.planes, packing.numbers).astype(np.int64)
    digits = (planes << np.arange(packing.planes)[:, None]).sum(0)
    found: Array = (packing.lowest + packing.step * digits).reshape(packing.shape)
    if np.abs(found).max(initial=0) > LARGEST_CODE:
        raise ValueError("packed integers are larger than any code")
    return found.astype(np.uint8 if key == "falls" else np.int16)


def read_model(path: Path) -> Model:
    """The model in a file.

    Raises:
        UserError: it is missing, truncated, hostile or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    if path.is_dir():
        raise UserError(f"{path}: is a folder; give a .binas file")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if "binas" not in metadata:
                raise UserError(f"{path}: is no model of binas; binas export writes one")
            text = unpacked_text(metadata["binas"])
            if list(file.keys()) != ["constants"]:
                raise ValueError("it holds other tensors than its constants")
            stored = file.get_tensor("constants")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; binas export writes one") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (SafetensorError, ValidationError, ValueError, RecursionError) as error:
        words = str(error).strip().splitlines()[0][:200]
        raise UserError(f"{path}: is damaged or no model of binas ({words}); export it again") from None
    try:
        return Model(_graph(text, stored), text)
    except (ValueError, KeyError, TypeError, OverflowError, IndexError) as error:
        raise UserError(f"{path}: is damaged: {error}; export it again") from None


def _graph(text: ModelText, stored: Array) -> Graph:
    given = sum(packing.num_bytes for entry in text.nodes for packing in entry.tensors.values())
    if stored.dtype != np.uint8 or stored.shape != (given,):
        raise ValueError(f"its constants take {given} bytes by its text, but {stored.nbytes} in the file")
    constants, place = stored.tobytes(), 0
    shapes: dict[str, tuple[int, ...]] = {INPUT: text.input_shape}
    kinds: dict[str, str] = {INPUT: "real"}
    nodes = []
    for entry in text.nodes:
        if entry.op not in OPERATIONS:
            raise ValueError(f"node '{entry.name}': there is no operation '{entry.op[:40]}'")
        if entry.name in shapes:
            raise ValueError(f"there are two nodes '{entry.name}'")
        if unknown := [name for name in entry.inputs if name not in shapes]:
            raise ValueError(f"node '{entry.name}' reads '{unknown[0][:40]}', which does not come before it")
        tensors = {}
        for key in sorted(entry.tensors):
            end = place + entry.tensors[key].num_bytes
            tensors[key] = _unpacked(constants[place:end], entry.tensors[key], key)
            place = end
        node = Node(
            entry.name,
            entry.op,
            entry.inputs,
            entry.shape,
            entry.kind,
            entry.attributes,
            tensors,
            entry.source,
        )
        check_node(node, [shapes[name] for name in entry.inputs], [kinds[name] for name in entry.inputs])
        shapes[entry.name], kinds[entry.name] = entry.shape, entry.kind
        nodes.append(node)
    if text.output not in shapes or math.prod(shapes[text.output]) != len(text.classes):
        raise ValueError("its output is no score for each class")
    return Graph(text.input_shape, tuple(nodes), text.output)
