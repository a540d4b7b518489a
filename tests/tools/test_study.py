"""The optimisation study: its files, its runner, its table, and the recipe keys that it needs."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from binas.binarize import binary_convolutions
from binas.config import build
from binas.data.config import DataConfig
from binas.data.open_data import open_data
from binas.engine.optimizer import OptimizerConfig
from binas.errors import UserError
from binas.models import ModelChoice, Task, build_model
from binas.recipe import load_recipe
from binas.run.folder import RunFolder
from binas.run.metrics import read_metrics
from binas.train.evaluation import evaluate_checkpoint
from binas.train.positive_share import PositiveShares
from binas.train.retrain import Retraining
from binas.train.stage import RetrainConfig
from tools.studies import study_optimisation
from tools.studies.study import load_study

ROOT = Path(__file__).parents[2]

QUESTIONS = ROOT / "tools" / "studies" / "optimisation"
NETWORKS = """\
networks:
  mlp:
    recipe: mlp_mnist
    title: MLP
    sizes:
      small:
        words: very small
        changes: {data.name: digits, data.subset: 300, model.hidden: [16], retrain.stages.0.epochs: 2}
"""
QUESTION = """\
title: Which optimizer?
source: table 2
networks: [mlp]
columns: [flips, epochs_to, gap]
picture: true
variants:
  adam: {words: Adam, paper: {mlp: 1.19}}
  sgd: {words: SGD, changes: {retrain.stages.0.optimizer: {name: sgd, learning_rate: 0.1}}}
