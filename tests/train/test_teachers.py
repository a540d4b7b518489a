"""Teachers: their losses against NumPy, what a few steps do, what goes into a checkpoint, and mistakes."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from binas.arch.sample import random_genotype
from binas.arch.space import load_space
from binas.config import build
from binas.data.config import DataConfig
from binas.data.open_data import Data, open_data
from binas.errors import UserError
from binas.run.checkpoint import load_checkpoint
from binas.run.folder import RunFolder
from binas.run.metrics import read_metrics
from binas.train.model_file import load_model
from binas.train.objective import Objective
from binas.train.parts.compactness import Centres, Compactness
from binas.train.parts.distillation import (
    FeatureTransfer,
    TeacherConfig,
    attention_map,
    divergence,
    soft_cross_entropy,
    transfer_loss,
)
from binas.train.parts.teacher import Renormalized, Taught
from binas.train.retrain import Retraining
from binas.train.stage import RetrainConfig, StageConfig

Array = npt.NDArray[np.float64]
Runner = Callable[..., tuple[int, str, str]]
NETWORK = {"init_channels": 4, "num_cells": 2, "reductions": [1], "stem_multiplier": 1}
SPACE = load_space(
    {"base": "binas", "operations": ["skip", "binary_conv_3x3"], "num_nodes": 2, "network": NETWORK}
)
REAL = {"name": "real", "epochs": 3, "binarize_activations": False, "binarize_weights": False}
DRAWS = np.random.default_rng(4)
STUDENT, TEACHER = DRAWS.normal(size=(5, 3)), 2 * DRAWS.normal(size=(5, 3))
LABELS = np.array([0, 2, 1, 1, 0])


@pytest.fixture(scope="module")
def data() -> Data:
    return open_data(DataConfig(name="synthetic", images_per_class=12, num_classes=3))


def retraining(data: Data, *stages: dict[str, Any]) -> Retraining:
    config = build(RetrainConfig, {"stages": list(stages), "batch_size": 8}, "test")
    genotype = random_genotype(SPACE, random.Random(3))
    return Retraining(genotype, config, data, seed=0, device=torch.device("cpu"), tensorboard=False)


def run(work: Retraining, path: Path) -> dict[str, Any]:
    with RunFolder.create(path, "retrain", overwrite=True) as folder:
        return work.run(folder)


@pytest.fixture(scope="module")
def real(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a real-valued network of the same genotype."""
    folder = tmp_path_factory.mktemp("teacher") / "real"
    run(retraining(data, REAL), folder)
    return folder / "checkpoint.pt"


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_distribution_loss_is_the_papers(temperature: float) -> None:
    p_real, p_binary = softmax(TEACHER / temperature), softmax(STUDENT / temperature)
    expected = -(p_real * np.log(p_binary / p_real)).sum() / len(STUDENT) * temperature**2
    logits = torch.tensor(STUDENT, requires_grad=True)
    teacher = torch.tensor(TEACHER, requires_grad=True)
    loss = divergence(logits, teacher, temperature)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-12)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None and teacher.grad is None
    slope = temperature / len(STUDENT) * (p_binary - p_real)
    assert logits.grad.numpy() == pytest.approx(slope, rel=1e-9, abs=1e-15)
    assert float(divergence(teacher.detach(), teacher, temperature)) == pytest.approx(0, abs=1e-15)


def test_soft_cross_entropy() -> None:
    expected = -(softmax(TEACHER) * np.log(softmax(STUDENT))).sum(axis=1).mean()
    found = soft_cross_entropy(torch.from_numpy(STUDENT), torch.from_numpy(TEACHER))
    assert float(found) == pytest.approx(expected, rel=1e-12)


def attention(features: Array) -> Array:
    flat = (features**2).mean(axis=1).reshape(len(features), -1)
    return np.asarray(flat / np.sqrt((flat**2).sum(axis=1, keepdims=True)))


