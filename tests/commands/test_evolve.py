"""`binas evolve` as a person runs it: fronts, winners that retrain takes, killed and resumed, shared."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from binas.config import read_mapping
from binas.run.metrics import read_metrics

RECIPE = """\
name: tiny
num_threads: 1
tensorboard: false
data: {name: digits, subset: 120}
model: {name: vgg_small, width: 0.0625}
evolve:
  evaluations: 8
  population: 3
  training: {stages: [{name: fully_binary, epochs: 1, optimizer: {learning_rate: 3e-3}}]}
  width: {ratios: [0.5, 1, 2]}
retrain:
  stages: [{name: fully_binary, epochs: 1}]
"""
TRAINING = "  training: {stages: [{name: fully_binary, epochs: 1, optimizer: {learning_rate: 3e-3}}]}\n"
Runner = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    return tmp_path


def found(run: Path) -> dict[str, Any]:
    """A run's front, less the names of its study."""
    document: dict[str, Any] = json.loads((run / "front.json").read_text())
    return {key: value for key, value in document.items() if key != "study"}


def comparable(run: Path) -> list[dict[str, Any]]:
    """A run's log without times."""
    return [{k: v for k, v in line.items() if not k.startswith("time")} for line in read_metrics(run)]


def test_a_run_from_recipe_to_retrained_winner(here: Path, binas: Runner) -> None:
    status, out, error = binas("evolve", "tiny.yaml", "--tensorboard", "true")
    assert status == 0, error
    lines = [line for line in out.splitlines() if line.startswith("candidate ")]
    assert len(lines) == 10, "8 candidates, then ×1 and ×2 everywhere"
    words = ("generation 0", "best feasible", "hypervolume", "evaluations/min", "left")
    assert all(word in lines[0] for word in words)
    run = here / "runs" / "tiny"
    document = json.loads((run / "front.json").read_text())
    assert document["evaluations"] == 8 and len(document["references"]) == 2
    assert [row["uniform"] for row in document["references"]] == ["×1", "×2"]
    front = document["front"]
    for better, cheaper in pairwise(front):
        assert better["accuracy"] > cheaper["accuracy"] and better["ops"] > cheaper["ops"]
    assert document["generations"][-1]["hypervolume"] == document["hypervolume"]
    assert [row["generation"] for row in document["generations"]] == [0, 1, 2]
    assert len(comparable(run)) == 10
    for picture in ("front.png", "genes.png"):
        assert (run / picture).read_bytes().startswith(b"\x89PNG")
    for row in front:
        winner = read_mapping(run / row["file"])
        assert winner["model"]["ratios"] == row["genome"]
    assert f"next: binas retrain --config {front[0]['file'].join(['runs/tiny/', ''])}" in out
    status, out, error = binas("retrain", "--config", run / front[0]["file"])
    assert status == 0, error
    profile = json.loads(binas("profile", "runs/tiny_winner_1/checkpoint.pt", "--json", "-")[1])
    assert profile["ops"] == front[0]["ops"]


def test_a_genotypes_cells(here: Path, binas: Runner) -> None:
    words = ("--evolve.evaluations", "2", "--evolve.population", "2", "--evolve.references", "false")
    recipe = RECIPE.replace("model: {name: vgg_small, width: 0.0625}\n", "")
    (here / "cells.yaml").write_text(recipe + "  network: {init_channels: 8, num_cells: 3}\n")
    status, out, error = binas("evolve", "cells.yaml", "--genotype", "bnas_latest_cell", *words)
    assert status == 0, error
    row = json.loads((here / "runs/tiny/front.json").read_text())["front"][0]
    genotype = json.loads((here / "runs/tiny" / row["file"]).read_text())
    assert genotype["space"]["network"]["widths"] == row["genome"]
    assert "next: binas retrain runs/tiny/winners/1.json" in out
    status, out, error = binas("retrain", "runs/tiny/winners/1.json")
    assert status == 0, error
    profile = json.loads(binas("profile", "runs/tiny/winners/1.json", "--json", "-")[1])
    assert profile["ops"] == row["ops"]


