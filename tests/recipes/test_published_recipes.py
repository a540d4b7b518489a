"""Recipes of published networks hold their papers' numbers; Real-to-Binary's three steps run as shipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from binas.engine.optimizer import Curve
from binas.recipe import load_recipe
from binas.run.metrics import read_metrics

Runner = Callable[..., tuple[int, str, str]]
STAGE = "retrain.stages.0"
PUBLISHED: list[tuple[str, dict[str, Any]]] = [
    ("xnor_alexnet_imagenet", {"retrain.batch_size": 1200, f"{STAGE}.epochs": 100}),
    (
        "bireal_resnet18_imagenet",
        {
            "retrain.batch_size": 512,
            f"{STAGE}.epochs": 256,
            f"{STAGE}.optimizer.learning_rate": 1e-3,
            f"{STAGE}.learning_rate.shape": "linear",
            f"{STAGE}.optimizer.name": "adam",
        },
    ),
    (
        "bireal_resnet18_clip_imagenet",
        {
            f"{STAGE}.real_activation": "clip",
            f"{STAGE}.binarize_weights": False,
            "retrain.stages.1.binarize_activations": True,
            "retrain.stages.1.binarize_weights": True,
        },
    ),
    (
        "bireal_resnet18_larq",
        {"retrain.batch_size": 512, f"{STAGE}.epochs": 300, f"{STAGE}.optimizer.learning_rate": 5e-3},
    ),
    (
        "resnete18_larq",
        {
            "retrain.batch_size": 1024,
            f"{STAGE}.epochs": 120,
            f"{STAGE}.optimizer.learning_rate": 4e-3,
            f"{STAGE}.optimizer.epsilon": 1e-8,
            f"{STAGE}.learning_rate.by": 0.3,
        },
    ),
    (
        "binary_densenet28_larq",
        {"retrain.batch_size": 256, f"{STAGE}.epochs": 120, f"{STAGE}.optimizer.learning_rate": 4e-3},
    ),
    (
        "binary_densenet45_larq",
        {"retrain.batch_size": 384, f"{STAGE}.epochs": 125, f"{STAGE}.optimizer.learning_rate": 8e-3},
    ),
    *(
        (
            name,
            {
                f"{STAGE}.epochs": 120,
                f"{STAGE}.optimizer.name": "radam",
                f"{STAGE}.optimizer.learning_rate": 2e-3,
                f"{STAGE}.learning_rate.shape": "cosine",
                f"{STAGE}.binarization.activation.options": {"window": 1.3},
            },
        )
        for name in ("resnete18_imagenet", "binary_densenet28_imagenet", "meliusnet22_imagenet")
    ),
    *(
        (
            name,
            {
                "retrain.batch_size": batch,
                f"{STAGE}.epochs": epochs,
                f"{STAGE}.optimizer.learning_rate": rate,
                f"{STAGE}.optimizer.weight_decay": 1e-5,
                "retrain.stages.1.optimizer.weight_decay": 0.0,
                f"{STAGE}.learning_rate.shape": "linear",
                f"{STAGE}.binarize_weights": False,
                "retrain.stages.1.binarize_weights": True,
                f"{STAGE}.teacher.torchvision": "resnet34",
                "retrain.stages.1.teacher.mode": "distribution",
            },
        )
        for name, batch, epochs, rate in (
            ("reactnet_a_imagenet", 256, 256, 5e-4),
            ("reactnet_resnet18_imagenet", 512, 128, 2.5e-3),
        )
    ),
    *(
        (
            f"real_to_binary_{name}imagenet",
            {
                f"retrain.stages.{stage}.epochs": 75,
                f"retrain.stages.{stage}.optimizer.learning_rate": rate,
                f"retrain.stages.{stage}.optimizer.weight_decay": decay,
                f"retrain.stages.{stage}.learning_rate.shape": "steps",
            },
        )
        for name, stage, rate, decay in (
            ("", 0, 1e-3, 1e-5),
            ("", 1, 2e-4, 0.0),
            ("step1_", 0, 1e-3, 1e-5),
            ("step2_", 0, 1e-3, 1e-5),
            ("step3_", 0, 2e-4, 0.0),
        )
    ),
]
STEPS = [
    ("resnete18_larq", [70, 90, 110], 0.3),
    ("binary_densenet28_larq", [100, 110], 0.1),
    ("binary_densenet45_larq", [80, 100], 0.1),
    ("real_to_binary_imagenet", [40, 60, 70], 0.1),
    ("real_to_binary_step3_imagenet", [40, 60, 70], 0.1),
]


def at(value: Any, key: str) -> Any:
    """The value at a dotted key of nested settings."""
    for part in key.split("."):
        value = value[int(part)] if part.isdigit() else getattr(value, part)
    return value


@pytest.mark.parametrize(("name", "facts"), PUBLISHED, ids=[name for name, _ in PUBLISHED])
def test_numbers_of_the_papers(name: str, facts: dict[str, Any]) -> None:
    recipe = load_recipe(name, {})
    assert {key: at(recipe, key) for key in facts} == facts


@pytest.mark.parametrize(("name", "epochs", "by"), STEPS)
def test_the_rate_falls_with_the_first_step_of_those_epochs(name: str, epochs: list[int], by: float) -> None:
    stage = load_recipe(name, {}).retrain.stages[-1]
    factors = [curve_at(stage.learning_rate, epoch, stage.epochs) for epoch in range(stage.epochs)]
    expected = [by ** sum(epoch >= place for place in epochs) for epoch in range(stage.epochs)]
    assert factors == pytest.approx(expected)


def curve_at(curve: Curve, epoch: int, epochs: int) -> float:
    """The factor at the first of many steps of an epoch, which the last of the one before has not got."""
    if epoch:
        assert curve.factor((epoch - 0.01) / epochs) >= curve.factor(epoch / epochs)
        assert curve.factor((epoch - 0.01) / epochs) == curve.factor((epoch - 1) / epochs)
    return curve.factor(epoch / epochs)


def test_the_steps_of_real_to_binary_follow_one_another(
    binas: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = [
        "--data",
        "{name: synthetic, image_size: 16, images_per_class: 12, num_classes: 3}",
        "--retrain.batch_size",
        "16",
        "--retrain.validation_fraction",
        "0",
        f"--{STAGE}.epochs",
        "1",
        "--model.width",
        "0.125",
        "--tensorboard",
        "false",
        "--num_threads",
        "1",
    ]
    step = "real_to_binary_step{}_imagenet"
    # the first one's teacher is torchvision's, whose weights are not here
    status, output, error = binas("retrain", "--config", step.format(1), *small, f"--{STAGE}.teacher", "null")
    assert status == 0, error
    assert "clip activations, real weights" in output
    for number in (2, 3):
        status, output, error = binas("retrain", "--config", step.format(number), *small)
        assert status == 0, error
        assert f"runs/{step.format(number - 1)}/checkpoint.pt" in output  # whose weights it starts with
        (line,) = read_metrics(Path("runs") / step.format(number))
        assert line["train_loss"] > 0
    assert binas("check", f"runs/{step.format(3)}/checkpoint.pt")[0] == 0
