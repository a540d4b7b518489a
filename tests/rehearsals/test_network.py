"""A published network from a user's file: trained by name, recorded by name and hash, shown, missed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from binas.errors import UserError
from binas.models import MODELS, ModelChoice, Task, build_model
from binas.plugins import load_plugin
from binas.registries import REGISTRIES
from binas.run.checkpoint import load_checkpoint
from binas.train.model_file import KIND

Runner = Callable[..., tuple[int, str, str]]

PLUGIN = '''\
"""A network of one's own: two binary convolutions."""
from torch import nn

from binas.binarize import Binarization, BinarizerSpec
from binas.models.layers import FIRST, binary_conv, classifier, real_conv
from binas.models.model_registry import ModelOptions, register_models


class PairOptions(ModelOptions):
    """Options of the pair."""

    channels: int = 8
    """Of every layer."""


def pair(options, task):
    """A real-valued convolution, then two binary ones.

    Shape: (N, C, H, W) -> (N, num_classes).
    """
    channels = options.channels
    return nn.Sequential(
        real_conv(task.in_channels, channels, 3, why=FIRST),
        nn.BatchNorm2d(channels),
        binary_conv(task, channels, channels, 3),
        nn.BatchNorm2d(channels),
        binary_conv(task, channels, channels, 3, 2),
        nn.BatchNorm2d(channels),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        classifier(channels, task.num_classes),
    )


register_models(
    pair,
    {"pair": PairOptions(), "wide_pair": PairOptions(channels=16)},
    Binarization(activation=BinarizerSpec(name="approx_sign"), weight=BinarizerSpec(name="react")),
    "Nobody, A Pair of Layers",
)
'''
RECIPE = """\
name: own
num_threads: 1
tensorboard: false
data: {name: synthetic, images_per_class: 12, num_classes: 3}
model: {name: pair, channels: 4}
retrain: {batch_size: 16, stages: [{name: a, epochs: 1, binarize_weights: false}, {name: b, epochs: 1}]}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, made the current one, with the plug-in and a recipe that uses it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_net.py").write_text(PLUGIN)
    (tmp_path / "own.yaml").write_text(RECIPE)
    return tmp_path


def test_a_file_that_registers_a_network_is_loaded_twice(own: Path) -> None:
    _, record = load_plugin(own / "my_net.py", REGISTRIES)
    assert record.operations == ("pair", "wide_pair") and MODELS.origin("pair") == str(own / "my_net.py")
    build_of_first = MODELS["pair"].build
    assert load_plugin(own / "my_net.py", REGISTRIES)[1] == record
    assert MODELS["pair"].build is build_of_first  # the file is the same, so nothing is built anew
    (own / "my_net.py").write_text(PLUGIN + "\n# changed\n")
    again = load_plugin(own / "my_net.py", REGISTRIES)[1]
    assert again.operations == record.operations and again.sha256 != record.sha256
    assert MODELS["pair"].build is not build_of_first
    network = build_model(ModelChoice(name="pair"), Task(3, (8, 8), 10, ()))
    assert sum(type(layer).__name__ == "BinaryConv2d" for layer in network.modules()) == 2


def test_a_network_of_ones_own_from_recipe_to_check(own: Path, binas: Runner) -> None:
    status, output, error = binas("retrain", "--config", "own.yaml", "--plugins", "my_net.py")
    assert status == 0, error
    assert "next: binas eval runs/own/checkpoint.pt --plugins my_net.py" in output
    (record,) = load_checkpoint(Path("runs/own/checkpoint.pt"), KIND).structure["plugins"]
    assert record["file"] == "my_net.py" and record["operations"] == ["pair", "wide_pair"]
    (in_manifest,) = json.loads(Path("runs/own/manifest.json").read_text())["plugins"]
    assert in_manifest == record
    checkpoint = "runs/own/checkpoint.pt"
    commands = [
        ["eval", checkpoint],
        ["check", checkpoint],
        ["profile", checkpoint],
        ["profile", "pair", "--model.channels", "4"],
        ["models", "pair"],
        ["retrain", "--model", "wide_pair", "--name", "wide", "--data.name", "synthetic", "--print_config"],
        ["retrain", "--resume", "runs/own"],
    ]
    for words in commands:
        status, output, error = binas(*words, "--plugins", "my_net.py")
        assert status == 0, (words, error)
    assert "A Pair of Layers [my_net.py]" in binas("models", "--plugins", "my_net.py")[1]
    (own / "my_net.py").unlink()
    for name in MODELS.names_from(str(own / "my_net.py")):
        del MODELS._entries[name], MODELS._origins[name]
    for words in (["eval", checkpoint], ["check", checkpoint], ["profile", checkpoint]):
        status, _, error = binas(*words)
        assert status == 2 and "needs the plug-in my_net.py" in error, (words, error)
    status, _, error = binas("retrain", "--config", "own.yaml", "--overwrite")
    assert status == 2 and "unknown model 'pair'" in error and "plugins" in error
    assert Path(checkpoint).exists()


def test_a_recipe_may_name_the_file_itself(own: Path, binas: Runner) -> None:
    (own / "own.yaml").write_text("plugins: [my_net.py]\n" + RECIPE)
    status, _, error = binas("retrain", "--config", "own.yaml")
    assert status == 0, error
    assert binas("retrain", "--resume", "runs/own")[0] == 0


def test_anothers_network_keeps_its_name(own: Path) -> None:
    (own / "my_net.py").write_text(PLUGIN.replace('"pair": PairOptions()', '"vgg10": PairOptions()'))
    with pytest.raises(UserError, match=r"model 'vgg10' is registered already.*replace=True"):
        load_plugin(own / "my_net.py", REGISTRIES)
