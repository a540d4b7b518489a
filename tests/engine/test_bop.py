"""Bop, the study's optimizers, rates that weight binarizers ask for, and the ratio of flipped weights."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from binas.arch.sample import random_genotype
from binas.arch.space import load_space
from binas.binarize import Binarization, BinaryConv2d, binary_convolutions
from binas.config import build
from binas.data.config import DataConfig
from binas.data.open_data import Data, open_data
from binas.engine.optimizer import OptimizerConfig, set_learning_rate
from binas.errors import UserError
from binas.run.checkpoint import load_checkpoint
from binas.run.folder import RunFolder
from binas.run.metrics import read_metrics
from binas.run.optimizer_state import load_optimizer_state, optimizer_state
from binas.train.flips import flip_ratio, weight_codes
from binas.train.model_file import load_model
from binas.train.retrain import Retraining
from binas.train.stage import RetrainConfig

NETWORK = {"init_channels": 4, "num_cells": 2, "reductions": [1], "stem_multiplier": 1}
SPACE = load_space(
    {"base": "binas", "operations": ["skip", "binary_conv_3x3"], "num_nodes": 2, "network": NETWORK}
)
BOP = Binarization.model_validate({"weight": {"name": "bop"}})
STAGE: dict[str, Any] = {
    "name": "flips",
    "binarization": {"weight": {"name": "bop"}},
    "optimizer": {"name": "bop", "threshold": 1e-5, "gamma": 0.05, "learning_rate": 0.01},
}


@pytest.fixture(scope="module")
def data() -> Data:
    return open_data(DataConfig(name="synthetic", images_per_class=12, num_classes=3))


def retraining(data: Data, *stages: dict[str, Any]) -> Retraining:
    config = build(RetrainConfig, {"stages": list(stages), "batch_size": 8}, "test")
    return Retraining(
        random_genotype(SPACE, random.Random(3)),
        config,
        data,
        seed=0,
        device=torch.device("cpu"),
        tensorboard=False,
    )


def run(work: Retraining, path: Path) -> dict[str, Any]:
    with RunFolder.create(path, "retrain", overwrite=True) as folder:
        return work.run(folder)


def test_bop_flips_as_the_algorithm_says() -> None:
    conv = BinaryConv2d(3, 4, 3, binarizations=(BOP,)).double()
    config = OptimizerConfig(
        name="bop", gamma=0.3, threshold=0.2, learning_rate=0.5, others="sgd", momentum=0
    )
    optimizer = config.build_for(conv)
    weight = conv.weight.detach().numpy().copy()
    assert set(np.unique(weight)) == {-1.0, 1.0}
    average = np.zeros_like(weight)
    draws = np.random.default_rng(0)
    flips = 0
    for _ in range(12):
        gradient = draws.normal(size=weight.shape)
        average = 0.7 * average + 0.3 * gradient
        for place in np.ndindex(*weight.shape):
            m, w = average[place], weight[place]
            if abs(m) >= 0.2 and (m > 0) == (w > 0):
                weight[place] = -w
                flips += 1
        conv.weight.grad = torch.from_numpy(gradient)
        optimizer.step()
        assert np.array_equal(conv.weight.detach().numpy(), weight)
    assert flips > 50


def test_the_other_parameters_of_bop_have_their_own_optimizer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(BinaryConv2d(3, 4, 3, binarizations=(BOP,)), nn.BatchNorm2d(4))
    alone = nn.BatchNorm2d(4)
    optimizer = OptimizerConfig(name="bop", learning_rate=0.1).build_for(model)
    plain = OptimizerConfig(name="adam", learning_rate=0.1).build(alone.parameters())
    for step in range(3):
        for mine, other in zip(model[1].parameters(), alone.parameters(), strict=True):
            mine.grad = torch.linspace(-1, 1, 4) * (step + 1)
            other.grad = mine.grad.clone()
        optimizer.step()
        plain.step()
    for mine, other in zip(model[1].parameters(), alone.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_gamma_follows_the_course_of_the_learning_rate() -> None:
    model = nn.Sequential(BinaryConv2d(3, 4, 3, binarizations=(BOP,)), nn.BatchNorm2d(4))
    optimizer = OptimizerConfig(name="bop", gamma=1e-4, learning_rate=0.01).build_for(model)
    set_learning_rate(optimizer, 0.001)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.001, 1e-5])


def test_the_state_of_bop_goes_on_from_a_checkpoint() -> None:
    def model() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(BinaryConv2d(3, 4, 3, binarizations=(BOP,)), nn.BatchNorm2d(4))

    def steps(net: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
        for seed in seeds:
            for parameter in net.parameters():
                draws = torch.Generator().manual_seed(seed)
                parameter.grad = torch.randn(parameter.shape, generator=draws)
            optimizer.step()

    config = OptimizerConfig(name="bop", gamma=0.2, threshold=0.3, learning_rate=0.1)
    whole = model()
    steps(whole, config.build_for(whole), range(10))
    cut = model()
    first = config.build_for(cut)
    steps(cut, first, range(4))
    saved = optimizer_state(first, dict(cut.named_parameters()))
    second = config.build_for(cut)
    load_optimizer_state(second, saved, dict(cut.named_parameters()))
    steps(cut, second, range(4, 10))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), cut.parameters(), strict=True))


def test_bop_trains_a_network_resumes_and_logs_flips(data: Data, tmp_path: Path) -> None:
    real = {"name": "real", "epochs": 1, "binarize_weights": False}
    work = retraining(data, real, {**STAGE, "epochs": 4})
    run(work, tmp_path / "whole")
    lines = read_metrics(tmp_path / "whole")
    assert "flip_ratio" not in lines[0]
    ratios = [line["flip_ratio"] for line in lines[1:]]
    assert 0 < max(ratios) < 1
    for _, conv in binary_convolutions(work.network):
        assert set(conv.weight.unique().tolist()) == {-1.0, 1.0}
    network, _, _ = load_model(tmp_path / "whole/checkpoint.pt", ())
    for _, conv in binary_convolutions(network):
        assert torch.equal(conv.weight_binarizer(conv.weight)[0][0], conv.weight)

    class Stop(Exception):
        pass

    cut = retraining(data, real, {**STAGE, "epochs": 4})
    save = cut._save

    def stopping(path: Path) -> None:
        save(path)
        if cut.position.step == 3:
            raise Stop

    cut._save = stopping  # type: ignore[method-assign]
    with pytest.raises(Stop):
        run(cut, tmp_path / "cut")
    with RunFolder.resume(tmp_path / "cut", "retrain") as folder:
        retraining(data, real, {**STAGE, "epochs": 4}).run(folder)
    states = [load_checkpoint(tmp_path / name / "checkpoint.pt").state for name in ("whole", "cut")]
    assert all(torch.equal(value, states[1]["model"][name]) for name, value in states[0]["model"].items())
    means = [
        {n: s["mean"] for n, s in state["optimizer"]["state"].items() if "mean" in s} for state in states
    ]
    assert means[0] and all(torch.equal(value, means[1][name]) for name, value in means[0].items())
    assert [line["flip_ratio"] for line in read_metrics(tmp_path / "cut")[1:]] == ratios


def test_bop_needs_its_own_binarizer() -> None:
    config = OptimizerConfig(name="bop")
    with pytest.raises(UserError, match=r"'0' binarizes latent weights; .*weight: \{name: bop\}"):
        config.build_for(nn.Sequential(BinaryConv2d(3, 4, 3)))
    conv = BinaryConv2d(3, 4, 3, binarizations=(BOP,))
    conv.binarize_weights = False
    with pytest.raises(UserError, match="no binary weights to flip"):
        config.build_for(conv)
    with pytest.raises(UserError, match="flips the weights of binary convolutions and nothing else"):
        config.build([nn.Parameter(torch.ones(2))])


@pytest.mark.parametrize(
    "name", ["sgd", "momentum", "nesterov", "adagrad", "adadelta", "rmsprop", "adam", "radam"]
)
def test_the_studys_optimizers_step_as_their_formulas(name: str) -> None:
    gradients = np.random.default_rng(1).normal(size=(7, 5))
    parameter = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    settings = {
        "name": name,
        "learning_rate": 0.1,
        "momentum": 0.9 if "n" in name[:2] or name == "momentum" else 0,
    }
    optimizer = build(OptimizerConfig, settings, "test").build([parameter])
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
    assert parameter.detach().numpy() == pytest.approx(FORMULAS[name](gradients), rel=1e-9, abs=1e-12)


def _momentum(gradients: Any, decay: float, nesterov: bool) -> Any:
    x, v = np.zeros(5), np.zeros(5)
    for g in gradients:
        v = decay * v + g
        x = x - 0.1 * (g + decay * v if nesterov else v)
    return x


def _adagrad(gradients: Any) -> Any:
    x, s = np.zeros(5), np.zeros(5)
    for g in gradients:
        s = s + g**2
        x = x - 0.1 * g / (np.sqrt(s) + 1e-10)
    return x


def _rmsprop(gradients: Any) -> Any:
    x, s = np.zeros(5), np.zeros(5)
    for g in gradients:
        s = 0.99 * s + 0.01 * g**2
        x = x - 0.1 * g / (np.sqrt(s) + 1e-8)
    return x


def _adadelta(gradients: Any) -> Any:
    x, s, d = np.zeros(5), np.zeros(5), np.zeros(5)
    for g in gradients:
        s = 0.9 * s + 0.1 * g**2
        change = np.sqrt(d + 1e-6) / np.sqrt(s + 1e-6) * g
        d = 0.9 * d + 0.1 * change**2
        x = x - 0.1 * change
    return x


def _adam(gradients: Any, rectified: bool = False) -> Any:
    x, m, v = np.zeros(5), np.zeros(5), np.zeros(5)
    longest = 2 / (1 - 0.999) - 1
    for t, g in enumerate(gradients, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        mean, root = m / (1 - 0.9**t), np.sqrt(v / (1 - 0.999**t))
        length = longest - 2 * t * 0.999**t / (1 - 0.999**t)
        if not rectified:
            x = x - 0.1 * mean / (root + 1e-8)
        elif length > 5:
            part = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            x = x - 0.1 * np.sqrt(part) * mean / (root + 1e-8 / np.sqrt(1 - 0.999**t))
        else:
            x = x - 0.1 * mean
    return x


FORMULAS: dict[str, Any] = {
    "sgd": lambda g: -0.1 * g.sum(axis=0),
    "momentum": lambda g: _momentum(g, 0.9, nesterov=False),
    "nesterov": lambda g: _momentum(g, 0.9, nesterov=True),
    "adagrad": _adagrad,
    "rmsprop": _rmsprop,
    "adadelta": _adadelta,
    "adam": _adam,
    "radam": lambda g: _adam(g, rectified=True),
}


def test_nesterov_without_momentum_is_told() -> None:
    with pytest.raises(UserError, match="stage: nesterov needs a momentum above 0"):
        build(OptimizerConfig, {"name": "nesterov", "momentum": 0}, "stage")


def test_a_binarizers_scale_of_the_learning_rate_is_kept() -> None:
    weight = {"name": "binary_connect", "rate": "glorot"}
    scaled = Binarization.model_validate({"weight": weight})
    model = nn.Sequential(BinaryConv2d(2, 4, 3, binarizations=(scaled,)), nn.BatchNorm2d(4))
    optimizer = OptimizerConfig(name="sgd", momentum=0, learning_rate=0.1).build_for(model)
    set_learning_rate(optimizer, 0.01)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    after = [parameter.detach() for parameter in model.parameters()]
    moved = [float((old - new).mean()) for old, new in zip(before, after, strict=True)]
    glorot = 1 / np.sqrt(1.5 / (2 * 9 + 4 * 9))
    assert moved == pytest.approx([0.01 * glorot, 0.01, 0.01], rel=1e-4)  # differences of float32 weights


def test_flips_are_counted() -> None:
    conv = BinaryConv2d(2, 3, 1, binarizations=(Binarization.model_validate({"weight": {"name": "bnn"}}),))
    before = weight_codes(conv)
    with torch.no_grad():
        conv.weight.view(-1)[:2] *= -1
    assert flip_ratio(before, weight_codes(conv)) == pytest.approx(2 / 6)
    conv.binarize_weights = False
    assert flip_ratio(before, weight_codes(conv)) is None
