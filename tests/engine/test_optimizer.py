"""Losses and learning-rate curves against the formulas, written in NumPy; optimizers by their names."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from binas.config import build
from binas.engine.loss import LossConfig
from binas.engine.optimizer import Curve, OptimizerConfig, set_learning_rate
from binas.errors import UserError

LOGITS = np.array([[1.5, -0.2, 0.3], [-1.0, 0.4, 2.0], [0.0, 0.0, 0.0], [0.9, 1.1, -3.0]])
LABELS = np.array([0, 1, 2, 1])


def cross_entropy(smoothing: float) -> float:
    shifted = LOGITS - np.log(np.exp(LOGITS).sum(axis=1, keepdims=True))
    targets = np.full(LOGITS.shape, smoothing / 3)
    targets[np.arange(4), LABELS] += 1 - smoothing
    return float(-(targets * shifted).sum(axis=1).mean())


def squared_hinge() -> float:
    signs = -np.ones(LOGITS.shape)
    signs[np.arange(4), LABELS] = 1
    return float((np.maximum(0, 1 - signs * LOGITS) ** 2).mean())


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LossConfig(), cross_entropy(0.0)),
        (LossConfig(label_smoothing=0.1), cross_entropy(0.1)),
        (LossConfig(name="squared_hinge"), squared_hinge()),
    ],
    ids=["cross_entropy", "smoothed", "squared_hinge"],
)
def test_losses(config: LossConfig, expected: float) -> None:
    found = config(torch.from_numpy(LOGITS), torch.from_numpy(LABELS))
    assert float(found) == pytest.approx(expected, rel=1e-12)  # sums in another order


@pytest.mark.parametrize(
    ("shape", "final", "expected"),
    [
        ("constant", 0.0, [1.0, 1.0, 1.0]),
        ("linear", 0.2, [1.0, 0.6, 0.2]),
        ("cosine", 0.2, [1.0, 0.6, 0.2]),
        ("exponential", 0.01, [1.0, 0.1, 0.01]),
        ("exponential", 0.0, [1.0, math.sqrt(1e-3), 1e-3]),
    ],
)
def test_curves_at_start_middle_and_end(shape: str, final: float, expected: list[float]) -> None:
    curve = build(Curve, {"shape": shape, "final": final}, "test")
    assert [curve.factor(part) for part in (0.0, 0.5, 1.0)] == pytest.approx(expected)


def test_steps_stand_at_their_places() -> None:
    curve = build(Curve, {"shape": "steps", "at": [0.5333, 0.8], "by": 0.3}, "test")
    epochs = [39.99 / 75, 40 / 75, 60 / 75, 1.0]  # the rate falls with the first step of epoch 40
    assert [curve.factor(part) for part in epochs] == pytest.approx([1.0, 0.3, 0.09, 0.09])


@pytest.mark.parametrize("wrong", [{"shape": "steps"}, {"at": [0.5]}, {"shape": "steps", "at": [1.0]}])
def test_steps_without_places_are_an_error(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError, match="at"):
        build(Curve, wrong, "test")


def test_cosine_at_a_quarter() -> None:
    assert Curve().factor(0.25) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert Curve().factor(7.0) == Curve().factor(1.0)  # beyond the end stays at the end


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop", "adagrad", "adadelta"])
def test_every_optimizer_moves_a_parameter(name: str) -> None:
    parameter = nn.Parameter(torch.ones(3))
    config = build(OptimizerConfig, {"name": name, "learning_rate": 0.5, "weight_decay": 0.25}, "test")
    optimizer = config.build([parameter])
    assert type(optimizer).__name__.lower() == name
    assert optimizer.param_groups[0]["weight_decay"] == 0.25
    set_learning_rate(optimizer, 0.125)
    assert optimizer.param_groups[0]["lr"] == 0.125
    parameter.sum().backward()
    optimizer.step()
    assert bool((parameter < 1).all())


def test_hyper_parameters_arrive() -> None:
    parameter = nn.Parameter(torch.ones(1))
    sgd = OptimizerConfig(name="sgd", momentum=0.7, nesterov=True).build([parameter])
    assert (sgd.param_groups[0]["momentum"], sgd.param_groups[0]["nesterov"]) == (0.7, True)
    adam = OptimizerConfig(betas=(0.5, 0.999)).build([parameter])
    assert adam.param_groups[0]["betas"] == (0.5, 0.999)


def test_an_unknown_optimizer_is_told() -> None:
    with pytest.raises(UserError, match=r"here: name: Input should be 'sgd', 'adam'"):
        build(OptimizerConfig, {"name": "adamm"}, "here")
