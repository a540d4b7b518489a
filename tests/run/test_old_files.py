"""Files that version 0.1.0 wrote before rooms moved: run folders, checkpoints, genotype, study, recipe.

`tests/golden/v0_1` was made by that version's commands on the recipes beside it; those called interrupted
were killed after their first checkpoint.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from binas.arch.genotype import read_genotype
from binas.ops import OPS
from binas.run.metrics import read_metrics

Runner = Callable[..., tuple[int, str, str]]
LOSSES = {"train_loss", "validation_loss"}
OLD = Path(__file__).parents[1] / "golden" / "v0_1"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with those runs and recipes in it, and the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(OLD / "folders", tmp_path / "runs")
    for recipe in OLD.glob("*.yaml"):
        shutil.copy(recipe, tmp_path)
    return tmp_path


def test_its_genotype_and_checkpoint_open(old: Path, binas: Runner) -> None:
    found = json.loads(Path("runs/tiny/genotype.json").read_text())
    assert found["version"] == 1 and found["provenance"]["recipe"]["search"]["limits"]["ops"] == 1e9
    for command in (
        ("profile", "runs/tiny/genotype.json"),
        ("profile", "runs/tiny_retrain"),
        ("draw", "runs/tiny/genotype.json", "--output", "cells.svg"),
        ("check", "runs/tiny_retrain/checkpoint.pt"),
        ("eval", "runs/tiny_retrain/checkpoint.pt"),
    ):
        status, output, error = binas(*command)
        assert status == 0 and output, (command, error)


def test_its_genotype_is_trained(old: Path, binas: Runner) -> None:
    """Without a recipe, by what the genotype says of its own."""
    words = ("--retrain.stages", "[{name: b, epochs: 1}]")
    status, _, error = binas("retrain", "runs/tiny/genotype.json", "--name", "again", *words)
    assert status == 0 and Path("runs/again/checkpoint.pt").exists(), error


@pytest.mark.parametrize(("command", "run"), [("search", "tiny"), ("retrain", "tiny_retrain")])
def test_what_was_interrupted_goes_on_to_the_same_end(
    old: Path, binas: Runner, command: str, run: str
) -> None:
    begun = read_metrics(Path(f"runs/{run}_interrupted"))
    status, output, error = binas(command, "--resume", f"runs/{run}_interrupted")
    assert status == 0 and "resumed" in output, error
    rows, whole = (read_metrics(Path(f"runs/{name}")) for name in (f"{run}_interrupted", run))
    assert 0 < len(begun) < len(rows) == len(whole)
    for row, other in zip(rows, whole, strict=True):
        for key in ("genotype", "stage", "epoch", "phase"):
            assert row.get(key) == other.get(key)
        # hosts round differently, within one they are equal bit for bit
        for key in LOSSES & set(other):
            assert row[key] == pytest.approx(other[key], rel=1e-2)
    if command == "search":
        genotypes = [
            read_genotype(Path(f"runs/{name}/genotype.json"), OPS) for name in (f"{run}_interrupted", run)
        ]
        assert genotypes[0].hash() == genotypes[1].hash()


def test_its_evolution_goes_on(old: Path, binas: Runner) -> None:
    status, _, error = binas("evolve", "--resume", "runs/evolve_interrupted")
    assert status == 0, error
    rows, whole = (read_metrics(Path(f"runs/{name}")) for name in ("evolve_interrupted", "old_evolve"))
    assert [row["genome"] for row in rows[:2]] == [row["genome"] for row in whole[:2]] and len(rows) == 4
    assert json.loads(Path("runs/evolve_interrupted/front.json").read_text())["limits"] == {"ops": 1e9}


def test_its_winners_are_recipes(old: Path, binas: Runner) -> None:
    words = ("--retrain.stages.0.epochs", "1", "--name", "winner")
    status, _, error = binas("retrain", "--config", "runs/old_evolve/winners/1.yaml", *words)
    assert status == 0, error


def test_its_recipes_are_read(old: Path, binas: Runner) -> None:
    for command, recipe in (("search", "tiny.yaml"), ("evolve", "evolve.yaml")):
        status, output, error = binas(command, recipe, "--print_config", "--name", "new")
        assert status == 0 and "limits:\n  ops: 1000000000.0" in output, error
        assert "limits.ops now" in output + error
