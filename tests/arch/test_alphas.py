"""Alphas to probabilities to genotypes: softmax and entropy against NumPy, tables made by hand."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from spaces import spaces_of

from binas.arch.alphas import INITIAL_DEVIATION, Alphas, mean_entropy
from binas.arch.discretize import discretize, discretize_cell
from binas.arch.genotype import CELL_KINDS, ZEROISE, Edge, Genotype, cell_edges
from binas.arch.sample import random_genotype
from binas.arch.space import SearchSpace, load_space
from binas.arch.supernet import Supernet, all_candidates
from binas.errors import UserError

CONV = "binary_conv_3x3"


def tiny(**changes: Any) -> SearchSpace:
    """Two nodes, hence five edges: 2←0, 2←1, 3←0, 3←1, 3←2."""
    return load_space({"operations": [ZEROISE, "skip", CONV], "num_nodes": 2, **changes})


def filled(space: SearchSpace, seed: int = 0) -> Alphas:
    alphas = Alphas(space, all_candidates(space)).double()
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for kind in CELL_KINDS:
            parameter = alphas.get_parameter(kind)
            parameter.copy_(torch.tensor(random.normal(scale=3, size=parameter.shape)))
    return alphas


def softmax(x: np.ndarray, temperature: float) -> np.ndarray:
    e = np.exp(x / temperature - (x / temperature).max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("temperatures", [(1.0, 1.0), (0.1, 5.0), (20.0, 0.5)], ids=str)
def test_probabilities_by_temperature_of_each_kind(temperatures: tuple[float, float]) -> None:
    alphas = filled(load_space("bnas"))
    given = dict(zip(CELL_KINDS, temperatures, strict=True))
    for kind, p in alphas.probabilities(given).items():
        values = alphas.get_parameter(kind).detach().numpy()
        np.testing.assert_allclose(p.detach().numpy(), softmax(values, given[kind]), rtol=1e-13)


def test_operations_that_are_gone_have_probability_zero_and_no_gradient() -> None:
    space = tiny()
    candidates = all_candidates(space)
    candidates["normal"][1] = ["skip"]
    candidates["normal"][3] = [ZEROISE, CONV]
    alphas = Alphas(space, candidates).double()
    with torch.no_grad():
        alphas.get_parameter("normal").normal_()
    p = alphas.probabilities({"normal": 0.5, "reduce": 1.0})
    assert p["normal"][1].tolist() == [0, 1, 0] and p["normal"][3, 1] == 0
    np.testing.assert_allclose(p["normal"].sum(dim=1).detach().numpy(), np.ones(5), rtol=1e-15)
    values = alphas.get_parameter("normal").detach().numpy()
    np.testing.assert_allclose(
        p["normal"][3, [0, 2]].detach().numpy(), softmax(values[3:4, [0, 2]], 0.5)[0], rtol=1e-14
    )
    (mean_entropy(p) + p["normal"][3, 2]).backward()
    gradient = alphas.get_parameter("normal").grad
    assert gradient is not None and gradient.isfinite().all()
    assert gradient[1].tolist() == [0, 0, 0] and gradient[3, 1] == 0 and gradient[3, 0] != 0


def test_entropy_is_the_mean_over_all_edges_of_both_kinds() -> None:
    alphas = filled(load_space("binas"))
    probabilities = alphas.probabilities({"normal": 1.0, "reduce": 2.0})
    rows = np.concatenate([probabilities[kind].detach().numpy() for kind in CELL_KINDS])
    assert len(rows) == 28
    expected = np.mean([-sum(p * np.log(p) for p in row) for row in rows])
    assert mean_entropy(probabilities).item() == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize(
    ("row", "entropy"),
    [([0.25] * 4, np.log(4)), ([1.0, 0, 0, 0], 0.0), ([0.5, 0.5, 0, 0], np.log(2))],
    ids=str,
)
def test_entropy_of_simple_rows(row: list[float], entropy: float) -> None:
    p = {kind: torch.tensor([row], dtype=torch.float64) for kind in CELL_KINDS}
    assert mean_entropy(p).item() == pytest.approx(entropy, abs=1e-15)


def test_gradient_of_the_entropy() -> None:
    alphas = filled(tiny())
    mean_entropy(alphas.probabilities({"normal": 0.7, "reduce": 1.0})).backward()
    p = softmax(alphas.get_parameter("normal").detach().numpy(), 0.7)
    entropy = -(p * np.log(p)).sum(axis=1, keepdims=True)
    gradient = alphas.get_parameter("normal").grad
    assert gradient is not None
    np.testing.assert_allclose(gradient.numpy(), -p * (np.log(p) + entropy) / 0.7 / 10, rtol=1e-9, atol=1e-14)


def test_initial_alphas_are_small_and_repeatable() -> None:
    space = load_space("binas")
    first, second = (Alphas(space, all_candidates(space), torch.Generator().manual_seed(4)) for _ in range(2))
    other = Alphas(space, all_candidates(space), torch.Generator().manual_seed(5))
    for kind in CELL_KINDS:
        values = first.get_parameter(kind)
        assert values.shape == (14, 12)
        assert torch.equal(values, second.get_parameter(kind))
        assert not torch.equal(values, other.get_parameter(kind))
        assert values.std().item() == pytest.approx(INITIAL_DEVIATION, rel=0.3)
    assert not torch.equal(first.get_parameter("normal"), first.get_parameter("reduce"))


def test_alphas_live_outside_the_supernet() -> None:
    space = load_space({"base": "bnas", "supernet": {"init_channels": 4, "num_cells": 2}})
    supernet, alphas = Supernet(space, 3, 5), Alphas(space, all_candidates(space))
    owned = {id(parameter) for parameter in supernet.parameters()}
    assert not any(id(parameter) in owned for parameter in alphas.parameters())
    assert not any(p.shape in {(14, 7), (28, 7)} for p in supernet.parameters())
    assert {name for name, _ in alphas.named_parameters()} == set(alphas.state_dict()) == set(CELL_KINDS)


def edges(*ops: str | None) -> tuple[Edge, ...]:
    """The edges of a tiny cell: an operation, or None where the edge is not kept."""
    pairs = cell_edges(2)
    return tuple(Edge(*pair, op) for pair, op in zip(pairs, ops, strict=True) if op is not None)


KEEP = {"zeroise": {"policy": "keep"}}
DROP = {"zeroise": {"policy": "drop"}}
Z, S, C = ZEROISE, "skip", CONV
SURE = [0.1, 0.2, 0.7]
TABLES: dict[str, tuple[dict[str, Any], list[list[float]], tuple[Edge, ...]]] = {
    "the most probable two of three edges": (
        KEEP,
        [SURE, SURE, [0.2, 0.3, 0.5], [0.1, 0.8, 0.1], [0.3, 0.1, 0.6]],
        edges(C, C, None, S, C),
    ),
    "equal operations: the first of the space": (
        KEEP,
        [[0.4, 0.4, 0.2], [0.2, 0.4, 0.4], SURE, SURE, [1, 0, 0]],
        edges(Z, S, C, None, Z),
    ),
    "equal edges: the first sources": (KEEP, [SURE] * 5, edges(C, C, C, C, None)),
    "all zeroise, kept": (KEEP, [[0.8, 0.1, 0.1]] * 5, edges(Z, Z, Z, Z, None)),
    "all zeroise, dropped: the next best decides": (
        DROP,
        [[0.8, 0.05, 0.15], [0.8, 0.15, 0.05], [0.8, 0.11, 0.09], [0.8, 0.1, 0.1], [0.7, 0.1, 0.2]],
        edges(C, S, S, None, C),
    ),
    "zeroise counts in the ranking when kept": (
        KEEP,
        [SURE, SURE, [0.9, 0.05, 0.05], [0.1, 0.1, 0.8], SURE],
        edges(C, C, Z, C, None),
    ),
    "zeroise does not count in the ranking when dropped": (
        DROP,
        [SURE, SURE, [0.9, 0.05, 0.05], [0.1, 0.1, 0.8], SURE],
        edges(C, C, None, C, C),
    ),
    "discount 3: 0.6 counts 0.2": (
        {"zeroise": {"policy": "discount", "gamma": 3}},
        [[0.6, 0.15, 0.25], [0.8, 0.1, 0.1], SURE, [0.6, 0.3, 0.1], [0.6, 0.1, 0.3]],
        edges(C, Z, C, S, None),
    ),
    "discount in the ranking of edges": (
        {"zeroise": {"policy": "discount", "gamma": 3}},
        [SURE, SURE, [0.99, 0.005, 0.005], [0.2, 0.4, 0.4], [0.2, 0.36, 0.44]],
        edges(C, C, None, S, C),
    ),
    "discount 1 is keep": (
        {"zeroise": {"policy": "discount", "gamma": 1}},
        [[0.6, 0.15, 0.25], SURE, [0.9, 0.05, 0.05], [0.1, 0.1, 0.8], SURE],
        edges(Z, C, Z, C, None),
    ),
    "one edge a node": (
        {**KEEP, "edges_per_node": 1},
        [SURE, [0.1, 0.1, 0.8], SURE, [0.9, 0.1, 0], SURE],
        edges(None, C, None, Z, None),
    ),
    "more edges a node than sources": (
        {**KEEP, "edges_per_node": 3},
        [SURE, [0, 1, 0], SURE, [1, 0, 0], SURE],
        edges(C, S, C, Z, C),
    ),
    "at most one skip: the weaker gives way": (
        {**DROP, "max_skips": 1},
        [[0, 0.9, 0.1], [0, 0.6, 0.4], SURE, SURE, [0, 0.1, 0.9]],
        edges(S, C, C, None, C),
    ),
    "a skip that gives way may lose its edge": (
        {**DROP, "max_skips": 0},
        [SURE, SURE, [0, 0.9, 0.1], [0.1, 0.3, 0.6], [0.5, 0.2, 0.3]],
        edges(C, C, None, C, C),
    ),
    "an edge that comes in may bring a skip of its own": (
        {**DROP, "max_skips": 0},
        [SURE, SURE, [0, 0.9, 0.1], [0.1, 0.8, 0.1], [0.05, 0.75, 0.2]],
        edges(C, C, C, None, C),
    ),
}


@pytest.mark.parametrize(("changes", "table", "expected"), TABLES.values(), ids=TABLES)
def test_discretisation(
    changes: dict[str, Any], table: list[list[float]], expected: tuple[Edge, ...]
) -> None:
    assert discretize_cell(table, tiny(**changes), "normal") == expected


def test_skips_are_limited_in_normal_cells_only() -> None:
    space = tiny(**DROP, max_skips=0)
    genotype = discretize({kind: torch.tensor([[0.0, 0.9, 0.1]] * 5) for kind in CELL_KINDS}, space)
    assert {edge.op for edge in genotype.normal} == {CONV}
    assert {edge.op for edge in genotype.reduce} == {"skip"}


def test_discretisation_changes_nothing_and_carries_its_space() -> None:
    space = tiny(max_skips=1)
    probabilities = {kind: torch.rand(5, 3) for kind in CELL_KINDS}
    before = {kind: p.clone() for kind, p in probabilities.items()}
    first, second = discretize(probabilities, space), discretize(probabilities, space)
    assert first == second
    assert all(torch.equal(probabilities[kind], before[kind]) for kind in CELL_KINDS)
    assert load_space(first.space) == space


def reaches_output(cell: tuple[Edge, ...]) -> bool:
    """Whether some intermediate node can be reached from an input, by walking back from every node."""

    def alive(node: int) -> bool:
        return node < 2 or any(e.node == node and e.op != ZEROISE and alive(e.source) for e in cell)

    return any(alive(edge.node) for edge in cell)


@pytest.mark.parametrize("space", spaces_of("cell"))
def test_random_genotypes_obey_the_space(space: str) -> None:
    it = load_space(space)
    generator = random.Random(1)
    seen: set[str] = set()
    for _ in range(60):
        genotype = random_genotype(it, generator)
        seen |= genotype.operations()
        for kind in CELL_KINDS:
            cell = genotype.cell(kind)
            assert [sum(e.node == node for e in cell) for node in range(2, 6)] == [2, 2, 2, 2]
            assert len({(e.node, e.source) for e in cell}) == 8
            assert reaches_output(cell)
    allowed = set(it.operations) - ({ZEROISE} if it.zeroise.policy == "drop" else set())
    assert seen == allowed  # 960 draws: missing one of 12 by chance has probability below 1e-35


def test_random_genotypes_repeat_with_their_seed_and_differ_without() -> None:
    space = load_space("binas")
    drawn = [random_genotype(space, random.Random(seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_random_cells_without_a_path_are_drawn_again() -> None:
    space = tiny(**KEEP, operations=[ZEROISE, CONV], num_nodes=1, edges_per_node=1)
    drawn = [random_genotype(space, random.Random(seed)) for seed in range(40)]
    assert all(genotype.operations() == {CONV} for genotype in drawn)


def test_a_path_through_a_dead_node_is_none() -> None:
    space = tiny(**KEEP, operations=[ZEROISE, CONV], edges_per_node=1)
    drawn = [random_genotype(space, random.Random(seed)) for seed in range(100)]
    assert all(reaches_output(genotype.cell(kind)) for genotype in drawn for kind in CELL_KINDS)
    assert any(genotype.dead_nodes("normal") for genotype in drawn)


def test_random_zeroise_under_discount() -> None:
    space = tiny(zeroise={"policy": "discount", "gamma": 4}, num_nodes=8)
    generator = random.Random(0)
    ops = [edge.op for _ in range(200) for edge in random_genotype(space, generator).normal]
    # weights ¼ : 1 : 1, so one in nine; 3200 draws have a standard deviation of 0.0056
    assert ops.count(ZEROISE) / len(ops) == pytest.approx(1 / 9, abs=0.03)


def test_random_genotypes_obey_the_limit_of_skips() -> None:
    space = tiny(**DROP, max_skips=1)
    generator = random.Random(0)
    counts = [
        [sum(edge.op == "skip" for edge in genotype.cell(kind)) for kind in CELL_KINDS]
        for genotype in (random_genotype(space, generator) for _ in range(60))
    ]
    assert max(normal for normal, _ in counts) == 1 and max(reduce for _, reduce in counts) > 1


def test_limits_that_nothing_obeys_are_told() -> None:
    space = load_space({"name": "mine", "operations": ["skip"], "num_nodes": 1, "max_skips": 0})
    with pytest.raises(UserError, match=r"'mine'.*obeyed its limits"):
        random_genotype(space, random.Random(0))


def test_a_random_genotype_is_valid_when_read_again() -> None:
    genotype = random_genotype(load_space("bnas"), random.Random(0))
    assert Genotype.model_validate(genotype.model_dump(mode="json")) == genotype
