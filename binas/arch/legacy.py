"""Genotypes written as Python text by older programs, read without running any of it.

`NAME = Genotype(normal=[('op', source), …], normal_concat=range(2, 6), reduce=[…], reduce_concat=…)` is
parsed with `ast` and its parts with `ast.literal_eval`; the k-th pair of a cell belongs to node 2 + k // 2.
The same word means different operations in different programs, so a map of names is always chosen.
"""

from __future__ import annotations

import ast
from typing import Any

from binas.arch.genotype import NUM_INPUTS, Edge, Genotype
from binas.config import build
from binas.errors import UserError
from binas.registry import nearest

FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
EDGES_PER_NODE = 2
MAX_LENGTH = 100_000  # characters; a genotype takes a few hundred

_POOLS = {"max_pool_3x3": "max_pool_3x3", "avg_pool_3x3": "avg_pool_3x3"}
_COMMON = {"none": "zeroise", "skip_connect": "skip", **_POOLS}

NAMES: dict[str, dict[str, str]] = {
    "darts": {
        **_COMMON,
        "sep_conv_3x3": "binary_separable_conv_3x3",
        "sep_conv_5x5": "binary_separable_conv_5x5",
        "dil_conv_3x3": "binary_dilated_conv_3x3",
        "dil_conv_5x5": "binary_dilated_conv_5x5",
    },
    "bnas": {
        **_COMMON,
        "bin_conv_3x3": "binary_conv_3x3",
        "bin_conv_5x5": "binary_conv_5x5",
        "bin_dil_conv_3x3": "binary_dilated_conv_3x3",
        "bin_dil_conv_5x5": "binary_dilated_conv_5x5",
    },
    "bats": {
        **_COMMON,
        "sep_conv_3x3": "binary_group_conv_3x3",
        "sep_conv_5x5": "binary_group_conv_5x5",
        "dil_conv_3x3": "binary_dilated_group_conv_3x3",
        "dil_conv_5x5": "binary_dilated_group_conv_5x5",
    },
}
"""What each program's words stand for.

In DARTS itself `sep_conv` and `dil_conv` are real-valued and depthwise-separable; here they become the
binary separable and the (dense) binary dilated convolution. In BATS both are grouped.
"""


def import_genotype(text: str, names: str, source: str, space: dict[str, Any]) -> Genotype:
    """The genotype that a legacy text describes.

    Args:
        text: `Genotype(...)`, with or without a name before it.
        names: whose words it uses, one of `NAMES`.
        source: names the text in errors.
        space: the search space that the genotype will carry.

    Raises:
        UserError: the map of names or an operation is unknown, or the text is anything but a genotype.
    """
    if names not in NAMES:
        raise UserError(
            f"names '{names}': no such map of operation names;{nearest(names, NAMES)}", hint="names"
        )
    fields = _fields(_call(text, source), source)
    cells = {}
    for kind in ("normal", "reduce"):
        pairs = _pairs(fields[kind], kind, source)
        cells[kind] = [
            Edge(NUM_INPUTS + position // EDGES_PER_NODE, origin, _operation(name, names, kind, source))
            for position, (name, origin) in enumerate(pairs)
        ]
        _check_concat(fields[f"{kind}_concat"], len(pairs) // EDGES_PER_NODE, kind, source)
    num_nodes = len(cells["normal"]) // EDGES_PER_NODE
    if len(cells["reduce"]) != len(cells["normal"]):
        raise UserError(f"{source}: normal and reduce have different numbers of edges")
    data = {"space": space, "num_nodes": num_nodes, "edges_per_node": EDGES_PER_NODE, **cells}
    return build(Genotype, data, source)


def _call(text: str, source: str) -> ast.Call:
    if len(text) > MAX_LENGTH:
        raise UserError(f"{source}: {len(text)} characters are too many for a genotype")
    try:
        body = ast.parse(text.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UserError(f"{source}: not a Python literal; write NAME = Genotype(normal=[…], …)") from None
    if len(body) != 1:
        raise UserError(f"{source}: holds {len(body)} statements; give it exactly one Genotype(…)")
    statement = body[0]
    value = statement.value if isinstance(statement, ast.Assign | ast.Expr) else None
    if not isinstance(value, ast.Call) or not isinstance(value.func, ast.Name) or value.func.id != "Genotype":
        raise UserError(f"{source}: not a Genotype(…) call; write NAME = Genotype(normal=[…], …)")
    return value


def _fields(call: ast.Call, source: str) -> dict[str, Any]:
    if len(call.args) > len(FIELDS):
        raise UserError(f"{source}: Genotype takes {len(FIELDS)} values, {', '.join(FIELDS)}")
    found = dict(zip(FIELDS, call.args, strict=False))
    for keyword in call.keywords:
        if keyword.arg not in FIELDS:
            raise UserError(f"{source}: unknown key '{keyword.arg}';{nearest(str(keyword.arg), FIELDS)}")
        if keyword.arg in found:
            raise UserError(f"{source}: key '{keyword.arg}' stands twice")
        found[keyword.arg] = keyword.value
    for field in FIELDS:
        if field not in found:
            raise UserError(f"{source}: key '{field}' is missing")
    return {field: _value(node, field, source) for field, node in found.items()}


def _value(node: ast.expr, field: str, source: str) -> Any:
    is_range = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range"
    try:
        if is_range and field.endswith("_concat"):
            assert isinstance(node, ast.Call)
            bounds = [ast.literal_eval(argument) for argument in node.args]
            if node.keywords or len(bounds) not in (1, 2) or not all(type(b) is int for b in bounds):
                raise ValueError
            return range(*bounds)
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError, SyntaxError):
        raise UserError(f"{source}: {field} is not a plain value; nothing in it is ever run") from None


def _pairs(value: Any, kind: str, source: str) -> list[tuple[str, int]]:
    if not isinstance(value, list | tuple) or not value:
        raise UserError(f"{source}: {kind} is no list of ('operation', source) pairs")
    for position, pair in enumerate(value):
        if (
            not isinstance(pair, list | tuple)
            or len(pair) != 2
            or not isinstance(pair[0], str)
            or type(pair[1]) is not int
        ):
            raise UserError(f"{source}: {kind}.{position}: not an ('operation', source) pair: {pair!r:.80}")
    if len(value) % EDGES_PER_NODE:
        raise UserError(
            f"{source}: {kind} has {len(value)} pairs, an odd number; every node takes {EDGES_PER_NODE}"
        )
    return [(name, origin) for name, origin in value]


def _operation(name: str, names: str, kind: str, source: str) -> str:
    known = NAMES[names]
    if name not in known:
        others = [other for other, words in NAMES.items() if name in words]
        elsewhere = f" (known to the names of {', '.join(others)})" if others else ""
        raise UserError(
            f"{source}: {kind}: unknown {names} operation '{name}'{elsewhere};{nearest(name, known)}",
            hint="names" if others else "",
        )
    return known[name]


def _check_concat(value: Any, num_nodes: int, kind: str, source: str) -> None:
    nodes = range(NUM_INPUTS, NUM_INPUTS + num_nodes)
    if isinstance(value, range):  # compared, never counted out: range(10**30) is a short text
        whole = value == nodes
    else:
        whole = isinstance(value, list | tuple) and all(type(node) is int for node in value)
        whole = whole and sorted(value) == list(nodes)
    if not whole:
        raise UserError(
            f"{source}: {kind}_concat does not hold each of the nodes {nodes[0]} to {nodes[-1]} once;"
            " a cell's output is the concatenation of all its nodes"
        )
