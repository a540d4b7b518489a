"""The genotype: which operation sits on which edge of the two cells, as a frozen value and as JSON.

Nodes 0 and 1 are the cell's inputs (the output of the cell before the previous one, and of the previous
one), nodes 2, 3, … the intermediate nodes; the cell's output is the concatenation of all of the latter.
A genotype never builds a model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError, field_serializer, field_validator, model_validator

from binas.arch.genotype_file import FORMAT, VERSION, GenotypeFile
from binas.arch.macro_genotype import MacroGenotype
from binas.binarize import BinarizerSpec
from binas.config import build, read_text
from binas.errors import UserError
from binas.registry import nearest

NUM_INPUTS = 2
ZEROISE = "zeroise"
CELL_KINDS = ("normal", "reduce")
MAX_NODES = 16
MAX_NAME = 100  # characters of an operation's name
ENDS = ("node", "source", "op")
CHOICES = ("activation", "estimator")
"""Keys of an edge that say what was chosen for it alone."""


class Edge(NamedTuple):
    """One operation on its way from node `source` to node `node`, and what was chosen for it alone.

    Args:
        node, source: where it ends and where it starts.
        op: registered name of the operation.
        activation: registered name of what follows its binary convolutions; None: as the space says.
        estimator: activation binarizer of its binary convolutions; None: as space and training stage say.
    """

    node: int
    source: int
    op: str
    activation: str | None = None
    estimator: BinarizerSpec | None = None

    @property
    def has_choices(self) -> bool:
        """Whether activation or estimator were chosen for this edge."""
        return self.activation is not None or self.estimator is not None

    def zeroised(self) -> Edge:
        """The edge with nothing on it."""
        return Edge(self.node, self.source, ZEROISE)

    def to_mapping(self) -> dict[str, Any]:
        """What stands in a file: what was not chosen is left out."""
        fields: dict[str, Any] = {"node": self.node, "source": self.source, "op": self.op}
        if self.activation is not None:
            fields["activation"] = self.activation
        if self.estimator is not None:
            fields["estimator"] = self.estimator.model_dump(mode="json")
        return fields

    def label(self) -> str:
        """What it computes, in one word: the operation where nothing was chosen for it."""
        if not self.has_choices:
            return self.op
        chosen = {key: value for key, value in self.to_mapping().items() if key not in ("node", "source")}
        return json.dumps(chosen, sort_keys=True)


class Genotype(GenotypeFile):
    """A searched cell pair with everything that is needed to build a network from it.

    Raises a `UserError` from `read_genotype` for every way in which a file can be wrong.
    """

    kind: Literal["cell"] = "cell"
    num_nodes: int = Field(4, ge=1, le=MAX_NODES, strict=True)
    """Intermediate nodes of a cell."""
    edges_per_node: int = Field(2, ge=1, le=MAX_NODES + 1, strict=True)
    normal: tuple[Edge, ...]
    reduce: tuple[Edge, ...]

    @field_validator("normal", "reduce", mode="before")
    @classmethod
    def _read_edges(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        return [_read_edge(edge) for edge in value]

    @field_serializer("normal", "reduce")
    def _edges_as_mappings(self, edges: tuple[Edge, ...]) -> list[dict[str, Any]]:
        return [edge.to_mapping() for edge in edges]

    @model_validator(mode="after")
    def _check_cells(self) -> Genotype:
        for kind in CELL_KINDS:
            _check_cell(kind, self.cell(kind), self.num_nodes, self.edges_per_node)
        return self

    def cell(self, kind: str) -> tuple[Edge, ...]:
        """The edges of the cell of that kind, `normal` or `reduce`."""
        return self.normal if kind == "normal" else self.reduce

    def pruned(self) -> Genotype:
        """The same function with every edge that carries nothing turned into `zeroise`."""
        cells = {kind: _pruned(self.cell(kind)) for kind in CELL_KINDS}
        return self.model_copy(update=cells)

    def dead_nodes(self, kind: str) -> frozenset[int]:
        """Nodes all of whose inputs are zeroised or come from dead nodes; they stand as zeros."""
        return _dead_nodes(self.cell(kind))

    def operations(self) -> frozenset[str]:
        """The names of all operations that stand on an edge."""
        return frozenset(edge.op for kind in CELL_KINDS for edge in self.cell(kind))

    def hash(self) -> str:
        """A name of what is computed: equal for any order of edges and any naming of the nodes.

        Dead parts are pruned first. Provenance, plug-in hashes and the settings of the space are left
        out: two searches that find the same cells agree.
        """
        canonical = json.dumps([self.num_nodes, *(_canonical(self.cell(kind)) for kind in CELL_KINDS)])
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def _written(self, key: str, value: Any) -> str:
        if key not in CELL_KINDS:
            return super()._written(key, value)
        return "[\n" + ",\n".join("    " + json.dumps(edge) for edge in value) + "\n  ]"


AnyGenotype = Genotype | MacroGenotype
"""A genotype of either kind."""
KINDS: dict[str, type[Genotype] | type[MacroGenotype]] = {"cell": Genotype, "macro": MacroGenotype}


def parse_genotype(text: str, source: str) -> AnyGenotype:
    """The genotype that a JSON text holds; `source` names it in errors."""
    try:
        data = json.loads(text, object_pairs_hook=_without_doubles)
        json.dumps(data, allow_nan=False, ensure_ascii=False).encode()  # what cannot be written again
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source}: not a whole JSON genotype: {error}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(f"{source}: not a genotype: key 'format' is not '{FORMAT}'")
    genotype: AnyGenotype = build(_kind_of(data, source), {**data, "version": VERSION}, source)
    try:
        genotype.model_dump(mode="json")
    except ValueError as error:
        raise UserError(f"{source}: cannot be written again: {error}") from None
    return genotype


def read_genotype(path: Path, known_operations: Iterable[str]) -> AnyGenotype:
    """The genotype in a file, all of whose operations are known or recorded as a plug-in's."""
    genotype = parse_genotype(read_text(path), str(path))
    if isinstance(genotype, MacroGenotype):
        return genotype
    recorded = {name for plugin in genotype.plugins for name in plugin.operations}
    known = {*known_operations, *recorded}
    for kind in CELL_KINDS:
        for position, edge in enumerate(genotype.cell(kind)):
            if edge.op not in known:
                raise UserError(
                    f"{path}: {kind}.{position}.op: unknown operation '{edge.op}';{nearest(edge.op, known)}",
                    hint="plugins",
                )
    return genotype


