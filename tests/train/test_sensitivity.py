"""One layer binary at a time: every figure against a forward pass written out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from binas.binarize import Binarization, BinarizerSpec
from binas.binarize.rules import LayerRule
from binas.data.batches import Batches
from binas.data.config import DataConfig
from binas.data.open_data import open_data
from binas.errors import UserError
from binas.models import ModelChoice
from binas.train.model_file import ModelStructure
from binas.train.sensitivity import Sensitivity, measure
from binas.train.stage import StageConfig

Runner = Callable[..., tuple[int, str, str]]
REAL_ACTIVATION = "binarize_weights: false, real_activation: relu"
BINARIZATION = Binarization(weight=BinarizerSpec.model_validate({"name": "xnor", "center": False}))
CHOICE = ModelChoice.model_validate(
    {"name": "mlp", "hidden": [12, 9], "activation": "hard_tanh", "binary_ends": True}
)
PARTS = {
    "nothing": (False, False),
    "weights": (False, True),
    "activations": (True, False),
    "both": (True, True),
}
RECIPE = """\
name: sensitive
tensorboard: false
num_threads: 1
data: {name: digits, subset: 200}
model: {name: mlp, hidden: [12], activation: hard_tanh, binary_ends: true}
retrain:
  batch_size: 32
  stages:
    - {name: real, epochs: 1, binarize_activations: false, binarize_weights: false}
