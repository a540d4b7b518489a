"""Published networks from the command line: trained, evaluated, checked, profiled, resumed, and mistakes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from binas.arch.genotype import read_genotype
from binas.arch.network import Network, genotype_space
from binas.config import find_file, shipped_names
from binas.models import MODELS
from binas.ops import OPS
from binas.profile import profile_genotype, profile_module
from binas.recipe import load_recipe
from binas.run.metrics import read_metrics
from tests.quick import few_of

Runner = Callable[..., tuple[int, str, str]]

TINY = [
    "--data.name",
    "synthetic",
    "--data.images_per_class",
    "20",
    "--data.num_classes",
    "3",
    "--data.image_size",
    "16",
    "--tensorboard",
    "false",
    "--num_threads",
    "1",
    "--retrain.batch_size",
    "16",
]
RECIPES = [name for name in shipped_names("configs") if load_recipe(name, {}).model is not None]
QUICK = [
    "binary_densenet28_larq",
    "bireal_resnet18_clip_imagenet",
    "meliusnet22_imagenet",
    "mlp_mnist",
    "reactnet_a_imagenet",
    "real_to_binary_step2_imagenet",
    "resnet20_cifar10",
    "vgg_small_cifar10",
    "xnor_alexnet_imagenet",
]
"""One of each architecture and of each way to train."""

KILLED = """\
import os, signal, sys
import binas.train.retrain as retrain
from binas.cli.main import main
save, count = retrain.save_checkpoint, 0
def save_and_die(*arguments):
    global count
    save(*arguments)
    count += 1
    if count == 3:
        os.kill(os.getpid(), signal.SIGKILL)
retrain.save_checkpoint = save_and_die
main(sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def retrain(*words: str) -> list[str]:
    epochs = ["--retrain.stages.0.epochs", "2", "--retrain.stages.1.epochs", "2"]
    return ["retrain", *words, *TINY, *epochs]


def test_a_published_network_is_trained_evaluated_checked_and_profiled(binas: Runner) -> None:
    status, _, error = binas(*retrain("--model", "vgg_small", "--model.width", "0.125"))
    assert status == 0, error
    checkpoint = "runs/vgg_small/checkpoint.pt"
    assert not Path("runs/vgg_small/genotype.json").exists()
    status, out, _ = binas("eval", checkpoint, "--json")
    result = json.loads(out)
    assert status == 0 and result["model"] == "vgg_small (width 0.125)" and "genotype" not in result
    status, out, _ = binas("eval", checkpoint)
    assert status == 0 and "model vgg_small (width 0.125)" in out
    status, out, _ = binas("check", checkpoint)
    assert status == 0 and "binary: each of 5 convolutions" in out
    status, out, _ = binas("profile", checkpoint, "--json", "-")
    trained = json.loads(out)
    sizes = ["--image-size", "16", "--in-channels", "1", "--num-classes", "3"]
    words = ["--model.width", "0.125", *sizes, "--export", "--json", "-"]
    assert json.loads(binas("profile", "vgg_small", *words)[1]) == trained
    status, out, _ = binas("profile", checkpoint, "--image-size", "32", "--json", "-")
    assert status == 0 and json.loads(out)["bops"] > trained["bops"]


def test_stages_take_the_papers_binarization_or_their_own(binas: Runner) -> None:
    own = ["--retrain.stages.1.binarization", "{activation: {name: sign, window: 1.3}, weight: {name: xnor}}"]
    assert binas(*retrain("--model", "mlp", "--model.hidden", "[8]", *own, "--name", "m"))[0] == 0
    state = torch.load("runs/m/checkpoint.pt", weights_only=True)
    found = [one["activation"]["name"] for one in state["structure"]["binarizations"]]
    assert found == [MODELS["mlp"].binarization.activation.name, "sign"]
    assert [one["weight"]["name"] for one in state["structure"]["binarizations"]] == ["bnn", "xnor"]


def test_a_killed_run_ends_like_one_left_alone(binas: Runner) -> None:
    words = retrain("--model", "reactnet_resnet18", "--model.width", "0.125")
    assert binas(*words, "--name", "whole")[0] == 0
    killed = subprocess.run([sys.executable, "-c", KILLED, *words, "--name", "killed"], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert binas("retrain", "--resume", "runs/killed")[0] == 0
    one, other = (torch.load(f"runs/{n}/checkpoint.pt", weights_only=True) for n in ("whole", "killed"))
    assert list(one["state"]["model"]) == list(other["state"]["model"])
    for name, tensor in one["state"]["model"].items():
        assert torch.equal(tensor, other["state"]["model"][name]), name
    losses = [
        [(line["epoch"], line["train_loss"]) for line in read_metrics(Path("runs") / run)]
        for run in ("whole", "killed")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_a_twin_trains_and_is_told_apart(binas: Runner) -> None:
    words = retrain("--model.real", "true", "--model.width", "0.25", "--model", "resnet20", "--name", "twin")
    assert binas(*words)[0] == 0  # options count wherever they stand
    status, out, _ = binas("check", "runs/twin/checkpoint.pt")
    assert status == 1 and "full-precision twin" in out


def test_drop_path_and_a_second_classifier_in_a_network_of_cells(binas: Runner) -> None:
    cells = ["--model", "bats_cifar", "--model.num_cells", "3", "--model.init_channels", "12"]
    more = ["--retrain.drop_path", "0.2", "--retrain.auxiliary_weight", "0.4", "--name", "cells"]
    assert binas(*retrain(*cells, *more))[0] == 0
    assert binas("check", "runs/cells/checkpoint.pt")[0] == 0


def test_models_are_listed(binas: Runner) -> None:
    status, out, _ = binas("models")
    assert status == 0 and [line.split()[0] for line in out.splitlines()] == list(MODELS)
    status, out, _ = binas("models", "meliusnet22")
    assert status == 0 and "--model.stem (default: imagenet)" in out and "arXiv:2001.05936" in out
    rows = json.loads(binas("models", "--json")[1])
    assert [row["name"] for row in rows] == list(MODELS)
    assert all(row["paper"] and row["summary"] and row["options"] for row in rows)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["retrain", "--model", "resnet2"], ["model", "unknown model", "did you mean 'resnet20'"]),
        (
            ["retrain", "--model", "resnet20", "--model.wdith", "2"],
            ["model", "wdith", "did you mean 'width'"],
        ),
        (["retrain", "--config", "bad.yaml"], ["bad.yaml", "model", "stem", "imagenet"]),
        (["retrain"], ["which network", "--genotype", "--model NAME", "binas models"]),
        (["retrain", "--genotype", "bats", "--model", "mlp"], ["two networks", "leave one out"]),
        (["retrain", "resnet20"], ["published network", "--model resnet20"]),
        (["retrain", "--model", "mlp", "--retrain.drop_path", "0.1", *TINY], ["retrain.drop_path", "cells"]),
        (
            ["retrain", "--model", "mlp", "--retrain.network.num_cells", "3", *TINY],
            ["retrain.network", "num_cells", "model.KEY"],
        ),
        (
            ["retrain", "--model", "mlp", "--retrain.auxiliary_weight", "0.4", *TINY],
            ["auxiliary_weight", "0"],
        ),
        (["search", "--model", "mlp"], ["model", "binas retrain"]),
        (["models", "mlpp"], ["unknown model 'mlpp'", "mlp"]),
        (["profile", "mlp", "--width", "2"], ["--width", "--model.KEY"]),
        (["profile", "bats", "--model.width", "2"], ["--model.width", "name of a model"]),
        (["profile", "mlp", "--model.width", "2"], ["unknown key 'width'", "hidden"]),
    ],
    ids=lambda value: " ".join(value[:3]),
)
def test_mistakes_are_told(binas: Runner, words: list[str], told: list[str]) -> None:
    Path("bad.yaml").write_text("model: {name: bireal_resnet18, stem: large}\n")
    status, _, error = binas(*words)
    assert status == 2 and "Traceback" not in error
    for word in told:
        assert word in error
    assert not Path("runs").exists()