@pytest.mark.parametrize("kind", ["l2", "attention"])
def test_feature_transfer(kind: Any) -> None:
    s, t = DRAWS.normal(size=(2, 3, 4, 5)), DRAWS.normal(size=(2, 3, 4, 5))
    expected = ((s - t) ** 2).mean() if kind == "l2" else ((attention(s) - attention(t)) ** 2).sum() / 2
    config = FeatureTransfer(layers={"a": "b"}, loss=kind, weight=0.25)
    found = transfer_loss({"a": torch.from_numpy(s)}, {"b": torch.from_numpy(t)}, config)
    assert float(found) == pytest.approx(0.25 * expected, rel=1e-12)
    assert attention_map(torch.from_numpy(s)).numpy() == pytest.approx(attention(s), rel=1e-12)


def test_features_of_other_shapes_are_told() -> None:
    config = FeatureTransfer(layers={"a": "b"})
    inner = {"a": torch.zeros(2, 3, 4, 4)}, {"b": torch.zeros(2, 6, 4, 4)}
    with pytest.raises(
        UserError, match=r"output of 'a' is \(2, 3, 4, 4\), the teacher's of 'b' \(2, 6, 4, 4\)"
    ):
        transfer_loss(*inner, config)
    wider = FeatureTransfer(layers={"a": "b"}, loss="attention")
    assert float(transfer_loss(*inner, wider)) == 0


def test_centres_follow_their_classes() -> None:
    centres = Centres(3, 4, Compactness(weight=0.2, rate=0.5))
    expected = np.zeros((3, 4))
    for _ in range(3):
        f = DRAWS.normal(size=(5, 4)).astype(np.float32)
        features = torch.from_numpy(f).requires_grad_()
        loss = centres(features, torch.from_numpy(LABELS))
        own = expected[LABELS]
        assert float(loss.detach()) == pytest.approx(0.1 * ((f - own) ** 2).sum(axis=1).mean(), rel=1e-5)
        loss.backward()
        assert features.grad is not None
        assert features.grad.numpy() == pytest.approx(0.2 / 5 * (f - own), rel=1e-4, abs=1e-7)  # float32
        for j in range(3):
            members = f[np.flatnonzero(j == LABELS)]
            step = sum(expected[j] - member for member in members) / (1 + len(members))
            expected[j] = expected[j] - 0.5 * step
        assert centres.centres.numpy() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_another_normalisation_is_undone() -> None:
    pixels = torch.rand(2, 3, 4, 4)
    given, own = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), ((0.1, 0.2, 0.3), (1.0, 0.5, 0.25))

    def normalised(values: Any) -> torch.Tensor:
        mean, std = (torch.tensor(part).view(3, 1, 1) for part in values)
        return (pixels - mean) / std

    network = Renormalized(nn.Identity(), given, own)
    assert torch.allclose(network(normalised(given)), normalised(own), atol=1e-6)


def test_the_labels_play_no_part_in_the_distribution_loss(data: Data, real: Path) -> None:
    work = retraining(data, {"name": "s", "teacher": {"checkpoint": str(real)}})
    work._enter(work.stages[0])
    assert work.objective is not None
    images, labels = next(work.train_batches.epoch(0))
    logits = work.network.eval()(images)
    loss, terms = work.objective(images, logits, labels)
    other, _ = work.objective(images, logits, (labels + 1) % 3)
    teacher, _, _ = load_model(real, ())
    with torch.no_grad():
        answers = teacher(images)
    assert torch.equal(loss, other) and torch.equal(loss, divergence(logits, answers))
    assert list(terms) == ["teacher_loss"]


def test_a_taught_network_comes_nearer_to_its_teacher(data: Data, real: Path, tmp_path: Path) -> None:
    stage = {"name": "s", "epochs": 8, "teacher": {"checkpoint": str(real)}}
    run(retraining(data, {**stage, "optimizer": {"learning_rate": 1e-2}}), tmp_path / "run")
    losses = [line["train_teacher_loss"] for line in read_metrics(tmp_path / "run")]
    assert losses[-1] < 0.7 * losses[0]
    load_model(tmp_path / "run/checkpoint.pt", ())