"""


def structure() -> ModelStructure:
    data = open_data(DataConfig(name="digits", subset=300))
    stage = StageConfig(
        name="real", binarize_activations=False, binarize_weights=False, binarization=BINARIZATION, layers=()
    )
    return ModelStructure(
        model=CHOICE,
        binarizations=(BINARIZATION,),
        auxiliary=False,
        in_channels=1,
        num_classes=10,
        class_names=data.class_names,
        image_size=data.image_size,
        mean=data.mean,
        std=data.std,
        data=data.config,
        split_hashes=data.split_hashes,
        validation_fraction=0.1,
        stage=stage,
    )


def forward(network: Any, x: Tensor, layer: int, binary: tuple[bool, bool], statistics: list[Any]) -> Tensor:
    """The perceptron by hand; `statistics` has mean and variance of each batch-norm, or collects them."""
    norms = [m for m in network if isinstance(m, torch.nn.BatchNorm2d)]
    weights = [p[:, :, 0, 0] for p in network.parameters() if p.ndim == 4]
    x = x.flatten(1)
    for number, (weight, norm) in enumerate(zip(weights, norms, strict=True)):
        activations_too, weights_too = binary if number == layer else (False, False)
        if weights_too:
            scale = weight.abs().mean(dim=1, keepdim=True)
            weight = scale * torch.where(weight >= 0, 1.0, -1.0)
        if activations_too:
            x = torch.where(x >= 0, 1.0, -1.0)
        x = x @ weight.T
        if len(statistics) == number:
            statistics.append((x.mean(dim=0), x.var(dim=0)))
            mean, variance = x.mean(dim=0), x.var(dim=0, unbiased=False)
        else:
            mean, variance = statistics[number]
        x = (x - mean) / torch.sqrt(variance + norm.eps) * norm.weight + norm.bias
        x = x.clamp(-1, 1) if number < len(norms) - 1 else x
    return x


def expected(
    network: Any, layer: int, part: str, train: Sequence[Tensor], images: Tensor, labels: Tensor
) -> list[float]:
    """Loss and accuracy with the statistics as they are, then with those of training batches, by hand."""
    own = [(m.running_mean, m.running_var) for m in network if isinstance(m, torch.nn.BatchNorm2d)]
    batches: list[list[Any]] = []
    for batch in train:
        batches.append([])
        forward(network, batch, layer, PARTS[part], batches[-1])
    anew = [
        (torch.stack([b[i][0] for b in batches]).mean(0), torch.stack([b[i][1] for b in batches]).mean(0))
        for i in range(len(own))
    ]
    figures = []
    for statistics in (own, anew):
        logits = forward(network, images, layer, PARTS[part], list(statistics))
        loss = F.cross_entropy(logits, labels)
        figures += [loss.item(), (logits.argmax(1) == labels).double().mean().item()]
    return figures


@torch.no_grad()
def test_every_figure_is_that_of_a_forward_pass_by_hand() -> None:
    torch.manual_seed(1)
    made = structure()
    network = made.build_network().eval()
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
            norm.running_var.uniform_(0.3, 2)  # type: ignore[union-attr]
            norm.weight.uniform_(0.5, 2)
            norm.bias.normal_(0, 0.3)
    data = open_data(made.data)
    training, validation = data.retrain(0.3)
    cpu = torch.device("cpu")
    batches = [Batches(images, 105, cpu, data.mean, data.std) for images in (training, validation)]
    train = [images for images, _ in batches[0].epoch(0, shuffle=False)]
    seen = [list(part) for part in zip(*batches[1].epoch(0, shuffle=False), strict=True)]
    images, labels = (torch.cat(part) for part in seen)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    rows = measure(network, made, *batches)
    assert len(rows) == 1 + 3 * 3
    layers = list(dict.fromkeys(row.layer for row in rows))
    for row in rows:
        figures = [row.loss, row.accuracy, row.loss_estimated_anew, row.accuracy_estimated_anew]
        by_hand = expected(network, layers.index(row.layer) - 1, row.binarized, train, images, labels)
        assert figures == pytest.approx(by_hand, rel=1e-4), row
    assert len({round(row.loss, 5) for row in rows}) > 7, "layers differ"
    after = network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items()), "nothing is kept"


def test_layers_that_a_rule_keeps_real_are_left_out() -> None:
    made = structure()
    stage = made.stage.model_copy(update={"layers": (LayerRule(match="*1*", precision="real"),)})
    network = made.model_copy(update={"stage": stage, "layers": (stage.layers,)}).build_network()
    data = open_data(made.data)
    batches = Batches(data.retrain(0.5)[1], 64, torch.device("cpu"), data.mean, data.std)
    names = {row.layer for row in measure(network, made, batches, batches, ["weights"])}
    kept = {name for name, m in network.named_modules() if getattr(m, "keeps_real", False)}
    assert kept and not names & kept and len(names) > 1


def test_the_half_that_a_rule_keeps_real_is_left_out() -> None:
    made = structure()
    rule = LayerRule(match="*1*", binarization=Binarization(), precision="real_weights")
    stage = made.stage.model_copy(update={"layers": (rule,)})
    network = made.model_copy(update={"stage": stage, "layers": (stage.layers,)}).build_network()
    data = open_data(made.data)
    batches = Batches(data.retrain(0.5)[1], 64, torch.device("cpu"), data.mean, data.std)
    kept = {name for name, m in network.named_modules() if getattr(m, "keeps_real_weights", False)}
    rows = [row for row in measure(network, made, batches, batches) if row.layer in kept]
    assert kept == {row.layer for row in rows} and {row.binarized for row in rows} == {"activations"}


def test_a_checkpoint_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, binas: Runner) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE)
    assert binas("retrain", "--config", "r.yaml")[0] == 0
    file = "runs/sensitive/checkpoint.pt"
    stored = Path(file).read_bytes()
    words = ["sensitivity", file, "--images", "64", "--binarize", "weights", "both"]
    status, output, error = binas(*words, "--json", "--output", "b/s.md")
    assert status == 0, error
    rows = [Sensitivity(**row) for row in json.loads(output)]
    assert len(rows) == 1 + 2 * 2 and {row.binarized for row in rows} == {"nothing", "weights", "both"}
    assert file in Path("b/s.md").read_text() and Path("b/s.png").stat().st_size > 1000
    status, output, _ = binas(*words)
    assert status == 0 and output.startswith("| layer | binarized | loss |") and output.count("\n") == 2 + 5
    assert Path(file).read_bytes() == stored


def test_what_stands_in_place_of_the_sign_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, binas: Runner
) -> None:
    """The network with all layers real is the one that was trained, with the ReLU before its convolutions."""
    monkeypatch.chdir(tmp_path)
    recipe = RECIPE.replace("epochs: 1", "epochs: 3").replace("binarize_weights: false", REAL_ACTIVATION)
    Path("r.yaml").write_text(recipe.replace("hard_tanh", "none"))
    assert binas("retrain", "--config", "r.yaml")[0] == 0
    file = "runs/sensitive/checkpoint.pt"
    status, output, error = binas("eval", file, "--split", "validation", "--json")
    assert status == 0, error
    trained = json.loads(output)
    status, output, error = binas("sensitivity", file, "--binarize", "weights", "--json")
    assert status == 0, error
    base = json.loads(output)[0]
    assert (base["loss"], base["accuracy"]) == (trained["loss"], trained["accuracy"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nothing.pt",), "nothing.pt"),
        (("nothing.pt", "--images", "0"), "a number from 1 on"),
        (("nothing.pt", "--plugins", "gone.py"), "gone.py: no such plug-in file"),
    ],
)
def test_mistakes(words: tuple[str, ...], said: str, tiny: Path, binas: Runner) -> None:
    status, _, error = binas("sensitivity", *words)
    assert status == 2 and said in error


def test_a_network_without_binary_layers_is_told() -> None:
    with pytest.raises(UserError, match="no binary convolution"):
        measure(torch.nn.Sequential(torch.nn.Linear(2, 2)), structure(), None, None)  # type: ignore[arg-type]
