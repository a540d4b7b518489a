"""A key that is set and that what is chosen beside it never reads is an error with key and choice."""

from __future__ import annotations

from typing import Any

import pytest

from binas.config import shipped_names
from binas.errors import UserError
from binas.recipe import load_recipe

UNUSED: tuple[tuple[str, Any, dict[str, Any]], ...] = (
    ("search.weights.betas", [0.5, 0.9], {}),
    ("search.weights.gamma", 1e-3, {}),
    ("search.alphas.momentum", 0.5, {}),
    ("search.alphas.rate_scaling", "glorot", {}),
    ("search.learning_rate.by", 0.5, {}),
    ("search.temperature.normal.shape", "cosine", {}),
    ("search.diversity.tau", 3.0, {"search.diversity.weight": 0}),
    ("search.loss.label_smoothing", 0.1, {"search.loss.name": "squared_hinge"}),
    ("search.picture_interval", 5, {"tensorboard": False}),
    ("space.zeroise.gamma", 3.0, {"space.zeroise.policy": "drop"}),
    ("retrain.validation_images", "last", {"retrain.validation_fraction": 0}),
    ("retrain.stages.0.until_plateau", 3, {"retrain.validation_fraction": 0}),
    ("data.patch_size", 16, {}),
    ("data.num_classes", 3, {}),
    ("data.test_fraction", 0.3, {"data.name": "cifar10"}),
    ("evolve.joint", {"depths": [2]}, {}),
    ("evolve.groups", {"groups": [1, 2]}, {}),
    ("evolve.shared", {"batch_size": 8}, {}),
    ("evolve.predictor", {"repeats": 2}, {}),
    ("evolve.training", {"batch_size": 8}, {"evolve.evaluation": "shared"}),
    ("evolve.operators.swap", 0.4, {"evolve.strategy": "random"}),
    ("evolve.operators.penalty", 0.4, {}),
    (
        "evolve.shared.stage.epochs",
        3,
        {"evolve.evaluation": "shared", "evolve.shared.phases": [{"name": "all", "epochs": 1}]},
    ),
)


@pytest.mark.parametrize(("key", "value", "beside"), UNUSED, ids=[key for key, _, _ in UNUSED])
def test_it_is_refused(key: str, value: Any, beside: dict[str, Any]) -> None:
    load_recipe(None, beside)
    with pytest.raises(UserError, match=rf"{key}: .* does not use it; leave it out"):
        load_recipe(None, {**beside, key: value})


def test_shipped_recipes_set_none() -> None:
    for name in shipped_names("configs"):
        load_recipe(name, {})


def test_a_curve_without_an_end_drops_the_default_one() -> None:
    recipe = load_recipe(None, {"search.learning_rate.shape": "constant"})
    assert recipe.search.learning_rate.final == 0
    assert load_recipe(None, {"search.learning_rate.shape": "linear"}).search.learning_rate.final == 0.04