MODES: list[dict[str, Any]] = [
    {"mode": "distil", "label_weight": 0.5, "soft_weight": 2.0},
    {"mode": "fine_tune"},
    {"mode": "joint"},
    {"mode": "joint", "network": {"init_channels": 8}, "teacher_weight": 0.5},
    {"mode": "features", "features": {"layers": {"cells.1": "cells.1"}, "weight": 0.1}},
    {"mode": "distribution", "features": {"layers": {"cells.0": "cells.0"}, "loss": "attention"}},
]


@pytest.mark.parametrize("mode", MODES, ids=lambda m: "-".join([m["mode"], *list(m)[1:2]]))
def test_every_mode_sums_its_terms_trains_and_resumes(
    data: Data, real: Path, tmp_path: Path, mode: dict[str, Any]
) -> None:
    teacher = mode if mode["mode"] == "joint" else {**mode, "checkpoint": str(real)}
    stage = {"name": "s", "epochs": 3, "teacher": teacher, "optimizer": {"learning_rate": 3e-3}}
    whole = retraining(data, stage)
    run(whole, tmp_path / "whole")
    settings = build(TeacherConfig, teacher, "teacher")
    for line in read_metrics(tmp_path / "whole"):
        terms = {name.removeprefix("train_"): value for name, value in line.items()}
        parts = {
            "distribution": terms.get("teacher_loss", 0),
            "features": terms.get("label_loss", 0),
        }.get(
            settings.mode,
            settings.label_weight * terms.get("label_loss", 0)
            + settings.soft_weight * terms.get("teacher_loss", 0)
            + settings.teacher_weight * terms.get("teachers_own_loss", 0),
        ) + terms.get("feature_loss", 0)
        assert terms["loss"] == pytest.approx(parts, rel=1e-5)  # means of float32
        assert ("teachers_own_loss" in terms) == (settings.mode == "joint")

    cut = retraining(data, stage)
    cut_after(cut, 1, tmp_path / "cut")
    with RunFolder.resume(tmp_path / "cut", "retrain") as folder:
        retraining(data, stage).run(folder)
    assert_same(tmp_path / "whole", tmp_path / "cut")


class Stop(Exception):
    """Ends a run right after a checkpoint."""


def cut_after(work: Retraining, epochs: int, path: Path) -> None:
    save = work._save

    def stopping(file: Path) -> None:
        save(file)
        if work.position.step == epochs:
            raise Stop

    work._save = stopping  # type: ignore[method-assign]
    with pytest.raises(Stop):
        run(work, path)


def flat(value: Any, name: str = "") -> dict[str, Any]:
    items = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    )
    if items is None:
        return {name: value}
    return {key: leaf for inner, below in items for key, leaf in flat(below, f"{name}.{inner}").items()}


def assert_same(one: Path, other: Path) -> None:
    states = [flat(load_checkpoint(folder / "checkpoint.pt").state) for folder in (one, other)]
    assert list(states[0]) == list(states[1])
    for name, value in states[0].items():
        same = (
            torch.equal(value, states[1][name])
            if isinstance(value, torch.Tensor)
            else value == states[1][name]
        )
        assert same, name


def test_fine_tuning_starts_from_the_teachers_weights(data: Data, real: Path) -> None:
    work = retraining(data, {"name": "s", "teacher": {"mode": "fine_tune", "checkpoint": str(real)}})
    work._enter(work.stages[0])
    saved = load_checkpoint(real, "retrain").state["model"]
    assert all(torch.equal(value, saved[name]) for name, value in work.network.state_dict().items())


def test_a_joint_teacher_is_real_and_trained_by_its_own_loss(data: Data, tmp_path: Path) -> None:
    joint = {"mode": "joint", "soft_weight": 0.0}
    stage = {"name": "s", "epochs": 6, "teacher": joint, "optimizer": {"learning_rate": 1e-2}}
    work = retraining(data, stage)
    work._enter(work.stages[0])
    assert work.objective is not None
    before = {name: value.clone() for name, value in work.objective.trained.state_dict().items()}
    convs = [m for m in work.objective.trained.modules() if hasattr(m, "binarize_weights")]
    assert convs and not any(conv.binarize_weights or conv.binarize_activations for conv in convs)
    run(work, tmp_path / "run")
    losses = [line["train_teachers_own_loss"] for line in read_metrics(tmp_path / "run")]
    assert losses[-1] < losses[0]
    stored = load_checkpoint(tmp_path / "run/checkpoint.pt").state["objective"]["tensors"]
    assert any(not torch.equal(value, before[name]) for name, value in stored.items())


