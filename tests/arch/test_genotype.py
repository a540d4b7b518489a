"""Genotypes: validation, pruning, the hash against an exhaustive one, the file format for ever."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from binas.arch.genotype import CELL_KINDS, Edge, Genotype, cells_only, parse_genotype, read_genotype
from binas.binarize import BinarizerSpec
from binas.errors import UserError
from binas.ops import OPS

GOLDEN = Path(__file__).parents[1] / "golden" / "genotype_v1.json"
GOLDEN_2 = GOLDEN.with_name("genotype_v2.json")
"""The same as it is written now."""
GOLDEN_CHOICES = GOLDEN.with_name("genotype_v2_choices.json")
BASE: dict[str, Any] = {
    "format": "binas-genotype",
    "version": 1,
    "num_nodes": 2,
    "edges_per_node": 2,
    "normal": [[2, 0, "skip"], [2, 1, "zeroise"], [3, 0, "skip"], [3, 2, "max_pool_3x3"]],
    "reduce": [[2, 0, "skip"], [2, 1, "skip"], [3, 1, "skip"], [3, 2, "skip"]],
}


def text_with(**changes: Any) -> str:
    return json.dumps(BASE | changes)


def with_edge(edge: Any) -> dict[str, Any]:
    return {"normal": [*BASE["normal"][:3], edge]}


def chosen(op: str = "binary_conv_3x3", **choices: Any) -> dict[str, Any]:
    """A version 2 genotype whose last edge has choices of its own."""
    return {"version": 2, "kind": "cell", **with_edge({"node": 3, "source": 1, "op": op, **choices})}


def genotype_of(cell: Sequence[Edge | tuple[int, int, str]], edges_per_node: int = 2) -> Genotype:
    edges = tuple(Edge(*edge) for edge in cell)
    num_nodes = max(edge.node for edge in edges) - 1
    return Genotype(num_nodes=num_nodes, edges_per_node=edges_per_node, normal=edges, reduce=edges)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (with_edge([3, 3, "skip"]), "a cycle"),
        ({"normal": [[2, 3, "skip"], *BASE["normal"][1:]]}, "an edge from a later node"),
        (with_edge([4, 2, "skip"]), "node is not between 2 and 3"),
        (with_edge([1, 0, "skip"]), "node is not between 2 and 3"),
        (with_edge([3, 9, "skip"]), "source is not between 0 and 3"),
        (with_edge([3, -1, "skip"]), "source is not between 0 and 3"),
        (with_edge([3, 0, "skip"]), "two edges from node 0 to node 3"),
        ({"normal": BASE["normal"][:3]}, "node 3 has 1 edges instead of 2"),
        ({"normal": [*BASE["normal"], [3, 1, "skip"]]}, "node 3 has 3 edges instead of 2"),
        ({"reduce": []}, "reduce: node 2 has 0 edges"),
        ({"edges_per_node": 1}, "node 2 has 2 edges instead of 1"),
        ({"num_nodes": 3}, "node 4 has 0 edges"),
        ({"num_nodes": 0}, "num_nodes"),
        ({"num_nodes": 17}, "num_nodes"),
        ({"num_nodes": 10**30}, "num_nodes"),
        ({"num_nodes": "2"}, "num_nodes"),
        ({"num_nodes": True}, "num_nodes"),
        ({"num_nodes": None}, "num_nodes"),
        ({"edges_per_node": 0}, "edges_per_node"),
        ({"edges_per_node": 10**30}, "edges_per_node"),
        (with_edge([3, 1.0, "skip"]), "an edge is written"),
        (with_edge([3, True, "skip"]), "an edge is written"),
        (with_edge([3, 1, 5]), "an edge is written"),
        (with_edge([3, 1, ""]), "an edge is written"),
        (with_edge([3, 1, "a\nb"]), "an edge is written"),
        (with_edge([3, 1, "a" * 101]), "an edge is written"),
        (with_edge([3, 1, "skip", 0]), "an edge is written"),
        (with_edge({"node": 3, "source": 1}), "an edge is written"),
        (with_edge({"node": 3, "source": 1, "op": "skip", "more": 1}), "an edge is written"),
        (with_edge(None), "an edge is written"),
        ({"normal": "skip"}, "normal"),
        ({"normal": 5}, "normal"),
        ({"space": []}, "space"),
        ({"plugins": [{"file": "a.py", "sha256": "xyz"}]}, r"plugins\.0\.sha256"),
        ({"num_node": 2}, "unknown key 'num_node'; did you mean 'num_nodes'"),
        ({"format": "onnx"}, "key 'format' is not 'binas-genotype'"),
        ({"version": 3}, "version 3 is not known"),
        ({"version": 2}, "key 'kind' is None; a genotype of version 2 says cell or macro"),
        ({"version": 2, "kind": "net"}, "key 'kind' is 'net'"),
        ({"version": 2, "kind": ["cell"]}, "key 'kind' is"),
        ({"kind": "cell"}, "key 'kind' is of version 2"),
        ({"version": 2, "kind": "macro"}, "unknown key 'num_nodes'"),
        (chosen(activation=""), "activation: the name of one is expected"),
        (chosen(activation=5), "activation: the name of one is expected"),
        (chosen(activation="a\nb"), "activation: the name of one is expected"),
        (chosen(estimator=5), "estimator: a name or"),
        (chosen(estimator={"window": 1.0}), "estimator: a name or"),
        (chosen(estimator={"name": 1}), "estimator: a name or"),
        (chosen(op="zeroise", activation="relu"), "an edge of zeroise computes nothing"),
        (chosen(more=1), "an edge is written"),
        ({"version": "1"}, "version '1' is not known"),
        ({"version": True}, "version True is not known"),
        ({"version": None}, "version None is not known"),
        ({"provenance": {"x": "\ud800"}}, "not a whole JSON genotype"),
    ],
)
def test_a_wrong_genotype_is_a_user_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        parse_genotype(text_with(**changes), "found.json")
    assert "found.json" in str(error.value)


@pytest.mark.parametrize("key", ["normal", "reduce", "version", "format"])
def test_missing_key(key: str) -> None:
    with pytest.raises(UserError, match=key):
        parse_genotype(json.dumps({name: value for name, value in BASE.items() if name != key}), "found.json")


def inside(value: str) -> str:
    return text_with()[:-1] + f', "space": {{"a": {value}}}}}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0",
        "[]",
        "null",
        '"text"',
        "5",
        text_with()[:-1],
        text_with()[:40],
        "\ufeff" + text_with(),
        inside("NaN"),
        inside("-Infinity"),
        inside("1e999"),
        inside("9" * 5000),
        inside("[" * 400 + "]" * 400),
        inside("[" * 100_000 + "]" * 100_000),
        inside("{" * 100_000),
        inside('1, "a": 2'),
        text_with()[:-1] + ', "num_nodes": 2}',
        "(lambda: 0)()",
        "Genotype(normal=[], reduce=[])",
    ],
    ids=lambda text: text[-14:],
)
def test_a_hostile_text_is_a_user_error(text: str) -> None:
    with pytest.raises(UserError, match=r"found\.json"):
        parse_genotype(text, "found.json")


def test_a_cut_file_never_loads() -> None:
    text = parse_genotype(text_with(), "x").to_json()
    for length in range(len(text.rstrip())):
        with pytest.raises(UserError):
            parse_genotype(text[:length], "x")


def test_unknown_operation_names_file_key_and_nearest(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    path.write_text(text_with(**with_edge([3, 1, "max_pool_3"])))
    with pytest.raises(UserError, match=r"found\.json: normal\.3\.op: .*did you mean 'max_pool_3x3'"):
        read_genotype(path, OPS)
    assert cells_only(read_genotype(path, [*OPS, "max_pool_3"]), "x").normal[3].op == "max_pool_3"


def test_an_operation_recorded_as_a_plugins_is_known(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    plugin = {"file": "my_ops.py", "sha256": "0" * 64, "operations": ["my_op"]}
    path.write_text(text_with(**with_edge([3, 1, "my_op"]), plugins=[plugin]))
    assert read_genotype(path, OPS).plugins[0].file == "my_ops.py"


@pytest.mark.parametrize("content", [None, b"\xff\xfe"], ids=["absent", "not text"])
def test_an_unreadable_file_is_a_user_error(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"found\.json: cannot be read"):
        read_genotype(path, OPS)


S, Z = "skip", "zeroise"


@pytest.mark.parametrize(
    ("cell", "dead", "pruned_ops"),
    [
        ([(2, 0, S), (2, 1, S), (3, 0, S), (3, 2, S)], set(), [S, S, S, S]),
        ([(2, 0, Z), (2, 1, S), (3, 0, S), (3, 2, Z)], set(), [Z, S, S, Z]),
        ([(2, 0, Z), (2, 1, Z), (3, 0, S), (3, 2, S)], {2}, [Z, Z, S, Z]),
        ([(2, 0, Z), (2, 1, Z), (3, 0, Z), (3, 2, S)], {2, 3}, [Z, Z, Z, Z]),
        ([(2, 0, Z), (2, 1, Z), (3, 2, S), (3, 0, Z), (4, 3, S), (4, 2, S)], {2, 3, 4}, [Z] * 6),
        ([(2, 0, S), (2, 1, Z), (3, 2, Z), (3, 1, Z), (4, 3, S), (4, 0, S)], {3}, [S, Z, Z, Z, Z, S]),
        ([(2, 0, Z), (2, 1, Z), (3, 0, Z), (3, 1, Z)], {2, 3}, [Z] * 4),
    ],
    ids=["all alive", "noop edges", "dangling", "dead chain", "island", "dead in the middle", "all zeroised"],
)
def test_pruning(cell: list[tuple[int, int, str]], dead: set[int], pruned_ops: list[str]) -> None:
    genotype = genotype_of(cell)
    assert genotype.dead_nodes("normal") == dead
    pruned = genotype.pruned()
    assert [edge.op for edge in pruned.normal] == pruned_ops
    assert [edge[:2] for edge in pruned.normal] == [edge[:2] for edge in genotype.normal]
    assert pruned.pruned() == pruned
    assert pruned.hash() == genotype.hash()


CHOICES: list[dict[str, Any]] = [
    {},
    {"activation": "prelu"},
    {"activation": "relu"},
    {"estimator": BinarizerSpec(name="sign", window=1.5)},
    {"activation": "relu", "estimator": BinarizerSpec(name="approx_sign")},
]
NO_CHOICES = CHOICES[:1]


def random_cell(
    draws: random.Random,
    num_nodes: int,
    edges_per_node: int,
    ops: Sequence[str],
    choices: Sequence[dict[str, Any]] = NO_CHOICES,
) -> list[Edge]:
    cell = [
        Edge(node, source, draws.choice(ops))
        for node in range(2, 2 + num_nodes)
        for source in draws.sample(range(node), min(edges_per_node, node))
    ]
    return [edge if edge.op == Z else edge._replace(**draws.choice(choices)) for edge in cell]


def renamed(cell: Sequence[Edge], draws: random.Random) -> list[Edge]:
    """The same cell with its nodes in another order in which sources come first, edges shuffled."""
    left = {edge.node for edge in cell}
    number = {0: 0, 1: 1}
    while left:
        ready = [node for node in left if all(e.source in number for e in cell if e.node == node)]
        node = draws.choice(sorted(ready))
        number[node] = len(number)
        left.remove(node)
    edges = [edge._replace(node=number[edge.node], source=number[edge.source]) for edge in cell]
    draws.shuffle(edges)
    return edges


def accepted(cell: Sequence[Edge], edges_per_node: int) -> bool:
    """Whether every node has as many edges as its place allows; a renaming may break that."""
    nodes = {edge.node for edge in cell}
    return all(sum(e.node == node for e in cell) == min(edges_per_node, node) for node in nodes)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 8),
    st.integers(1, 2),
    st.sampled_from(["s", "sz", "abz"]),
    st.sampled_from([1, 3, 5]),
)
def test_hash_ignores_names_of_nodes_and_order_of_edges(
    seed: int, num_nodes: int, edges_per_node: int, letters: str, num_choices: int
) -> None:
    draws = random.Random(seed)
    ops = [Z if letter == "z" else letter for letter in letters]
    cells = [random_cell(draws, num_nodes, edges_per_node, ops, CHOICES[:num_choices]) for _ in CELL_KINDS]
    others = [renamed(cell, draws) for cell in cells]
    assert all(accepted(cell, edges_per_node) for cell in others)
    one, two = (
        Genotype(num_nodes=num_nodes, edges_per_node=edges_per_node, normal=normal, reduce=reduce)
        for normal, reduce in (cells, others)
    )
    assert one.hash() == two.hash()


def smallest_numbering(cell: Sequence[Edge]) -> str:
    """The canonical form by trying every numbering: slow and obvious."""
    dead = dead_nodes(cell)
    live = [edge for edge in cell if edge.op != Z and edge.source not in dead]
    nodes = sorted({edge.node for edge in live})
    forms = []
    for order in itertools.permutations(range(2, 2 + len(nodes))):
        number = {0: 0, 1: 1} | dict(zip(nodes, order, strict=True))
        forms.append(sorted((number[e.node], number[e.source], e.op, repr(e[3:])) for e in live))
    return str(min(forms))


def dead_nodes(cell: Sequence[Edge]) -> set[int]:
    dead: set[int] = set()
    for node in sorted({edge.node for edge in cell}):
        if all(e.op == Z or e.source in dead for e in cell if e.node == node):
            dead.add(node)
    return dead


def test_hash_agrees_with_trying_every_numbering() -> None:
    draws = random.Random(0)
    by_hash: dict[str, str] = {}
    by_form: dict[str, str] = {}
    for _ in range(600):
        num_nodes, edges = draws.choice([3, 4, 5]), draws.choice([1, 2, 3])
        choices = draws.choice([NO_CHOICES, CHOICES[:2]])
        cell = random_cell(draws, num_nodes, edges, draws.choice([["a"], ["a", "b"], ["a", Z]]), choices)
        genotype = Genotype(num_nodes=num_nodes, edges_per_node=edges, normal=cell, reduce=cell)
        form = f"{num_nodes} {smallest_numbering(cell)}"
        assert by_hash.setdefault(genotype.hash(), form) == form
        assert by_form.setdefault(form, genotype.hash()) == genotype.hash()
    assert len(by_hash) > 150


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ([(2, 0, "a")], [(2, 1, "a")]),
        ([(2, 0, "a")], [(2, 0, "b")]),
        # the same unfolded ancestry: nodes 4 and 5 read one and the same node, or two nodes alike
        (
            [(2, 0, "a"), (3, 0, "a"), (4, 2, "b"), (5, 2, "b")],
            [(2, 0, "a"), (3, 0, "a"), (4, 2, "b"), (5, 3, "b")],
        ),
    ],
    ids=["another input", "another operation", "shared or not"],
)
def test_hash_tells_apart(one: list[tuple[int, int, str]], two: list[tuple[int, int, str]]) -> None:
    assert genotype_of(one, 1).hash() != genotype_of(two, 1).hash()


def test_hash_tells_a_six_ring_from_two_three_rings() -> None:
    # every node has the same surroundings in both, so only the search over markings tells them apart
    def rings(partners: Sequence[Sequence[int]]) -> Genotype:
        first = [Edge(2 + i, source, "a") for i in range(6) for source in (0, 1)]
        second = [Edge(8 + i, 2 + j, "a") for i, pair in enumerate(partners) for j in pair]
        return genotype_of([*first, *second])

    six = rings([(i, (i + 1) % 6) for i in range(6)])
    threes = rings([(3 * (i // 3) + i % 3, 3 * (i // 3) + (i + 1) % 3) for i in range(6)])
    turned = rings([((i + 2) % 6, (i + 3) % 6) for i in range(6)])
    assert six.hash() == turned.hash()
    assert six.hash() != threes.hash()


def test_hash_of_many_alike_nodes_takes_no_time() -> None:
    twins = genotype_of([(2 + i, 0, "a") for i in range(16)], 1)
    chains = genotype_of([(2 + i, 0, "a") for i in range(8)] + [(10 + i, 2 + i, "a") for i in range(8)], 1)
    begin = time.perf_counter()
    assert len({twins.hash(), chains.hash()}) == 2
    assert time.perf_counter() - begin < 5  # all orders of 16 nodes would take centuries


def test_hash_ignores_provenance_and_space_but_not_the_cells() -> None:
    genotype = cells_only(parse_genotype(text_with(), "x"), "x")
    told = genotype.model_copy(update={"provenance": {"seed": 1}, "space": {"name": "other"}})
    assert told.hash() == genotype.hash()
    swapped = genotype.model_copy(update={"normal": genotype.reduce, "reduce": genotype.normal})
    assert swapped.hash() != genotype.hash()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 16), st.integers(1, 17))
def test_json_round_trip(seed: int, num_nodes: int, edges_per_node: int) -> None:
    draws = random.Random(seed)
    cells = [random_cell(draws, num_nodes, edges_per_node, sorted(OPS), CHOICES) for _ in CELL_KINDS]
    genotype = Genotype(
        num_nodes=num_nodes,
        edges_per_node=edges_per_node,
        normal=cells[0],
        reduce=cells[1],
        space={"name": "größer", "list": [1, None, {"deep": 0.5}]},
        provenance={"seed": seed},
    )
    text = genotype.to_json()
    again = parse_genotype(text, "x")
    assert again == genotype
    assert again.to_json() == text


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(BASE)), inner),
        max_leaves=8,
    )
)
def test_any_json_value_is_read_or_refused(value: Any) -> None:
    data = BASE | {"version": 2, "kind": "cell"} | value if isinstance(value, dict) else value
    try:
        genotype = parse_genotype(json.dumps(data), "x")
    except UserError:
        return
    assert parse_genotype(genotype.to_json(), "x") == genotype


def test_one_edge_per_line() -> None:
    lines = parse_genotype(text_with(), "x").to_json().splitlines()
    assert sum('"op"' in line for line in lines) == 8
    assert '    {"node": 2, "source": 0, "op": "skip"},' in lines


def test_golden_file_loads_for_ever() -> None:
    genotype = cells_only(read_genotype(GOLDEN, OPS), "golden")
    assert genotype.to_json() == GOLDEN_2.read_text()
    assert parse_genotype(genotype.to_json(), "x") == genotype
    assert genotype.hash() == "b64139e4f8f1c8c1"
    assert genotype.normal[3] == Edge(3, 1, "binary_conv_3x3")
    assert genotype.dead_nodes("reduce") == {2}
    assert genotype.plugins[0].operations == ("my_op",)
    assert genotype.provenance == {"note": "written by version 1 of the format", "seed": 0}


def test_golden_file_with_choices_loads_for_ever() -> None:
    genotype = cells_only(read_genotype(GOLDEN_CHOICES, OPS), "golden")
    assert genotype.to_json() == GOLDEN_CHOICES.read_text()
    assert genotype.hash() == "e2faecaa8d38359f"
    assert genotype.normal[3] == Edge(
        3, 1, "binary_conv_3x3", "prelu", BinarizerSpec(name="sign", window=1.2)
    )


def test_an_estimator_may_be_a_word() -> None:
    genotype = cells_only(parse_genotype(text_with(**chosen(estimator="approx_sign")), "x"), "x")
    assert genotype.normal[3].estimator == BinarizerSpec(name="approx_sign")


def test_choices_belong_to_the_hash_and_their_absence_changes_nothing() -> None:
    plain = parse_genotype(text_with(**chosen()), "x")
    assert plain.hash() == parse_genotype(text_with(**with_edge([3, 1, "binary_conv_3x3"])), "x").hash()
    hashes = {
        parse_genotype(text_with(**chosen(**choices)), "x").hash()
        for choices in (
            {"activation": "prelu"},
            {"activation": "relu"},
            {"estimator": "sign"},
            {"estimator": {"name": "sign", "window": 1.0}},
            {"activation": "relu", "estimator": "sign"},
        )
    }
    assert len(hashes | {plain.hash()}) == 6


def test_a_pruned_edge_loses_what_was_chosen_for_it() -> None:
    dead = [Edge(2, 0, Z), Edge(2, 1, Z), Edge(3, 0, S), Edge(3, 2, "a", "prelu")]
    assert genotype_of(dead).pruned().normal[3] == Edge(3, 2, Z)


def test_a_genotype_cannot_be_changed() -> None:
    genotype = cells_only(parse_genotype(text_with(), "x"), "x")
    with pytest.raises(ValueError, match="frozen"):
        genotype.num_nodes = 3  # type: ignore[misc]