def test_groups_on_a_shared_network_under_a_limit(here: Path, binas: Runner) -> None:
    recipe = RECIPE.replace("{name: vgg_small, width: 0.0625}", "{name: mobilenet_group, width: 0.25}")
    recipe = recipe.replace("  width: {ratios: [0.5, 1, 2]}\n", "").replace(TRAINING, "")
    (here / "groups.yaml").write_text(recipe)
    words = [
        "--evolve.search",
        "groups",
        "--evolve.evaluation",
        "shared",
        "--evolve.shared.stage.epochs",
        "1",
    ]
    words += ["--limits.ops", "16000", "--evolve.evaluations", "5", "--evolve.references", "false"]
    status, _, error = binas("evolve", "groups.yaml", *words)
    assert status == 0, error
    document = found(here / "runs/tiny")
    assert document["limits"]["ops"] == 16000
    assert all(row["ops"] <= 16000 for row in document["front"])
    assert (
        read_mapping(here / "runs/tiny/winners/1.yaml")["model"]["groups"] == document["front"][0]["genome"]
    )
    assert (here / "runs/tiny/shared_network.pt").exists()
    journal = (here / "runs/tiny/study.journal").read_text().splitlines()
    written = [json.loads(line) for line in journal]
    told = next(i for i, op in enumerate(written) if op["op_code"] == 6 and op.get("values"))
    limits = [i for i, op in enumerate(written) if any("constraints" in k for k in op.get("system_attr", {}))]
    assert limits and limits[0] < told, "limits are told before any result"


def test_an_impossible_limit_is_told_and_nothing_is_trained(here: Path, binas: Runner) -> None:
    words = ["--limits.ops", "10", "--evolve.references", "false", "--evolve.operators.draws", "2"]
    status, out, error = binas("evolve", "tiny.yaml", *words, "--evolve.evaluations", "3")
    assert status == 0, error
    assert "no candidate keeps the limits" in out and "was not trained" in out
    document = found(here / "runs/tiny")
    assert document["front"] == [] and document["infeasible"] == 3 and document["hypervolume"] == 0


def test_killed_and_resumed_equals_uninterrupted(
    here: Path, binas: Runner, spawn: Callable[..., Any]
) -> None:
    status, _, error = binas("evolve", "tiny.yaml")
    assert status == 0, error
    process = spawn(here, "evolve", "tiny.yaml", "--name", "killed")
    log = here / "runs/killed/metrics.jsonl"
    end = time.monotonic() + 300
    while not (log.exists() and log.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.005)
    process.kill()
    process.communicate()
    killed = here / "runs/killed"
    assert not (killed / "front.json").exists(), "it was killed too late for this test"
    status, _, error = binas("evolve", "--resume", "runs/killed")
    assert status == 0, error
    assert found(killed) == found(here / "runs/tiny")
    assert comparable(killed) == comparable(here / "runs/tiny")


def test_workers_share_a_file_and_each_leaves_the_whole_front(here: Path, binas: Runner) -> None:
    words = ("evolve", "tiny.yaml", "--storage", "shared.journal", "--study", "both")
    first = binas(*words, "--name", "first")
    second = binas(*words, "--name", "second")
    assert first[0] == second[0] == 0, (first[2], second[2])
    assert "all candidates are evaluated, 0 of them here" in second[1]
    assert found(here / "runs/first") == found(here / "runs/second")
    status, _, error = binas(*words, "--name", "third", "--seed", "5")
    assert status == 2 and "study 'both' in shared.journal was begun with other settings: seed" in error


def test_random_control_draws_without_parents(here: Path, binas: Runner) -> None:
    words = ("--evolve.references", "false", "--evolve.evaluations", "4")
    assert binas("evolve", "tiny.yaml", "--random", *words)[0] == 0
    assert found(here / "runs/tiny")["strategy"] == "random"
    assert ":parent:" not in (here / "runs/tiny/study.journal").read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model", "null"], "which network?"),
        (["--genotype", "bnas_latest_cell"], "two networks"),
        (["--model.name", "vgg10"], "has no option"),
        (["--evolve.evaluations", "1000"], "only 729"),
        (["--storage", "s.journal"], "with --study NAME"),
        (["--evolve.population", "1"], "evolve.population"),
    ],
)
def test_mistakes_are_told(here: Path, binas: Runner, words: list[str], told: str) -> None:
    status, _, error = binas("evolve", "tiny.yaml", *words)
    assert status == 2 and told in error, error
    assert error.count("\n") == 1


def test_help_lists_the_keys(binas: Runner) -> None:
    status, out, _ = binas("evolve", "--help")
    assert status == 0 and "--evolve.width.ratios" in out and "--storage" in out
