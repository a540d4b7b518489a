"""Recipes: shipped ones load, overrides reach into defaults, plug-ins lie beside their file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from binas.binarize import BinarizerSpec
from binas.config import dump, shipped_names
from binas.errors import UserError
from binas.recipe import Recipe, load_recipe


@pytest.mark.parametrize("name", shipped_names("configs"))
def test_shipped_recipes_load_and_say_what_to_expect(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, {})
    recipe.space.check_operations()
    (tmp_path / "again.yaml").write_text(dump(recipe))
    assert load_recipe(str(tmp_path / "again.yaml"), {}) == recipe
    if recipe.expected.measured == "by us":
        assert recipe.expected.n and recipe.expected.machine and recipe.expected.test_accuracy_mean


def test_the_default_recipe_is_that_of_the_model() -> None:
    assert load_recipe(None, {}) == Recipe()
    assert load_recipe(None, {}).space.name == "binas"


@pytest.mark.parametrize(
    ("overrides", "path", "expected"),
    [
        ({"space.supernet.num_cells": 3}, ["space", "supernet", "num_cells"], 3),
        ({"space": "bnas"}, ["space", "name"], "bnas"),
        ({"space": "bnas", "space.num_nodes": 3}, ["space", "num_nodes"], 3),
        ({"retrain.stages.1.epochs": 3}, ["retrain", "stages", 1, "epochs"], 3),
        ({"retrain.stages.0.epochs": 3, "retrain.stages.1.epochs": 4}, ["retrain", "stages", 1, "epochs"], 4),
        ({"search.phases.0.end": None}, ["search", "phases", 0, "end"], None),
        ({"search.alphas.betas.0": 0.4}, ["search", "alphas", "betas"], [0.4, 0.999]),
    ],
    ids=str,
)
def test_overrides_reach_into_defaults(overrides: dict[str, Any], path: list[Any], expected: Any) -> None:
    value = load_recipe(None, overrides).model_dump(mode="json")
    for part in path:
        value = value[part]
    assert value == expected


def test_a_list_of_the_base_space_can_be_changed_in_place() -> None:
    recipe = load_recipe(None, {"space.operations.0": "binary_separable_conv_3x3"})
    assert recipe.space.operations[:2] == ("binary_separable_conv_3x3", "skip")
    assert len(recipe.space.operations) == 12
    with pytest.raises(UserError, match="stands twice"):
        load_recipe(None, {"space.operations.0": "max_pool_3x3"})


def test_plugins_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    (folder / "mine.py").write_text("")
    (tmp_path / "other.py").write_text("")
    (folder / "r.yaml").write_text("plugins: [mine.py, other.py]\n")
    assert load_recipe("deep/er/r.yaml", {}).plugins == ("deep/er/mine.py", "other.py")


@pytest.mark.parametrize("name", ["a", "a/b", "a-1.2/b_c"])
def test_names_of_runs(name: str) -> None:
    assert load_recipe(None, {"name": name}).name == name


@pytest.mark.parametrize("name", ["", "..", "a/..", "../a", "/a", "a/", "a b", ".hidden"])
def test_names_that_lead_elsewhere(name: str) -> None:
    with pytest.raises(UserError, match=r"defaults: name: "):
        load_recipe(None, {"name": name})


def test_a_recipe_starts_from_what_a_genotype_recorded() -> None:
    start = {"name": "searched", "seed": 7, "search": {"batch_size": 3}}
    recipe = load_recipe(None, {"seed": 8}, start=start)
    assert (recipe.name, recipe.seed, recipe.search.batch_size) == ("searched", 8, 3)
    with pytest.raises(UserError, match="unknown key 'sed'"):
        load_recipe(None, {}, start={"sed": 1})


@pytest.mark.parametrize("given", ["rsign", {"name": "rsign"}])
def test_a_binarizer_is_a_word_or_a_mapping(given: Any) -> None:
    recipe = load_recipe("demo_digits", {"space.binarization.activation": given})
    assert recipe.space.binarization.activation == BinarizerSpec(name="rsign")


def test_a_binarizer_that_is_a_word_takes_options() -> None:
    inside = {"space.binarization.activation": "sign", "space.binarization.activation.window": 1.5}
    activation = load_recipe("demo_digits", inside).space.binarization.activation
    assert (activation.name, activation.options) == ("sign", {"window": 1.5})