def test_an_ensemble_teaches_its_mean(data: Data, real: Path, tmp_path: Path) -> None:
    run(retraining(data, {**REAL, "optimizer": {"learning_rate": 1e-2}}), tmp_path / "second")
    files = [str(real), str(tmp_path / "second/checkpoint.pt")]
    work = retraining(data, {"name": "s", "epochs": 1, "teacher": {"checkpoint": files}})
    work._enter(work.stages[0])
    images, labels = next(work.train_batches.epoch(0))
    assert work.objective is not None
    logits = work.network.eval()(images)
    loss, _ = work.objective(images, logits, labels)
    with torch.no_grad():
        answers = sum(load_model(Path(file), ())[0](images) for file in files) / 2
    assert isinstance(answers, torch.Tensor)
    assert torch.allclose(loss, divergence(logits, answers))


def test_compactness_draws_features_together_and_resumes(data: Data, tmp_path: Path) -> None:
    def spread(work: Retraining) -> float:
        seen: list[torch.Tensor] = []
        work.network.classifier.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        images, labels = next(work.train_batches.epoch(0))
        with torch.no_grad():
            work.network.train()(images)
        features = seen[0]
        return sum(
            float(features[labels == j].var(dim=0, unbiased=False).sum()) for j in set(labels.tolist())
        )

    stage = {"name": "s", "epochs": 4, "optimizer": {"learning_rate": 1e-2}}
    plain = retraining(data, stage)
    run(plain, tmp_path / "plain")
    stage["compactness"] = {"weight": 5.0}
    drawn = retraining(data, stage)
    run(drawn, tmp_path / "whole")
    assert spread(drawn) < 0.5 * spread(plain)
    centres = load_checkpoint(tmp_path / "whole/checkpoint.pt").state["objective"]["tensors"][
        "centres.centres"
    ]
    assert centres.shape == (3, drawn.network.classifier.in_features) and bool((centres != 0).any())
    cut_after(retraining(data, stage), 2, tmp_path / "cut")
    with RunFolder.resume(tmp_path / "cut", "retrain") as folder:
        retraining(data, stage).run(folder)
    assert_same(tmp_path / "whole", tmp_path / "cut")


