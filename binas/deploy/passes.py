"""Changes of a graph that leave what it computes, or all but its last bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from binas.deploy.graph import Graph, Node


def merged_lines(graph: Graph) -> Graph:
    """A line of a line is one line: the scale of a convolution and the batch-norm behind it, say."""
    readers, nodes = graph.readers(), graph.by_name()
    changed: dict[str, Node] = {}
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        node = node.changed(inputs=tuple(renamed.get(name, name) for name in node.inputs))
        if node.op == "line":
            before = changed.get(node.inputs[0], nodes.get(node.inputs[0]))
            if before is not None and before.op == "line" and len(readers[before.name]) == 1:
                factor, offset = (before.tensors[key].astype(np.float64) for key in ("factor", "offset"))
                own = node.tensors["factor"].astype(np.float64)
                tensors = {
                    "factor": (own * factor).astype(np.float32),
                    "offset": (own * offset + node.tensors["offset"]).astype(np.float32),
                }
                node = node.changed(inputs=before.inputs, tensors=tensors)
        changed[node.name] = node
    return graph.with_nodes(changed.values()).alive()


def without_empty(graph: Graph) -> Graph:
    """Without lines that change nothing."""
    renamed: dict[str, str] = {}
    kept = []
    kinds = {node.name: node.kind for node in graph.nodes}
    for node in graph.nodes:
        node = node.changed(inputs=tuple(renamed.get(name, name) for name in node.inputs))
        if node.op == "line" and kinds.get(node.inputs[0], "real") == "real" and _is_empty(node):
            renamed[node.name] = node.inputs[0]
        else:
            kept.append(node)
    output = renamed.get(graph.output, graph.output)
    return Graph(graph.input_shape, tuple(kept), output).alive()


def _is_empty(line: Node) -> bool:
    return bool((line.tensors["factor"] == 1).all() and (line.tensors["offset"] == 0).all())


def with_summed_zeros_left_out(graph: Graph) -> Graph:
    """Without additions of constants that are zero, which dead nodes of a cell leave behind."""
    zeros = {n.name for n in graph.nodes if n.op == "constant" and not n.tensors["value"].any()}
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.nodes:
        node = node.changed(inputs=tuple(renamed.get(name, name) for name in node.inputs))
        if node.op == "binary" and node.attributes["function"] == "add":
            for place in (0, 1):
                other = node.inputs[1 - place]
                if node.inputs[place] in zeros and graph.shape_of(other) == node.shape:
                    renamed[node.name] = other
        if node.name not in renamed:
            kept.append(node)
    return Graph(graph.input_shape, tuple(kept), renamed.get(graph.output, graph.output)).alive()


PASSES: tuple[Callable[[Graph], Graph], ...] = (
    merged_lines,
    without_empty,
    with_summed_zeros_left_out,
)


def optimized(graph: Graph) -> Graph:
    """After all passes."""
    for one in PASSES:
        graph = one(graph)
    return graph
