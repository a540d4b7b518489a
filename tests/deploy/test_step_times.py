"""Steps of programs timed into a table, and what it predicts."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from binas.arch.kinds import genotype_network, load_any_space
from binas.arch.sample import random_genotype
from binas.deploy.compiler import find_compiler
from binas.deploy.export import export_module
from binas.deploy.footprint import as_if_trained
from binas.deploy.model_file import Model
from binas.deploy.step_times import StepTimes, fill, measured, signatures
from binas.errors import UserError
from binas.profile import Limits, count
from binas.profile.latency import LatencyTable

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C compiler here")
SPACE = {"base": "binas_device", "num_nodes": 2, "network": {"init_channels": 16, "num_cells": 3}}


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BINAS_CACHE", str(tmp_path_factory.mktemp("steps")))
        yield


def model_of(seed: int) -> Model:
    genotype = random_genotype(load_any_space(SPACE), random.Random(seed))
    return export_module(as_if_trained(genotype_network(genotype, 1, 4)), torch.zeros(1, 1, 8, 8))


def test_every_step_is_timed_and_a_program_is_their_sum(tmp_path: Path) -> None:
    model = model_of(0)
    steps, times = signatures(model.graph), measured(model)
    assert set(steps) == set(times) and all(ms >= 0 for ms in times.values()) and sum(times.values()) > 0
    table = StepTimes(tmp_path / "t.yaml", "here")
    assert table.missing(model.graph) == sorted(set(steps))
    table.add(times)
    assert table.missing(model.graph) == []
    assert table.predicted(steps) == pytest.approx(sum(times[step] for step in steps))
    # what was measured stays as it was
    table.add(dict.fromkeys(times, 9.0))
    read = StepTimes(tmp_path / "t.yaml")
    assert read.times == pytest.approx(times, abs=1e-6) and read.device == "here"
    with pytest.raises(UserError, match="lacks the step 'a step'"):
        read.predicted(["a step"])
    with pytest.raises(UserError, match="two machines"):
        StepTimes(tmp_path / "t.yaml", "elsewhere")


def test_equal_steps_of_two_networks_are_one() -> None:
    one, two = (set(signatures(model_of(seed).graph)) for seed in (0, 1))
    assert one & two and one - two
    assert signatures(model_of(0).graph) == signatures(model_of(0).graph)


def test_it_ends_where_nothing_is_new(tmp_path: Path) -> None:
    table, model, seen = StepTimes(tmp_path / "t.yaml", "here"), model_of(0), []
    looked = fill(table, [lambda: model] * 9, patience=2, told=lambda *numbers: seen.append(numbers))
    assert looked == 3 and [new for _, new, _ in seen] == [len(table.times), 0, 0]


def test_the_measure_is_the_sum_of_its_steps(tmp_path: Path) -> None:
    genotype = random_genotype(load_any_space(SPACE), random.Random(3))
    model = export_module(as_if_trained(genotype_network(genotype, 1, 4)), torch.zeros(1, 1, 8, 8))
    path = tmp_path / "t.yaml"
    StepTimes(path, "made up").add(dict.fromkeys(signatures(model.graph), 0.5))
    limits = Limits.model_validate({"program_ms": {"table": path, "at_most": 1e9}})
    values = limits.values(count(genotype, (8, 8), 4, 1), lambda: genotype_network(genotype, 1, 4))
    assert values == {"program_ms": 0.5 * len(signatures(model.graph))}
    assert limits.about()["program_ms"]["device"] == "made up"
    other = random_genotype(load_any_space(SPACE), random.Random(4))
    with pytest.raises(UserError, match="lacks the step") as told:
        limits.values(count(other, (8, 8), 4, 1), lambda: genotype_network(other, 1, 4))
    assert told.value.hint == "latency"


@pytest.mark.slow
def test_the_command_takes_spaces_genotypes_and_networks(
    binas: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("space.yaml").write_text(
        "base: binas_device\nnum_nodes: 2\nnetwork: {init_channels: 16, num_cells: 2}\n", encoding="utf-8"
    )
    small = ("--image-size", "8", "--in-channels", "1")
    status, output, error = binas("latency", "space.yaml", *small, "--genomes", "2")
    assert status == 0 and "from 2 networks" in output and "--limits.program_ms.table" in output, error
    before = LatencyTable.read(Path("space_steps.yaml"))
    status, output, _ = binas("latency", "space.yaml", *small, "--genomes", "2")
    assert status == 0 and "0 new steps" in output and LatencyTable.read(Path("space_steps.yaml")) == before
    status, output, error = binas("latency", "resnet20", "--image-size", "32", "--output", "r.yaml")
    assert status == 0 and "predicted for resnet20" in output, error
    assert binas("latency", "digits_searched", *small, "-o", "g.json")[0] == 0
    for words, told in (
        (("space.yaml", "--genomes", "0"), "from 1 on"),
        (("space.yaml", "--seed", "1", "--evolve.population", "3"), "recipe only"),
        (("evolve_digits", "--image-size", "8"), "recipe has its own"),
        ((), "of what?"),
    ):
        status, _, error = binas("latency", *words)
        assert status == 2 and told in error, (words, error)
