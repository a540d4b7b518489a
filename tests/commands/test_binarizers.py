"""`binas binarizers`, and plug-ins of binarizers and activations from search to the checked checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from binas.binarize.catalogue import KINDS

Runner = Callable[..., tuple[int, str, str]]
PLUGIN = '''
import torch
from torch import nn
from binas.binarize import (
    ACTIVATION_BINARIZERS, GRADIENT_QUANTIZERS, WEIGHT_BINARIZERS,
    ActivationBinarizer, GradientQuantizer, WeightBinarizer,
)
from binas.binarize.sign import straight_through_sign
from binas.ops import NONLINEARITIES


@ACTIVATION_BINARIZERS.register("own_sign")
class OwnSign(ActivationBinarizer):
    """Sign with a learned scale."""

    paper = "mine"

    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return [(straight_through_sign(x), self.scale)]


@WEIGHT_BINARIZERS.register("own_weight")
class OwnWeight(WeightBinarizer):
    """Sign of the weight; options of any name."""

    paper = "mine"

    def __init__(self, shape, **options):
        super().__init__()
        self.options = options

    def forward(self, weight):
        return [(straight_through_sign(weight), None)]


@GRADIENT_QUANTIZERS.register("own_gradient")
class OwnGradient(GradientQuantizer):
    """The gradient itself."""

    paper = "mine"

    def forward(self, gradient):
        return gradient


@NONLINEARITIES.register("own_activation")
def own_activation(channels):
    """x·σ(x)."""
    return nn.SiLU()
'''


def test_one_line_each(binas: Runner) -> None:
    status, output, _ = binas("binarizers")
    lines = output.splitlines()
    assert status == 0 and len(lines) == sum(map(len, KINDS.values()))
    (rsign,) = (line for line in lines if line.split()[:2] == ["activation", "rsign"])
    for word in ("1 bit", "{-1, +1}", "learns threshold", "not annealed", "ReActNet, arXiv:2003.03488"):
        assert word in rsign
    (ede,) = (line for line in lines if line.split()[:2] == ["activation", "ede"])
    assert "; annealed" in ede
    (twn,) = (line for line in lines if line.split()[:2] == ["weight", "twn"])
    assert "2 bits {-1, 0, +1}" in twn


def test_as_json(binas: Runner) -> None:
    status, output, _ = binas("binarizers", "--json")
    table = json.loads(output)
    assert status == 0 and {(row["kind"], row["name"]) for row in table} == {
        (kind, name) for kind, registry in KINDS.items() for name in registry
    }
    keys = {"bits", "levels", "bases", "learnable", "annealed", "paper", "summary", "from", "variants"}
    assert all(keys <= row.keys() for row in table)


def test_check_by_name(binas: Runner) -> None:
    status, output, _ = binas("binarizers", "check", "dorefa")
    assert status == 0
    for kind in ("activation", "weight", "gradient"):
        assert f"dorefa keeps the contract of a binarizer ({kind})" in output


def test_check_of_a_file(tiny: Path, binas: Runner) -> None:
    Path("mine.py").write_text(PLUGIN)
    status, output, error = binas("binarizers", "check", "mine.py")
    assert status == 0, error
    kept = [line for line in output.splitlines() if "keeps the contract" in line]
    assert [line.split()[0] for line in kept] == ["own_sign", "own_weight", "own_gradient"]
    status, output, _ = binas("binarizers", "check", "mine.py:own_sign")
    assert status == 0 and "own_weight" not in output
    status, output, _ = binas("binarizers", "--plugins", "mine.py")
    assert "[mine.py]" in output and "own_gradient" in output


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ([], "binarizers check: what?"),
        (["signn"], "binas binarizers lists all"),
        (["nowhere.py"], "nowhere.py: no such plug-in file"),
        (["mine.py:sign"], "mine.py registers own_sign, own_weight, own_gradient"),
        (["mine.py:own_activation"], "mine.py:own_activation: no such binarizer"),
    ],
)
def test_mistakes(tiny: Path, binas: Runner, target: list[str], told: str) -> None:
    Path("mine.py").write_text(PLUGIN)
    status, _, error = binas("binarizers", "check", *target)
    assert status == 2 and told in error and "Traceback" not in error


@pytest.mark.parametrize(
    "changes",
    [
        ["--space.binarization.activation.name", "own_sign"],
        ["--space.binarization.gradient", "{name: own_gradient}"],
        ["--space.layers", "[{type: BinaryConv, binarization: {weight: {name: own_weight, any: 1}}}]"],
        ["--space.activation", "own_activation"],
    ],
    ids=["activation", "gradient", "a rule", "nonlinearity"],
)
def test_a_plugin_of_the_space_is_recorded_in_the_genotype(
    tiny: Path, binas: Runner, changes: list[str]
) -> None:
    Path("mine.py").write_text(PLUGIN)
    words = ["search", "tiny.yaml", "--search.phases", "[{epochs: 1}]", *changes]
    status, _, error = binas(*words, "--name", "without")
    assert status == 2 and "--plugins FILE" in error
    status, _, error = binas(*words, "--plugins", "mine.py", "--overwrite")
    assert status == 0, error
    genotype = json.loads(Path("runs/tiny/genotype.json").read_text())
    assert [plugin["file"] for plugin in genotype["plugins"]] == ["mine.py"]
    status, _, error = binas("retrain", "runs/tiny/genotype.json", "--name", "x")
    assert status == 2 and "needs the plug-in mine.py (it registers own_activation, own_sign" in error


def test_a_plugin_of_one_stage_is_recorded_in_the_checkpoint(done: Path, binas: Runner) -> None:
    Path("mine.py").write_text(PLUGIN)
    stages = "[{name: s, epochs: 1, binarization: {weight: {name: own_weight}}}]"
    words = ["retrain", "runs/tiny/genotype.json", "--retrain.stages", stages, "--name", "own"]
    status, _, error = binas(*words)
    assert status == 2 and "unknown weight binarizer 'own_weight'" in error and "--plugins FILE" in error
    status, _, error = binas(*words, "--plugins", "mine.py")
    assert status == 0, error
    assert json.loads(Path("runs/tiny/genotype.json").read_text())["plugins"] == []
    checkpoint = "runs/own/checkpoint.pt"
    for command in ("eval", "check", "profile"):
        status, _, error = binas(command, checkpoint, "--plugins", "mine.py")
        assert status == 0, error
        status, _, error = binas(command, checkpoint)
        assert status == 2 and "needs the plug-in mine.py" in error
    Path("mine.py").write_text(PLUGIN + "# changed\n")
    status, _, error = binas("eval", checkpoint, "--plugins", "mine.py")
    assert status == 2 and "has changed since" in error
