"""A cell of a genotype as a networkx graph with operations in words, and as boxes and links to place.

In the graph an operation is an edge; in the scene it is a box of its own between two nodes, so that a
layout which keeps boxes apart keeps the words apart too.
"""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, NamedTuple

from binas.arch.genotype import NUM_INPUTS, Edge, Genotype
from binas.ops import OPS, operation_kind

if TYPE_CHECKING:
    import networkx as nx

OUTPUT = "output"
LINE_LENGTH = 17  # of a box's text: "binary separable" stays on one line
MAX_LINES = 6


class Box(NamedTuple):
    """Something with text in it: a node, the output or an operation."""

    name: str
    text: str
    kind: str
    dead: bool
    layer: int


class Link(NamedTuple):
    """A line from one box to another."""

    start: str
    end: str
    kind: str
    dead: bool
    arrow: bool


def operation_label(operation: str) -> str:
    """The name of an operation as a reader says it: `binary_conv_3x3` is "binary conv 3×3"."""
    said = re.sub(r"(?<=\d)x(?=\d)", "×", operation.replace("_", " "))
    return "".join(letter if letter.isprintable() else "?" for letter in said)


def format_edge(edge: Edge) -> str:
    """An edge's operation in words, with the activation and the estimator that were chosen for it alone."""
    chosen = [edge.activation, None if edge.estimator is None else edge.estimator.name]
    return ", ".join(
        [operation_label(edge.op), *(operation_label(name) for name in chosen if name is not None)]
    )


def category(operation: str, strided: bool = False) -> str:
    """What an operation is made of, see `operation_kind`; `unknown` for one whose plug-in is not loaded.

    A picture needs only names, so it is drawn without the plug-in too.
    """
    if operation not in OPS:
        return "unknown"
    return operation_kind(operation, stride=2 if strided else 1)


def cell_graph(genotype: Genotype, kind: str) -> nx.MultiDiGraph:
    """The cell of that kind, `normal` or `reduce`, with its inputs, its output and what is dead."""
    import networkx as nx

    dead = genotype.dead_nodes(kind)
    graph = nx.MultiDiGraph(kind=kind)
    for node in range(NUM_INPUTS + genotype.num_nodes):
        label = f"c_{{k-{NUM_INPUTS - node}}}" if node < NUM_INPUTS else f"node {node}"
        graph.add_node(node, label=label, dead=node in dead)
    graph.add_node(OUTPUT, label=OUTPUT, dead=len(dead) == genotype.num_nodes)
    for edge in genotype.cell(kind):
        graph.add_edge(
            edge.source,
            edge.node,
            operation=edge.op,
            words=format_edge(edge),
            category=category(edge.op, strided=kind == "reduce" and edge.source < NUM_INPUTS),
            dead=edge.source in dead,
        )
    for node in range(NUM_INPUTS, NUM_INPUTS + genotype.num_nodes):
        graph.add_edge(node, OUTPUT, operation="", words="", category="concat", dead=node in dead)
    return graph


def scene(graph: nx.MultiDiGraph) -> tuple[list[Box], list[Link]]:
    """The boxes and links of a cell's picture; an operation stands in the layer above its node."""
    layer: dict[int | str, int] = dict.fromkeys(range(NUM_INPUTS), 0)
    for node in sorted(node for node in graph if node != OUTPUT and node >= NUM_INPUTS):
        layer[node] = 2 + max(layer[source] for source in graph.predecessors(node))
    layer[OUTPUT] = 1 + max(layer.values())
    boxes = [
        Box(
            str(node),
            data["label"],
            "node" if node in range(NUM_INPUTS, len(graph)) else "end",
            data["dead"],
            layer[node],
        )
        for node, data in graph.nodes(data=True)
    ]
    links = []
    for position, (source, node, data) in enumerate(graph.edges(data=True)):
        kind, dead = data["category"], data["dead"]
        if kind == "concat":
            links.append(Link(str(source), str(node), kind, dead, arrow=True))
            continue
        name = f"op{position}"
        boxes.append(Box(name, _wrapped(data["words"]), kind, dead, layer[node] - 1))
        links.append(Link(str(source), name, kind, dead, arrow=False))
        links.append(Link(name, str(node), kind, dead, arrow=True))
    return boxes, links


def _wrapped(text: str) -> str:
    lines = textwrap.wrap(text, LINE_LENGTH, max_lines=MAX_LINES, placeholder=" …")
    return "\n".join(lines) or " "
