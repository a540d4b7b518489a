"""Every shipped recipe and search space: loads, says where it comes from, and runs through in miniature."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from binas.arch.genotype import parse_genotype
from binas.arch.kinds import genotype_network, load_any_space
from binas.arch.sample import random_genotype
from binas.arch.space import Grouping, SearchSpace
from binas.cli.main import main
from binas.config import find_file, shipped_names
from binas.recipe import Recipe, load_recipe
from binas.run.checkpoint import load_checkpoint
from tests.quick import few_of

RECIPES = shipped_names("configs")
OF_CELLS = [name for name in RECIPES if isinstance(load_recipe(name, {}).space, SearchSpace)]
"""The one of a macro space, demo_fashion, is what `make demo` runs."""
SEARCHED = [name for name in OF_CELLS if load_recipe(name, {}).model is None]
"""Those of published networks are run in tests/commands/test_models.py."""
SEARCHED_QUICK = ["demo_digits", "widen_and_squeeze"]
SPACES = shipped_names("search_spaces")
DEMO = "demo_digits"

PUBLISHED = [
    ("bnas_cifar10", "search.phases.0.epochs", 50),
    ("bnas_cifar10", "search.batch_size", 64),
    ("bnas_cifar10", "search.weights.learning_rate", 0.025),
    ("bnas_cifar10", "search.weights.weight_decay", 3e-4),
    ("bnas_cifar10", "search.alphas.learning_rate", 3e-4),
    ("bnas_cifar10", "search.alphas.betas", (0.5, 0.999)),
    ("bnas_cifar10", "search.diversity.tau", 7.7),
    ("bnas_cifar10", "search.binarize_weights", True),
    ("bnas_cifar10", "space.supernet.init_channels", 16),
    ("bnas_cifar10", "space.supernet.num_cells", 8),
    ("bnas_cifar10", "retrain.network", {"num_cells": 20, "init_channels": 36}),
    ("bnas_cifar10", "retrain.stages.0.epochs", 600),
    ("bnas_cifar10", "retrain.stages.0.optimizer.weight_decay", 3e-6),
    ("bnas_cifar10", "retrain.batch_size", 256),
    ("bnas_cifar10", "retrain.drop_path", 0.2),
    ("bats_cifar10", "search.binarize_weights", False),
    ("bats_cifar10", "search.binarize_activations", True),
    ("bats_cifar10", "search.batch_size", 96),
    ("bats_cifar10", "search.temperature.normal.start", 0.2),
    ("bats_cifar10", "search.temperature.reduce.start", 0.15),
    ("bats_cifar10", "search.alphas.learning_rate", 6e-4),
    ("bats_cifar10", "space.supernet.num_cells", 5),
    ("bats_cifar10", "search.phases.1.end.num_cells", 11),
    ("bats_cifar10", "search.phases.1.end.operations_per_edge", 5),
    ("bats_cifar10", "search.phases.3.end.num_cells", 17),
    ("bats_cifar10", "search.phases.3.end.operations_per_edge", 3),
    ("bats_cifar10", "retrain.auxiliary_weight", 0.4),
    ("bats_cifar10", "data.augmentation.cutout", 16),
    ("two_stage_reactnet", "retrain.stages.0.binarize_weights", False),
    ("two_stage_reactnet", "retrain.stages.0.optimizer.weight_decay", 1e-5),
    ("two_stage_reactnet", "retrain.stages.1.optimizer.weight_decay", 0.0),
    ("two_stage_reactnet", "retrain.stages.1.optimizer.learning_rate", 5e-4),
    ("two_stage_optimisation_study", "retrain.stages.0.weight_clipping", None),
    ("two_stage_optimisation_study", "retrain.stages.0.batch_norm_decay", 0.99),
    ("two_stage_optimisation_study", "retrain.stages.1.weight_clipping", 1.0),
    ("two_stage_optimisation_study", "retrain.stages.1.batch_norm_decay", 0.8),
    ("two_stage_optimisation_study", "retrain.validation_fraction", 0.1),
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def at(value: Any, key: str) -> Any:
    """The value at a dotted key of nested settings."""
    for part in key.split("."):
        value = value[int(part)] if part.isdigit() else getattr(value, part)
    return value


def header(name: str) -> str:
    """The comment at the head of a recipe."""
    lines = find_file(name, "configs").read_text(encoding="utf-8").splitlines()
    return "\n".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])


def miniature(recipe: Recipe) -> list[str]:
    """Overrides that keep everything in a recipe but its size, its images and its number of epochs."""
    grouping = recipe.space.grouping if isinstance(recipe.space, SearchSpace) else Grouping()
    divisor = grouping.channels_per_group or grouping.groups or 1
    channels = 4 if 4 % divisor == 0 else 12
    values: dict[str, Any] = {
        "data.name": "synthetic",
        "data.root": "null",
        "data.image_size": 8,
        "data.num_classes": 3,
        "data.images_per_class": 8,
        "space.supernet.init_channels": channels,
        "space.supernet.num_cells": 3,
        "retrain.network.init_channels": channels,
        "retrain.network.num_cells": 3,
        "search.batch_size": 12,
        "retrain.batch_size": 24,
        "tensorboard": "false",
    }
    for position in range(len(recipe.retrain.stages)):
        values[f"retrain.stages.{position}.epochs"] = 1
    for position, phase in enumerate(recipe.search.phases):
        values[f"search.phases.{position}.epochs"] = 1
        if phase.end is not None and phase.end.num_cells is not None:
            values[f"search.phases.{position}.end.num_cells"] = 4
    return flags(values)


def flags(values: Mapping[str, Any]) -> list[str]:
    """Keys and values as words of a command line."""
    return [word for key, value in values.items() for word in (f"--{key}", str(value))]


def metrics(run: Path) -> list[Mapping[str, Any]]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_all_recipes_of_the_readme_are_shipped() -> None:
    assert {name for name, _, _ in PUBLISHED} | {DEMO, "own_images", "one_stage"} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_says_what_it_is(name: str) -> None:
    recipe = load_recipe(name, {})
    assert recipe.name == name
    recipe.space.check_operations()
    assert len(header(name)) > 80, "a recipe begins with a comment on what it reproduces"
    if name != DEMO:
        assert "Source" in header(name)
        assert "Deviations" in header(name) or "deviates from nothing" in header(name)


@pytest.mark.parametrize("name", RECIPES)
def test_no_figure_is_called_ours_without_its_runs(name: str) -> None:
    expected = load_recipe(name, {}).expected
    if expected.measured == "not run by us":
        assert expected.test_accuracy_mean is None and expected.test_accuracy_std is None
        assert expected.n is None and expected.seconds is None
    else:
        assert expected.n and expected.machine and expected.seconds


@pytest.mark.parametrize(("name", "key", "value"), PUBLISHED, ids=[f"{n}-{k}" for n, k, _ in PUBLISHED])
def test_recipe_keeps_the_published_number(name: str, key: str, value: Any) -> None:
    assert at(load_recipe(name, {}), key) == value


def test_optimisation_study_switches_the_window_on_in_its_second_stage() -> None:
    vanilla, clipped = load_recipe("two_stage_optimisation_study", {}).retrain.stages
    assert vanilla.binarization is not None and clipped.binarization is not None
    for part in ("activation", "weight"):
        assert getattr(vanilla.binarization, part).options["window"] is None
        assert getattr(clipped.binarization, part).options["window"] == 1.0
    assert vanilla.optimizer.learning_rate > clipped.optimizer.learning_rate


def test_one_stage_trains_as_long_as_the_two_stages() -> None:
    one, two = (load_recipe(name, {}) for name in ("one_stage", "two_stage_reactnet"))
    assert sum(stage.epochs for stage in one.retrain.stages) == sum(s.epochs for s in two.retrain.stages)
    assert one.space == two.space and one.data == two.data


@pytest.mark.parametrize("name", SPACES)
def test_space_loads_and_its_network_runs(name: str) -> None:
    space = load_any_space(name)
    assert space.name == name
    genotype = random_genotype(space, random.Random(0), ())
    assert parse_genotype(genotype.to_json(), name).hash() == genotype.hash()
    small = {"init_channels": 48, "num_cells": 3}  # whatever the channels of a group are
    settings = space.network.model_copy(update=small) if isinstance(space, SearchSpace) else None
    network = genotype_network(genotype, 3, 4, settings=settings).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 9, 7)).shape == (1, 4)


@pytest.mark.parametrize("name", few_of(SEARCHED, SEARCHED_QUICK))
def test_recipe_runs_in_miniature(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(name, {})
    overrides = miniature(recipe)
    assert main(["search", name, "--name", "s", "--num_threads", "1", *overrides]) == 0, (
        capsys.readouterr().err
    )
    phases = [line["phase"] for line in metrics(Path("runs/s"))]
    assert phases == [phase.name for phase in recipe.search.phases]
    words = ["retrain", "--config", "runs/s/config.yaml", "--genotype", "runs/s/genotype.json", "--name", "r"]
    assert main(words) == 0, capsys.readouterr().err
    stages = [line["stage"] for line in metrics(Path("runs/r"))]
    assert stages == [stage.name for stage in recipe.retrain.stages]
    assert main(["eval", "runs/r/checkpoint.pt"]) == 0
    has_real_activations = not recipe.retrain.stages[-1].binarize_activations
    assert main(["check", "runs/r/checkpoint.pt"]) == has_real_activations, capsys.readouterr().out


def test_bats_grows_the_supernet_and_thins_its_edges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("bats_cifar10", {})
    assert main(["search", "bats_cifar10", "--name", "s", *miniature(recipe)]) == 0
    structure = load_checkpoint(tmp_path / "runs/s/checkpoint.pt", "search").structure
    assert structure["settings"]["num_cells"] == 4
    assert {len(names) for kind in structure["candidates"].values() for names in kind} == {3}