def test_bnas_a_is_counted_as_published(binas: Runner) -> None:
    """5.578252 M with what released networks hold although nothing reads it."""
    totals = json.loads(binas("profile", "bnas_a", "--json", "-")[1])
    assert totals["parameters_as_published"] == 5_578_252
    assert totals["parameters"] < 5_578_252


@pytest.mark.parametrize("name", ["bnas_latest_cell", "bats"])
def test_an_imagenet_stem_is_counted_as_it_runs(name: str) -> None:
    genotype = read_genotype(find_file(name, "genotypes"), OPS)
    changes = {"stem": "imagenet", "num_cells": 3, "init_channels": 24}
    settings = genotype_space(genotype).network.model_copy(update=changes)
    closed = profile_genotype(genotype, 3, (37, 50), 7, settings)
    executed = profile_module(Network(genotype, 3, 7, settings=settings), 3, (37, 50))
    keys = ("parameters", "bits", "flops", "bops")
    assert {key: closed.to_json()[key] for key in keys} == {key: executed.to_json()[key] for key in keys}
    assert next(layer for layer in closed.layers if layer.name.startswith("stem")).output_shape[1] == 19


def recipe_in_miniature(name: str) -> list[str]:
    recipe = load_recipe(name, {})
    assert recipe.model is not None
    options = type(recipe.model.options()).model_fields
    values: dict[str, Any] = {"data.name": "synthetic", "data.root": "null", "data.image_size": 16}
    values |= {"data.images_per_class": 12, "data.num_classes": 3, "retrain.batch_size": 16}
    values |= {"tensorboard": "false", "num_threads": 1}
    if "width" in options:
        values["model.width"] = 0.125
    for position, stage in enumerate(recipe.retrain.stages):
        values[f"retrain.stages.{position}.epochs"] = 1
        if stage.teacher is not None:
            values[f"retrain.stages.{position}.teacher"] = "{checkpoint: runs/teacher/checkpoint.pt}"
    return [word for key, value in values.items() for word in (f"--{key}", str(value))]


@pytest.mark.parametrize("name", few_of(RECIPES, QUICK))
def test_recipes_of_published_networks_run_in_miniature(binas: Runner, name: str) -> None:
    words = recipe_in_miniature(name)
    if any("teacher" in word for word in words):
        teacher = ["--model", "resnet20", "--model.width", "0.5", "--name", "teacher", "--model.real", "true"]
        images = words[: words.index("--retrain.batch_size")]
        stages = ["--retrain.stages", "[{name: real, epochs: 1}]", "--tensorboard", "false"]
        assert binas("retrain", *teacher, *images, *stages)[0] == 0
    status, _, error = binas("retrain", "--config", name, "--name", "r", *words)
    assert status == 0, error
    assert binas("eval", "runs/r/checkpoint.pt")[0] == 0
    stages = [line["stage"] for line in read_metrics(Path("runs/r"))]
    assert stages == [stage.name for stage in load_recipe(name, {}).retrain.stages]
