"""What a program computes: nodes in the order in which they run, each with its constants.

Values are images (H, W, C) or vectors (F,) of one image. A value is `real` (float32), `codes` (small integers
that a binarizer gave) or `sums` (integers that a binary convolution gave).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
Kind = Literal["real", "codes", "sums"]


@dataclass(frozen=True)
class Node:
    """One step of a program.

    Args:
        name: of its value; no other node has it.
        op: what it does, see `OPERATIONS` in `binas.deploy.operations`.
        inputs: names of the values that it reads.
        shape: of its value.
        kind: of its value.
        attributes: numbers and words that say how, JSON.
        tensors: its constants, by name.
        source: the module that it comes from, for messages and profiles.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    shape: Shape
    kind: Kind = "real"
    attributes: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Array] = field(default_factory=dict)
    source: str = ""

    @property
    def size(self) -> int:
        """Numbers in its value."""
        return math.prod(self.shape)

    def changed(self, **fields: Any) -> Node:
        """The same but for these fields."""
        return replace(self, **fields)


@dataclass(frozen=True)
class Graph:
    """A program: its input, its nodes, and the value that is its output.

    Args:
        input_shape: (H, W, C) of an image.
        nodes: each after those that it reads; the input is read by the name `input`.
        output: name of the value with the class scores.
    """

    input_shape: Shape
    nodes: tuple[Node, ...]
    output: str

    def by_name(self) -> dict[str, Node]:
        """Its nodes."""
        return {node.name: node for node in self.nodes}

    def shape_of(self, name: str) -> Shape:
        """The shape of a value."""
        return self.input_shape if name == INPUT else self.by_name()[name].shape

    def readers(self) -> dict[str, list[Node]]:
        """The nodes that read each value."""
        found: dict[str, list[Node]] = {INPUT: [], **{node.name: [] for node in self.nodes}}
        for node in self.nodes:
            for name in node.inputs:
                found[name].append(node)
        return found

    def alive(self) -> Graph:
        """Without the nodes that the output does not need."""
        needed = {self.output}
        for node in reversed(self.nodes):
            if node.name in needed:
                needed.update(node.inputs)
        return replace(self, nodes=tuple(node for node in self.nodes if node.name in needed))

    def with_nodes(self, nodes: Iterable[Node]) -> Graph:
        """The same with other nodes."""
        return replace(self, nodes=tuple(nodes))


INPUT = "input"
