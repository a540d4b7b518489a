"""The expected cost of a search's probabilities: equal to the count of a genotype at its one-hot ones."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

import binas
from binas.arch.discretize import one_hot
from binas.arch.genotype import CELL_KINDS
from binas.arch.sample import random_genotype
from binas.arch.space import load_space
from binas.errors import UserError
from binas.profile import LatencyMilliseconds, Limits, count
from binas.profile.latency import Entry, LatencyTable, signatures
from binas.search.config import SearchConfig
from binas.search.limits import CostLimits
from binas.search.regularizers.expected_cost import ExpectedCost
from binas.search.setting import SearchSetting
from tests.quick import few_of

SPACE = load_space(
    {"base": "binas", "num_nodes": 3, "network": {"num_cells": 4, "init_channels": 8, "reductions": [1, 3]}}
)
SETTING = SearchSetting(
    SPACE,
    SearchConfig(),
    CostLimits(Limits(), (3, 16, 16), 5),
    (3, 16, 16),
    5,
    0,
    torch.device("cpu"),
    10,
    8,
)


@pytest.mark.parametrize(
    "measure", few_of(["ops", "flops", "bops", "bits", "parameters", "packed_kb"], ["ops", "packed_kb"])
)
def test_at_one_hot_it_is_the_count(measure: str) -> None:
    regularizer = ExpectedCost(measure=measure, target=1.0)
    regularizer.start(SETTING)
    for seed in range(8):
        genotype = random_genotype(SPACE, random.Random(seed))
        if {edge.source for kind in CELL_KINDS for edge in genotype.cell(kind)} < {0, 1}:
            continue
        profile = count(genotype, (16, 16), 5, 3)
        wanted = Limits.model_validate({measure: {}}).values(profile)[measure]
        weights = one_hot(genotype, SPACE)
        weights = {kind: rows.double() for kind, rows in weights.items()}
        for rows in weights.values():
            rows[rows.sum(1) == 0, SPACE.operations.index("zeroise")] = 1.0
        assert float(regularizer.expected(weights)) == pytest.approx(wanted, rel=1e-9)


def test_a_table_of_latencies_is_a_measure(tmp_path: Path) -> None:
    genotypes = [random_genotype(SPACE, random.Random(seed)) for seed in range(3)]
    layers = {}
    for op in SPACE.operations[1:]:
        for genotype in genotypes:
            cells = {kind: tuple(edge._replace(op=op) for edge in genotype.cell(kind)) for kind in CELL_KINDS}
            counted = count(genotype.model_copy(update=cells), (16, 16), 5, 3)
            layers |= dict(signatures(counted.layers))
    entries = tuple(Entry(layer=words, ms=0.01 * len(words)) for words in layers)
    LatencyTable(device="made up", unit="ms", entries=entries).write(tmp_path / "t.yaml")
    regularizer = ExpectedCost("latency_ms", 1.0, options={"table": tmp_path / "t.yaml"})
    regularizer.start(SETTING)
    weights = {kind: rows.double() for kind, rows in one_hot(genotypes[0], SPACE).items()}
    for rows in weights.values():
        rows[rows.sum(1) == 0, 0] = 1.0
    wanted = LatencyMilliseconds(tmp_path / "t.yaml")(None, count(genotypes[0], (16, 16), 5, 3))  # type: ignore[arg-type]
    assert float(regularizer.expected(weights)) == pytest.approx(wanted)


def test_its_gradient_pulls_towards_what_is_cheap() -> None:
    regularizer = ExpectedCost()
    regularizer.start(SETTING)
    alphas = {kind: torch.zeros(rows.shape, requires_grad=True) for kind, rows in regularizer.costs.items()}
    before = None
    for _ in range(40):
        expected = regularizer.expected({kind: rows.softmax(1) for kind, rows in alphas.items()})
        before = float(expected.detach()) if before is None else before
        gradients = torch.autograd.grad(expected / before, list(alphas.values()))
        with torch.no_grad():
            for rows, gradient in zip(alphas.values(), gradients, strict=True):
                rows -= 5 * gradient.sign() * 0.1
    assert regularizer.target == pytest.approx(before / 2)
    cheapest = min(
        count(random_genotype(SPACE, random.Random(seed)), (16, 16), 5, 3).ops for seed in range(30)
    )
    assert float(expected.detach()) < min(0.8 * before, cheapest)
    dearest = regularizer.costs["normal"][0].argmax()
    assert alphas["normal"][0, dearest] < 0


@pytest.mark.slow
def test_a_search_with_it_finds_what_costs_less() -> None:
    data = binas.open_data("synthetic", images_per_class=16, image_size=(16, 16), channels=3)
    space = {
        "base": "binas",
        "num_nodes": 2,
        "supernet": {"num_cells": 2, "init_channels": 4, "reductions": [1]},
    }
    found = {}
    for weight in (0.0, 30.0):
        config = {
            "batch_size": 16,
            "phases": [{"epochs": 4}],
            "alphas": {"name": "adam", "learning_rate": 0.2},
            "regularizers": [{"name": "expected_cost", "measure": "ops", "target": 1.0, "weight": weight}],
        }
        result = binas.run_search(space, data, config=config, seed=1)
        found[weight] = count(result.genotype, (16, 16), 4, 3).ops
        if weight:
            costs = [row["expected_ops"] for row in result.history if "expected_ops" in row]
            assert costs and costs[-1] < costs[0], json.dumps(result.history[0])
    assert found[30.0] < found[0.0]


def test_mistakes_are_told() -> None:
    for options, words in (
        ({"measure": "export_kb"}, "sum over layers"),
        ({"target": 0.0}, "target"),
        ({"weight": -1.0}, "weight"),
    ):
        with pytest.raises(UserError, match=words):
            ExpectedCost(**options)  # type: ignore[arg-type]
