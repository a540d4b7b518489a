"""Limits on the cost of what a search hands on: random draws, epochs of a gradient search, mistakes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from binas.arch.genotype import Genotype, read_genotype
from binas.arch.sample import random_genotype
from binas.arch.space import load_space
from binas.binarize import Binarization
from binas.errors import UserError
from binas.ops import OPS
from binas.profile import Limits, count
from binas.search.limits import CostLimits

Runner = Callable[..., tuple[int, str, str]]
SPACE = load_space({"base": "binas", "network": {"init_channels": 8, "num_cells": 3}})


def cost_limits(**limits: float) -> CostLimits:
    return CostLimits(Limits.model_validate(limits), (1, 8, 8), 10)


def draws(number: int) -> list[Genotype]:
    generator = random.Random(5)
    return [random_genotype(SPACE, generator) for _ in range(number)]


def test_the_first_draw_that_keeps_the_limits_is_taken() -> None:
    genotypes = draws(12)
    costs = [count(genotype, (8, 8), 10, 1).ops for genotype in genotypes]
    limit = min(costs)
    first = next(index for index, cost in enumerate(costs) if cost <= limit)
    assert first > 0
    assert cost_limits(ops=limit).draw(SPACE, random.Random(5), ()) == genotypes[first]
    assert cost_limits().draw(SPACE, random.Random(5), ()) == genotypes[0]


def test_excess_is_of_the_network_that_the_space_builds() -> None:
    (genotype,) = draws(1)
    profile = count(genotype, (8, 8), 10, 1, binarization=Binarization())
    limits = cost_limits(ops=profile.ops / 2, bits=2 * profile.bits)
    assert limits.excess(genotype) == {"ops": 1.0, "bits": -0.5}
    assert limits.largest_excess(genotype) == 1.0 and limits.summary(genotype) == "ops by 100.0%"
    assert cost_limits().excess(genotype) == {} and cost_limits().largest_excess(genotype) == 0.0


def test_limits_that_nothing_keeps_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("binas.search.limits.MAX_DRAWS", 5)
    with pytest.raises(UserError, match=r"limits: none of 5 .*the nearest exceeds ops by \d.*raise them"):
        cost_limits(ops=10).draw(SPACE, random.Random(5), ())


def test_a_random_search_keeps_its_limits(binas: Runner, tiny: Path) -> None:
    words = ["search", "tiny.yaml", "--search.strategy", "random"]
    assert binas(*words, "--name", "free")[0] == 0
    free = json.loads(binas("profile", "runs/free", "--json", "-")[1])["ops"]
    assert binas(*words, "--name", "bound", "--limits.ops", str(free - 1))[0] == 0
    assert json.loads(binas("profile", "runs/bound", "--json", "-")[1])["ops"] < free
    status, _, error = binas(*words, "--name", "none", "--limits.ops", "10")
    assert status == 2 and "limits" in error and "Traceback" not in error
    status, _, error = binas(*words, "--name", "wrong", "--limits.op", "10")
    assert status == 2 and "did you mean 'ops'" in error


def test_a_gradient_search_hands_on_the_epoch_nearest_to_its_limits(binas: Runner, tiny: Path) -> None:
    assert binas("search", "tiny.yaml", "--name", "free")[0] == 0
    genotypes = [read_genotype(path, OPS) for path in sorted(Path("runs/free/genotypes").iterdir())]
    sizes = json.loads(binas("profile", "runs/free", "--json", "-")[1])["layers"][0]["input_shape"]
    costs = [count(genotype, tuple(sizes[1:]), 3, sizes[0]).ops for genotype in genotypes]
    assert len(set(costs)) > 1 and costs[-1] == count(genotypes[-1], tuple(sizes[1:]), 3, sizes[0]).ops
    for name, limit in (("bound", min(costs)), ("none", min(costs) - 1)):
        status, out, error = binas("search", "tiny.yaml", "--name", name, "--limits.ops", str(limit))
        assert status == 0, error
        handed_on = read_genotype(Path(f"runs/{name}/genotype.json"), OPS)
        last = max(index for index, cost in enumerate(costs) if cost == min(costs))
        assert handed_on.hash() == genotypes[last].hash()
        assert ("no epoch's genotype kept the limits" in out) is (name == "none")
    saved = torch.load("runs/bound/checkpoint.pt", weights_only=True)["state"]
    assert min(row["excess"] for row in saved["seen"]) == 0.0