def cells_only(
    genotype: AnyGenotype, source: str, why: str = "a genotype of cells is needed here"
) -> Genotype:
    """The genotype where it is one of cells.

    Args:
        source: where it comes from.
        why: what a macro genotype lacks.
    Raises:
        UserError: it is a macro genotype.
    """
    if isinstance(genotype, MacroGenotype):
        raise UserError(f"{source}: is a macro genotype (kind: macro); {why}")
    return genotype


def read_cells(path: Path, known_operations: Iterable[str]) -> Genotype:
    """As `read_genotype`, for what takes genotypes of cells only."""
    return cells_only(read_genotype(path, known_operations), str(path))


def cell_edges(num_nodes: int) -> list[tuple[int, int]]:
    """All (node, source) pairs of a cell, in the order in which alphas number its edges."""
    nodes = range(NUM_INPUTS, NUM_INPUTS + num_nodes)
    return [(node, source) for node in nodes for source in range(node)]


def _kind_of(data: dict[str, Any], source: str) -> type[Genotype] | type[MacroGenotype]:
    version = data.get("version")
    if type(version) is not int or version not in (1, VERSION):
        raise UserError(
            f"{source}: genotype version {version!r} is not known (known: 1 and {VERSION});"
            " a newer binas may read it"
        )
    if version == 1:
        if "kind" in data:
            raise UserError(f"{source}: key 'kind' is of version {VERSION}, and the file says version 1")
        return Genotype
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        known = " or ".join(KINDS)
        raise UserError(f"{source}: key 'kind' is {kind!r:.80}; a genotype of version {VERSION} says {known}")
    return KINDS[kind]


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise ValueError("a key stands twice in a mapping")
    return mapping


def _read_edge(value: Any) -> Edge:
    if isinstance(value, Edge):
        return value
    choices: dict[str, Any] = {}
    if isinstance(value, dict):
        choices = {key: value[key] for key in CHOICES if key in value}
        value = [value[key] for key in ENDS if key in value] if set(value) == {*ENDS, *choices} else value
    if (
        isinstance(value, list | tuple)
        and len(value) == len(ENDS)
        and all(type(number) is int for number in value[:2])
        and _is_name(value[2])
    ):
        return Edge(*value, **_read_choices(value[2], **choices))
    raise ValueError(f"an edge is written {{node: 2, source: 0, op: skip}}, not {value!r:.80}")


def _read_choices(op: str, activation: Any = None, estimator: Any = None) -> dict[str, Any]:
    if op == ZEROISE and (activation is not None or estimator is not None):
        raise ValueError(f"an edge of {ZEROISE} computes nothing, so it has no activation and no estimator")
    if activation is not None and not _is_name(activation):
        raise ValueError(f"activation: the name of one is expected, not {activation!r:.80}")
    if estimator is not None:
        named = {"name": estimator} if isinstance(estimator, str) else estimator
        try:
            estimator = TypeAdapter(BinarizerSpec).validate_python(named)
        except ValidationError:
            raise ValueError(
                f"estimator: a name or {{name: …}} with options is expected, not {estimator!r:.80}"
            ) from None
    return {"activation": activation, "estimator": estimator}


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and value.isprintable()


