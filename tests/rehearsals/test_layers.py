"""An operation, binarizers, a non-linearity from one file: used by name, recorded by name and hash, listed.

The file comes by `plugins:` of a recipe, and by an installed package's entry point.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

Runner = Callable[..., tuple[int, str, str]]

OWN = '''
"""Layers of our own."""
import torch
from torch import nn
import binas
from binas.binarize.schemes.straight_through import Sign
from binas.binarize.schemes.xnor import Xnor


@binas.register_op("blur", kind="weightless")
class Blur(nn.AvgPool2d):
    """The mean over 3×3 pixels."""

    def __init__(self, channels, stride):
        super().__init__(3, stride, padding=1)


@binas.register_activation_binarizer("shifted_sign")
class ShiftedSign(Sign):
    """The sign of x − ½."""

    variants = ({}, {"shift": 0.25})

    def __init__(self, channels, shift: float = 0.5):
        super().__init__(channels)
        self.shift = shift

    def forward(self, x):
        return super().forward(x - self.shift)


@binas.register_weight_binarizer("halved")
class Halved(Xnor):
    """XNOR-Net's with half the scale."""

    def forward(self, weight):
        return tuple((codes, scale / 2) for codes, scale in super().forward(weight))


@binas.register_nonlinearity("softplus")
class Softplus(nn.Softplus):
    """log(1 + exp x)."""

    def __init__(self, channels):
        super().__init__()
'''
NAMES = {"blur": "ops", "shifted_sign": "binarizers", "halved": "binarizers", "softplus": "methods"}
"""Each with the command that lists it."""


@pytest.fixture
def own(tiny: Path) -> Path:
    """The folder of `tiny`, whose recipe uses all of layers.py by name."""
    (tiny / "layers.py").write_text(OWN)
    text = (tiny / "tiny.yaml").read_text()
    text = text.replace("operations: [zeroise, skip, binary_conv_3x3]", "operations: [blur, binary_conv_3x3]")
    text = text.replace(
        "  num_nodes: 2\n",
        "  num_nodes: 2\n  activation: softplus\n"
        "  binarization: {activation: {name: shifted_sign, shift: 0.25}, weight: {name: halved}}\n",
    )
    (tiny / "tiny.yaml").write_text(f"plugins: [layers.py]\n{text}")
    return tiny


def test_they_are_searched_trained_and_recorded(own: Path, binas: Runner) -> None:
    status, _, error = binas("search", "tiny.yaml")
    assert status == 0, error
    genotype = json.loads(Path("runs/tiny/genotype.json").read_text())
    (record,) = genotype["plugins"]
    digest = hashlib.sha256((own / "layers.py").read_bytes()).hexdigest()
    assert record["sha256"] == digest and set(record["operations"]) == set(NAMES)
    words = ["retrain", "runs/tiny/genotype.json", "--config", "tiny.yaml", "--name", "trained"]
    status, _, error = binas(*words)
    assert status == 0, error
    structure = torch.load("runs/trained/checkpoint.pt", weights_only=True)["structure"]
    assert structure["stage"]["binarization"]["activation"] == {"name": "shifted_sign", "shift": 0.25}
    for command in ("check", "eval", "profile"):
        status, _, error = binas(command, "runs/trained/checkpoint.pt", "--plugins", "layers.py")
        assert status == 0, error
    status, _, error = binas("draw", "runs/tiny/genotype.json", "--plugins", "layers.py")
    assert status == 0, error
    (own / "layers.py").write_text(OWN + "\n# another version\n")
    status, _, error = binas(*words[:-1], "other", "--overwrite")
    assert status == 2 and "layers.py" in error, "a file that has changed is told"


def test_each_is_listed_by_its_command(own: Path, binas: Runner) -> None:
    for name, command in NAMES.items():
        status, output, error = binas(command, "--plugins", "layers.py")
        assert status == 0, error
        (line,) = [line for line in output.splitlines() if name in line.split()[:2]]
        assert line.endswith("[layers.py]")
    status, _, error = binas("search", "tiny.yaml", "--space.activation", "softplsu", "--name", "wrong")
    assert status == 2 and "did you mean 'softplus'" in error


@pytest.mark.usefixtures("own")
def test_they_keep_their_promises() -> None:
    from binas import load_plugin, testing

    load_plugin("layers.py")
    testing.check_operation("blur")
    testing.check_nonlinearity("softplus")
    testing.check_activation_binarizer("shifted_sign")
    testing.check_weight_binarizer("halved")


def test_an_installed_package_brings_them_too(
    own: Path, binas: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As pip leaves it: a module beside its metadata, found by its entry point."""
    site = own / "site"
    info = site / "own_layers-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "own_layers.py").write_text(OWN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-layers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[binas]\nown = own_layers\n")
    monkeypatch.syspath_prepend(str(site))
    text = (own / "tiny.yaml").read_text().replace("plugins: [layers.py]\n", "")
    (own / "tiny.yaml").write_text(text)
    try:
        status, _, error = binas("search", "tiny.yaml")
        assert status == 0, error
        (record,) = json.loads(Path("runs/tiny/genotype.json").read_text())["plugins"]
        assert set(record["operations"]) == set(NAMES)
    finally:
        sys.modules.pop("own_layers", None)