def test_a_changed_teacher_is_told(data: Data, real: Path, tmp_path: Path) -> None:
    shutil.copy(real, tmp_path / "teacher.pt")
    stage = {"name": "s", "epochs": 2, "teacher": {"checkpoint": str(tmp_path / "teacher.pt")}}
    cut_after(retraining(data, stage), 1, tmp_path / "cut")
    run(retraining(data, {**REAL, "epochs": 1}), tmp_path / "other")
    shutil.copy(tmp_path / "other/checkpoint.pt", tmp_path / "teacher.pt")
    with (
        RunFolder.resume(tmp_path / "cut", "retrain") as folder,
        pytest.raises(UserError, match="teacher: its files are not those that the stage was started with"),
    ):
        retraining(data, stage).run(folder)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({}, "give exactly one of checkpoint, torchvision and mode: joint"),
        ({"mode": "joint", "checkpoint": "x.pt"}, "exactly one of"),
        ({"checkpoint": []}, "exactly one of"),
        ({"checkpoint": "x.pt", "mode": "features"}, "mode features needs the key features"),
        ({"checkpoint": ["x.pt", "y.pt"], "mode": "fine_tune"}, "weights of a single checkpoint"),
        ({"checkpoint": "x.pt", "network": {"num_cells": 3}}, "network is for mode: joint"),
        ({"torchvision": "resnet18"}, "torchvision and weights are given together"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_together(teacher: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(StageConfig, {"name": "s", "teacher": teacher}, "recipe")


def test_teachers_that_do_not_fit_are_told_before_training(data: Data, real: Path, tmp_path: Path) -> None:
    other = open_data(DataConfig(name="synthetic", images_per_class=12, num_classes=4))
    run(retraining(other, {**REAL, "epochs": 1}), tmp_path / "four")
    plain = {"name": "plain", "epochs": 1}
    cases = [
        ({"checkpoint": str(tmp_path / "four/checkpoint.pt")}, "four/checkpoint.pt: has other classes"),
        ({"checkpoint": str(tmp_path / "none.pt")}, "none.pt: no such checkpoint"),
        (
            {"checkpoint": str(real), "features": {"layers": {"cells.1": "cell.1"}}},
            "teacher.features.layers: the network has no module 'cell.1'; did you mean 'cells.1'",
        ),
    ]
    for teacher, message in cases:
        work = retraining(data, plain, {"name": "s", "teacher": teacher})
        with pytest.raises(UserError, match=message):
            run(work, tmp_path / "run")
        assert work.position.step == 0


def test_torchvisions_weights_are_read_from_disk(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision").models
    colour = open_data(DataConfig(name="synthetic", images_per_class=12, num_classes=3, channels=3))
    torch.manual_seed(0)
    network = models.squeezenet1_1(num_classes=3)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    teacher = {"torchvision": "squeezenet1_1", "weights": str(tmp_path / "weights.pt")}
    work = retraining(colour, {"name": "s", "epochs": 1, "teacher": teacher})
    work._enter(work.stages[0])
    images = torch.rand(2, 3, 33, 33)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (colour.mean, colour.std))
    own_mean, own_std = (
        torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    assert work.objective is not None
    taught = work.objective.parts["teacher"]
    assert isinstance(taught, Taught)
    found, _ = taught.teacher((images - mean) / std)
    with torch.no_grad():
        expected = network.eval()((images - own_mean) / own_std)
    assert torch.allclose(found, expected, atol=1e-4)
    for change, message in (
        (
            {"weights": str(tmp_path / "broken.pt")},
            "broken.pt: is no state dict of torchvision's squeezenet1_1",
        ),
        ({"weights": str(tmp_path / "none.pt")}, "none.pt: cannot be read"),
        ({"torchvision": "resnet_19"}, "unknown network 'resnet_19'; did you mean"),
    ):
        with pytest.raises(UserError, match=message):
            retraining(colour, {"name": "s", "teacher": {**teacher, **change}})._enter(
                StageConfig.model_validate({"name": "s", "teacher": {**teacher, **change}})
            )


def test_an_objective_without_extras_is_the_labels_loss() -> None:
    stage = StageConfig(name="s")
    logits, labels = torch.from_numpy(STUDENT), torch.from_numpy(LABELS)
    loss, terms = Objective(stage, nn.Linear(2, 3), 3)(torch.zeros(5, 2), logits, labels)
    assert torch.equal(loss, stage.loss(logits, labels)) and not terms


def test_an_ensemble_predicts_by_its_mean(done: Path, binas: Runner) -> None:
    words = ["retrain", "--config", "tiny.yaml", "--genotype", "runs/tiny/genotype.json", "--name", "b"]
    assert binas(*words, "--seed", "5")[0] == 0
    files = ["runs/tiny_retrain/checkpoint.pt", "runs/b/checkpoint.pt"]
    status, output, error = binas("eval", *files, "--ensemble", "--json")
    assert status == 0, error
    result = json.loads(output)
    alone = [json.loads(binas("eval", file, "--json")[1]) for file in files]
    assert result["members"] == [one["accuracy"] for one in alone] and result["images"] == alone[0]["images"]
    networks = [load_model(Path(file), ()) for file in files]
    data = open_data(networks[0][1].data)
    from binas.data.batches import Batches

    images, labels = next(Batches(data.test(), 999, "cpu", data.mean, data.std).epoch(0, shuffle=False))
    with torch.no_grad():
        logits = (networks[0][0](images) + networks[1][0](images)) / 2
    assert result["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    assert result["loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-5)
    assert "mean of 2 networks" in binas("eval", *files, "--ensemble")[1]
    status, _, error = binas("eval", *files)
    assert status == 2 and "2 checkpoints: add --ensemble" in error