def _check_cell(kind: str, edges: Sequence[Edge], num_nodes: int, edges_per_node: int) -> None:
    last = NUM_INPUTS + num_nodes - 1
    for edge in edges:
        if not NUM_INPUTS <= edge.node <= last:
            raise ValueError(f"{kind}: {edge}: node is not between {NUM_INPUTS} and {last}")
        if not 0 <= edge.source <= last:
            raise ValueError(f"{kind}: {edge}: source is not between 0 and {last}")
        if edge.source >= edge.node:
            what = "a cycle" if edge.source == edge.node else "an edge from a later node"
            raise ValueError(f"{kind}: {edge}: {what}; a source comes before its node")
    pairs = [(edge.node, edge.source) for edge in edges]
    if len(set(pairs)) != len(pairs):
        twice = next(pair for pair in pairs if pairs.count(pair) > 1)
        raise ValueError(f"{kind}: two edges from node {twice[1]} to node {twice[0]}")
    for node in range(NUM_INPUTS, last + 1):
        count = sum(edge.node == node for edge in edges)
        expected = min(edges_per_node, node)
        if count != expected:
            raise ValueError(f"{kind}: node {node} has {count} edges instead of {expected}")


def _dead_nodes(edges: Iterable[Edge]) -> frozenset[int]:
    by_node: dict[int, list[Edge]] = {}
    for edge in edges:
        by_node.setdefault(edge.node, []).append(edge)
    dead: set[int] = set()
    for node in sorted(by_node):
        if all(edge.op == ZEROISE or edge.source in dead for edge in by_node[node]):
            dead.add(node)
    return frozenset(dead)


def _pruned(edges: Sequence[Edge]) -> tuple[Edge, ...]:
    dead = _dead_nodes(edges)
    return tuple(edge.zeroised() if edge.source in dead else edge for edge in edges)


def _canonical(edges: Sequence[Edge]) -> str:
    """A text that two cells share exactly when their live parts differ only in the naming of nodes."""
    live = [edge for edge in _pruned(edges) if edge.op != ZEROISE]
    colours = {number: str(number) for number in range(NUM_INPUTS)}
    return _form({edge.node for edge in live}, live, colours)


def _form(nodes: set[int], edges: Sequence[Edge], colours: dict[int, str]) -> str:
    """The canonical text of some nodes and the edges at them; nodes outside are told by their colours.

    Nodes whose surroundings tell them apart are settled, what hangs together among the others is done
    piece by piece, and where nothing is told apart each candidate is marked in turn and the least text
    wins. Candidates that one numbering shows to be the same need one try: sixteen twins are not 16! tries.
    """
    colours = _refined(nodes, edges, colours)
    alike = _alike(nodes, colours)
    shared = {node for group in alike if len(group) > 1 for node in group}
    pieces = _pieces(shared, edges)
    if pieces == [nodes]:
        marked = [{**colours, node: "marked"} for node in alike[0]]
        tries = {_example(nodes, edges, colouring): colouring for colouring in marked}
        return min(_form(nodes, edges, colouring) for colouring in tries.values())
    settled = sorted(
        [colours[edge.node], colours[edge.source], edge.label()]
        for edge in edges
        if edge.node not in shared and edge.source not in shared
    )
    inner = [[edge for edge in edges if edge.node in piece or edge.source in piece] for piece in pieces]
    forms = sorted(_form(piece, some, colours) for piece, some in zip(pieces, inner, strict=True))
    return json.dumps([settled, forms])


def _example(nodes: set[int], edges: Sequence[Edge], colours: dict[int, str]) -> str:
    """The text under one numbering, some choices free: equal for two colourings only if they are one."""
    while True:
        colours = _refined(nodes, edges, colours)
        first = _alike(nodes, colours)[0]
        if len(first) == 1:
            return json.dumps(sorted([colours[e.node], colours[e.source], e.label()] for e in edges))
        colours = {**colours, min(first): "marked"}


def _alike(nodes: set[int], colours: dict[int, str]) -> list[set[int]]:
    """Nodes of one colour together, the smallest set of more than one node first."""
    groups: dict[str, set[int]] = {}
    for node in nodes:
        groups.setdefault(colours[node], set()).add(node)
    order = sorted(groups, key=lambda colour: (len(groups[colour]) == 1, len(groups[colour]), colour))
    return [groups[colour] for colour in order]


def _refined(nodes: set[int], edges: Sequence[Edge], colours: dict[int, str]) -> dict[int, str]:
    """Colours that tell nodes apart by what enters and leaves them, however far away."""
    colours = dict.fromkeys(nodes, "") | colours
    for _ in nodes:
        near: dict[int, list[str]] = {node: [] for node in nodes}
        for edge in edges:
            if edge.node in nodes:
                near[edge.node].append(json.dumps(["in", edge.label(), colours[edge.source]]))
            if edge.source in nodes:
                near[edge.source].append(json.dumps(["out", edge.label(), colours[edge.node]]))
        colours = colours | {
            node: hashlib.sha256(json.dumps([colours[node], *sorted(near[node])]).encode()).hexdigest()
            for node in nodes
        }
    return colours


def _pieces(nodes: set[int], edges: Sequence[Edge]) -> list[set[int]]:
    """The sets of nodes that hang together by edges among them."""
    pieces = [{node} for node in sorted(nodes)]
    for edge in edges:
        if edge.node in nodes and edge.source in nodes:
            joined = [piece for piece in pieces if edge.node in piece or edge.source in piece]
            pieces = [piece for piece in pieces if piece not in joined] + [set().union(*joined)]
    return pieces