"""
TASK = Task(1, (8, 8), 4, ())


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "networks.yaml").write_text(NETWORKS)
    (folder / "optimizers.yaml").write_text(QUESTION)
    return folder


def words(study: Path, *more: str) -> list[str]:
    out = study.parent
    return [
        "--study",
        str(study),
        "--out",
        str(out / "out"),
        "--benchmarks",
        str(out / "b"),
        "--machine",
        "here",
        "--seeds",
        "0",
        *more,
    ]


def rows(study: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (study.parent / "b" / "optimisation_here.jsonl").read_text().splitlines()
    ]


def test_every_question_of_the_study_is_there() -> None:
    loaded = load_study(QUESTIONS)
    assert set(loaded.questions) == {
        "optimizers",
        "adam_beta2",
        "estimator_speed",
        "clipping",
        "batch_norm",
        "pooling",
        "rate_scaling",
        "start",
        "early_stopping",
    }
    optimizers = [one.recipe.retrain for one in loaded.planned if one.question == "optimizers"]
    names = {(one.stages[0].optimizer.name, one.batch_size) for one in optimizers}
    assert {name for name, _ in names} == {
        "sgd",
        "momentum",
        "nesterov",
        "adagrad",
        "adadelta",
        "rmsprop",
        "adam",
    }
    assert len({size for name, size in names if name == "sgd"}) == 2
    for one in loaded.planned:
        assert one.recipe.retrain.keep == "best" and one.recipe.retrain.validation_images == "last"


@pytest.mark.parametrize("planned", load_study(QUESTIONS).planned, ids=lambda p: f"{p.network}-{p.variant}")
def test_every_variant_builds_and_runs(planned: Any) -> None:
    choice = planned.recipe.model
    changed = ModelChoice.model_validate(
        {**choice.model_dump(), **({"hidden": [8]} if choice.name == "mlp" else {})}
    )
    stages = [stage.completed(choice) for stage in planned.recipe.retrain.stages]
    task = Task(1, (8, 8), 4, tuple(stage.binarization for stage in stages))
    network = build_model(changed, task)
    for stage in stages:
        stage.apply(network)
        stage.optimizer.build_for(network)
        assert network(torch.randn(2, 1, 8, 8)).shape == (2, 4)


def test_full_layouts_are_the_papers() -> None:
    full = {one.network: one.recipe for one in load_study(QUESTIONS, "full", ("clipping",)).planned}
    assert full["mlp"].model.options().hidden == (2048, 2048, 2048) and full["mlp"].data.name == "mnist"
    assert full["vgg10"].model.options().width == 1 and full["vgg10"].data.name == "cifar10"
    clipped = [
        one.recipe.retrain.stages[0].weight_clipping
        for size in ("full", "tiny")
        for one in load_study(QUESTIONS, size, ("clipping",)).planned
        if (one.network, one.variant) == ("mlp", "weights")
    ]
    assert clipped == [1.0, 0.05]
    assert [full[name].retrain.stages[0].epochs for name in ("mlp", "vgg10")] == [250, 500]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("words: Adam", "wrods: Adam", ["optimizers.yaml", "variants.adam.wrods", "words"]),
        ("learning_rate: 0.1", "learning_rte: 0.1", ["optimizers.yaml", "variants.sgd", "learning_rte"]),
        ("name: sgd", "name: sdg", ["optimizers.yaml", "variants.sgd", "sdg"]),
        ("networks: [mlp]", "networks: [mpl]", ["optimizers.yaml", "networks", "mpl", "mlp"]),
        ("paper: {mlp: 1.19}", "sizes: {tny: {}}", ["optimizers.yaml", "variants.adam.sizes", "tny"]),
        ("paper: {mlp: 1.19}", "only: {vgg: {}}", ["optimizers.yaml", "variants.adam.only", "vgg"]),
    ],
)
def test_mistakes_are_told_with_file_and_key(
    study: Path, old: str, new: str, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (study / "optimizers.yaml").write_text(QUESTION.replace(old, new))
    assert study_optimisation.main(words(study)) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in said), error
    assert not (study.parent / "out").exists(), "nothing is trained before all is well"


def test_a_study_trains_each_recipe_once_and_writes_its_table(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (study / "again.yaml").write_text(QUESTION.replace("Which", "Once more, which"))
    assert study_optimisation.main(words(study)) == 0
    found = rows(study)
    assert len(found) == 2, "equal recipes of two questions are one run"
    table = (study.parent / "b" / "optimisation_here.md").read_text()
    for row in found:
        assert row["epochs"] == len(row["validation"]) == 2
        assert row["best_validation"] == max(row["validation"])
        assert row["validation"][row["best_epoch"] - 1] == row["best_validation"]
        assert table.count(f"{100 * (1 - row['test_at_best']):.1f} (1)") >= 2
    assert "| 1.19 |" in table and "n seeds" in table
    assert (study.parent / "b" / "optimisation_here_optimizers.png").stat().st_size > 1000
    assert not list((study.parent / "out").glob("*/")), "run folders are removed"
    capsys.readouterr()
    assert study_optimisation.main(words(study)) == 0
    assert rows(study) == found
    assert "best_epoch" not in capsys.readouterr().out, "nothing was trained again"


def test_an_interrupted_study_goes_on_to_the_same_rows(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = study.parent / "whole" / "study"
    shutil.copytree(study, whole)
    assert study_optimisation.main(words(whole)) == 0
    import binas.train.retrain as retrain

    save = retrain.save_checkpoint

    def save_and_stop(path: Path, *rest: Any) -> None:
        save(path, *rest)
        if path.name == "checkpoint.pt":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(retrain, "save_checkpoint", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            study_optimisation.main(words(study))
    assert not (study.parent / "b" / "optimisation_here.jsonl").exists()
    assert study_optimisation.main(words(study)) == 0
    assert [row["resumed"] for row in rows(study)] == [True, False]
    timed = ("cpu_seconds", "resumed")
    expected, found = (
        [{k: v for k, v in row.items() if k not in timed} for row in rows(f)] for f in (whole, study)
    )
    assert found == expected


def test_the_gap_of_a_stopped_run_is_what_the_other_gains(study: Path) -> None:
    stopped = "{words: stopped, changes: {retrain.stages.0.until_plateau: 1}}"
    (study / "optimizers.yaml").write_text(QUESTION.replace("variants:", f"variants:\n  z: {stopped}"))
    assert study_optimisation.main(words(study)) == 0
    whole, part = [one for one in rows(study) if one["epochs"]][:2]
    assert part["validation"][: whole["epochs"]] == whole["validation"][: part["epochs"]]


def train(tmp_path: Path, **retrain: Any) -> Path:
    stage = {"name": "a", "epochs": 4, "optimizer": {"learning_rate": 0.03}}
    config = build(RetrainConfig, {"stages": [stage], "batch_size": 32, **retrain}, "test")
    choice = ModelChoice.model_validate({"name": "mlp", "hidden": [16, 16]})
    data = open_data(DataConfig(name="digits", subset=200))
    with RunFolder.create(tmp_path / "run", "retrain") as folder:
        Retraining(choice, config, data, seed=0, device=torch.device("cpu"), tensorboard=False).run(folder)
    return tmp_path / "run"


def test_keep_best_keeps_the_best_validation_epoch(tmp_path: Path) -> None:
    run = train(tmp_path, keep="best", validation_images="last", validation_fraction=0.2)
    curve = [line["validation_accuracy"] for line in read_metrics(run)]
    cpu = torch.device("cpu")
    best = evaluate_checkpoint(run / "best.pt", "validation", cpu)
    assert best["accuracy"] == max(curve) and best["epochs"] == curve.index(max(curve)) + 1
    last = evaluate_checkpoint(run / "checkpoint.pt", "validation", cpu)
    assert last["accuracy"] == curve[-1] and last["epochs"] == len(curve)
    assert best["images"] == 40


def test_without_keep_best_nothing_else_is_stored(tmp_path: Path) -> None:
    assert not (train(tmp_path) / "best.pt").exists()


def test_the_last_images_are_for_validation() -> None:
    data = open_data(DataConfig(name="digits", subset=200))
    everything = data.retrain(0.0)[0]
    training, validation = data.retrain(0.1, last=True)
    assert (len(training), len(validation)) == (180, 20)
    assert torch.equal(validation.labels, everything.labels[180:])
    assert torch.equal(training.labels, everything.labels[:180])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"keep": "best", "validation_fraction": 0}, "keep: best"),
        ({"log_positive_share": True, "validation_fraction": 0}, "log_positive_share"),
        ({"keep": "best", "stages": [{"name": "a", "layerwise": {}}]}, "keep: last"),
    ],
)
def test_settings_of_the_protocol_that_do_not_fit(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build(RetrainConfig, settings, "recipe.yaml")


@pytest.mark.parametrize(("scaling", "power"), [("none", 0), ("glorot", 1), ("glorot_squared", 2)])
def test_rate_scaling_is_one_over_glorots_limit(scaling: str, power: int) -> None:
    network = build_model(ModelChoice(name="mlp", hidden=[6, 10], binary_ends=True), TASK)  # type: ignore[call-arg]
    config = build(OptimizerConfig, {"learning_rate": 0.5, "rate_scaling": scaling}, "test")
    rates = {id(p): group["lr"] for group in config.build_for(network).param_groups for p in group["params"]}
    sizes = {(6, 64), (10, 6), (4, 10)}
    for _, conv in binary_convolutions(network):
        fans = (conv.out_channels, conv.in_channels)
        sizes.remove(fans)
        assert rates[id(conv.weight)] == pytest.approx(0.5 / math.sqrt(1.5 / sum(fans)) ** power)
    assert not sizes
    norms = [p for p in network.parameters() if p.ndim == 1]
    assert norms and all(rates[id(p)] == 0.5 for p in norms)


def test_rate_scaling_is_not_for_bop() -> None:
    with pytest.raises(UserError, match="rate_scaling"):
        build(OptimizerConfig, {"name": "bop", "rate_scaling": "glorot"}, "test")


def test_pools_of_signs_pool_what_a_sign_after_the_pool_gives() -> None:
    """The largest sign is the sign of the largest value: forward alike, and the gradient is not."""
    torch.manual_seed(0)
    choices = [
        ModelChoice.model_validate(
            {"name": "vgg10", "width": 0.0625, "pool_after": where, "binary_ends": True}
        )
        for where in ("activation", "sign", "convolution")
    ]
    first, signs, before = (build_model(choice, TASK).train() for choice in choices)
    for other in (signs, before):
        for mine, theirs in zip(other.parameters(), first.parameters(), strict=True):
            mine.data.copy_(theirs)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(first(x), signs(x))
    assert not torch.equal(first(x), before(x))


def test_positive_share_counts_what_layers_read() -> None:
    torch.manual_seed(0)
    network = build_model(ModelChoice(name="mlp", hidden=[6, 10], binary_ends=True), TASK).eval()  # type: ignore[call-arg]
    images = [torch.randn(5, 1, 8, 8), torch.randn(3, 1, 8, 8)]
    shares = PositiveShares(network)
    with shares, torch.no_grad():
        for batch in images:
            network(batch)
    with torch.no_grad():
        network(torch.ones(50, 1, 8, 8))  # outside, nothing counts
    read = torch.cat([batch.flatten(1) for batch in images])
    figures = shares.figures()
    first, *_ = dict(binary_convolutions(network))
    assert figures[f"positive_share/{first}"] == pytest.approx((read >= 0).double().mean().item())
    assert len(figures) == 3 and PositiveShares(None).figures() == {}


def test_positive_share_is_logged(tmp_path: Path) -> None:
    lines = read_metrics(train(tmp_path, log_positive_share=True))
    assert all(any(key.startswith("positive_share/") for key in line) for line in lines)


def test_layers_after_pools() -> None:
    network = build_model(
        ModelChoice.model_validate({"name": "vgg10", "width": 0.0625, "pool_after": "sign"}), TASK
    )
    convs = [name for name, _ in binary_convolutions(network)]
    assert study_optimisation.layers_after_pools(network) == [convs[1], convs[3], convs[5]]


def test_shipped_recipes_keep_the_papers_protocol() -> None:
    for name in ("mlp_mnist", "vgg10_cifar10", "two_stage_optimisation_study"):
        retrain = load_recipe(name, {}).retrain
        assert (retrain.keep, retrain.validation_images, retrain.validation_fraction) == ("best", "last", 0.1)
