"""`binas check` catches a network that is not binary, and lists what is real-valued and why."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from binas.arch.network import Network
from binas.arch.sample import random_genotype
from binas.arch.space import load_space
from binas.binarize import (
    ACTIVATION_BINARIZERS,
    WEIGHT_BINARIZERS,
    ActivationBinarizer,
    Binarization,
    BinarizerSpec,
    BinaryConv2d,
    LayerRule,
    WeightBinarizer,
    set_precision,
)
from binas.binarize.contract import Bases
from binas.train.binary_check import check_network, real_layers

Runner = Callable[..., tuple[int, str, str]]
NETWORK = {"init_channels": 4, "num_cells": 3, "stem_multiplier": 1}
OPERATIONS = ["skip", "binary_conv_3x3", "binary_dilated_conv_3x3"]
SPACE = load_space({"base": "binas", "reduction_skip": "real", "operations": OPERATIONS, "network": NETWORK})
IMAGES = torch.randn(8, 1, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _forget_rigged_binarizers() -> Iterator[None]:
    with ACTIVATION_BINARIZERS.loading_from("rigged"), WEIGHT_BINARIZERS.loading_from("rigged"):

        @ACTIVATION_BINARIZERS.register("ternary")
        class Ternary(ActivationBinarizer):
            """Lets 0 through."""

            def __init__(self, channels: int) -> None:
                super().__init__()

            def forward(self, x: Tensor) -> Bases:
                return [(torch.sign(x) * (x.abs() > 0.1), None)]

        @WEIGHT_BINARIZERS.register("one_real")
        class OneReal(WeightBinarizer):
            """Binary but for the first weight of the last filter."""

            def __init__(self, shape: torch.Size) -> None:
                super().__init__()

            def forward(self, weight: Tensor) -> Bases:
                codes = torch.where(weight >= 0, 1.0, -1.0)
                codes[-1, 0, 0, 0] = 0.5
                return [(codes, None)]

    yield
    for registry in (ACTIVATION_BINARIZERS, WEIGHT_BINARIZERS):
        with registry.loading_from("rigged"):
            pass


def network(binarization: Binarization | None = None) -> Network:
    torch.manual_seed(0)
    binarizations = (binarization,) if binarization else ()
    return Network(random_genotype(SPACE, random.Random(5)), 1, 3, binarizations=binarizations)


def test_a_binary_network_is_binary() -> None:
    net = network()
    net.train()
    reports = check_network(net, IMAGES)
    assert len(reports) == sum(isinstance(module, BinaryConv2d) for module in net.modules())
    for report in reports:
        # a fresh batch-norm after a ReLU gives no negative number, so that one value may be alone
        assert report.is_binary and report.input_values <= {-1.0, 1.0} and report.weight_values == 2
    assert any(len(report.input_values) == 2 for report in reports)
    padded = {name for name, m in net.named_modules() if isinstance(m, BinaryConv2d) and m.padding}
    assert padded == {report.name for report in reports if report.pads_with_zero}
    assert net.training


@pytest.mark.parametrize("value", [-1.0, 1.0])
def test_padding_by_a_code_adds_no_value(value: float) -> None:
    reports = check_network(network(Binarization(pad_value=value)), IMAGES)
    assert all(report.is_binary and not report.pads_with_zero for report in reports)


def test_padding_by_another_number_is_seen() -> None:
    reports = check_network(network(Binarization(pad_value=0.5)), IMAGES)
    assert any(0.5 in report.input_values and not report.is_binary for report in reports)


def test_a_third_value_in_the_input_is_seen() -> None:
    reports = check_network(network(Binarization(activation=BinarizerSpec(name="ternary"))), IMAGES)
    seen = [report for report in reports if not report.is_binary]
    # two values are not enough: 0 is none of the two that the binarizer declares
    assert seen and all(0.0 in report.input_values for report in seen)
    assert any(report.input_values == {-1.0, 0.0, 1.0} for report in seen)


def test_one_weight_of_one_filter_is_seen() -> None:
    reports = check_network(network(Binarization(weight=BinarizerSpec(name="one_real"))), IMAGES)
    assert all(
        not report.is_binary and report.weight_values == 3 for report in reports if report.name[-1] != "1"
    )
    assert any(not report.is_binary for report in reports)


@pytest.mark.parametrize(
    ("activation", "weight", "verdict"),
    [
        ("sign", "twn", "3 × 2 levels"),
        ("dorefa", "xnor", "2 × 4 levels"),
        ("spike", "xnor", "binary"),
        ("sign", "syq", "2 × 2"),
    ],
)
def test_declared_levels_are_held_against_what_runs(activation: str, weight: str, verdict: str) -> None:
    binarization = Binarization(activation=BinarizerSpec(name=activation), weight=BinarizerSpec(name=weight))
    net = network(binarization)
    for report in check_network(net, IMAGES):
        assert report.is_as_declared, report
        if weight != "syq":
            assert report.verdict() == verdict
    for layer in (module for module in net.modules() if isinstance(module, BinaryConv2d)):
        layer.weight_binarizer.levels = (5,)
    assert not any(report.is_as_declared for report in check_network(net, IMAGES))


def test_a_layer_that_a_rule_keeps_real_is_told_as_such() -> None:
    rule = LayerRule(match="cells.0.preprocess", precision="real")
    torch.manual_seed(0)
    net = Network(
        random_genotype(SPACE, random.Random(5)), 1, 3, binarizations=(Binarization(),), layers=((rule,),)
    )
    reports = check_network(net, IMAGES)
    assert all(report.is_binary for report in reports)
    real = {name: why for name, _, _, why in real_layers(net)}
    assert "precision: real" in real["cells.0.preprocess.1.1"]
    assert not any(report.name.startswith("cells.0.preprocess") for report in reports)


def test_a_half_that_a_rule_keeps_real_is_told_as_such() -> None:
    binarization = Binarization(activation=BinarizerSpec(name="dorefa"), weight=BinarizerSpec(name="bwn"))
    rules = (
        LayerRule(match="cells.0", precision="real_weights", binarization=binarization),
        LayerRule(match="cells.1", precision="real_activations", binarization=binarization),
    )
    torch.manual_seed(0)
    net = Network(
        random_genotype(SPACE, random.Random(5)), 1, 3, binarizations=(Binarization(),), layers=(rules,)
    )
    real = {name: why for name, _, _, why in real_layers(net)}
    verdicts = {"cells.0": "real × 4 levels", "cells.1": "2 × real levels"}
    reports = check_network(net, IMAGES)
    for report in reports:
        cell = report.name[:7]
        assert report.is_as_declared and report.verdict() == verdicts.get(cell, "binary"), report
        assert report.is_binary == (cell not in verdicts)
        assert ("precision: real_weights" in real.get(report.name, "")) == (cell == "cells.0")
        assert not (cell == "cells.1" and report.pads_with_zero)
    assert {report.name[:7] for report in reports} > set(verdicts)
    # the other half is still held against its levels
    set_precision(net, binarize_activations=False)
    seen = {report.name[:7]: report.is_as_declared for report in check_network(net, IMAGES)}
    assert seen["cells.1"] and not seen["cells.0"]


@pytest.mark.parametrize("activations", [False, True])
def test_raw_weights_or_activations_are_seen(activations: bool) -> None:
    net = network()
    set_precision(net, binarize_activations=activations, binarize_weights=not activations)
    assert not any(report.is_binary for report in check_network(net, IMAGES))


def test_a_convolution_that_is_not_run_is_not_proved() -> None:
    net = network()
    net.extra = BinaryConv2d(2, 2, 1)
    report = next(report for report in check_network(net, IMAGES) if report.name == "extra")
    assert not report.is_binary and report.summary() == "was not run"


def test_real_layers_and_why() -> None:
    rows = {name: (kind, count, why) for name, kind, count, why in real_layers(network())}
    assert rows["stem.1"][:2] == ("Conv2d", 36) and "first layer" in rows["stem.1"][2]
    assert "last layer" in rows["classifier"][2]
    assert any("reduction_skip: real" in why for _, _, why in rows.values())
    total = sum(count for _, count, _ in rows.values())
    binary = sum(m.weight.numel() for m in network().modules() if isinstance(m, BinaryConv2d))
    assert total + binary == sum(p.numel() for p in network().parameters())


def test_the_command(done: Path, binas: Runner) -> None:
    status, output, _ = binas("check", "runs/tiny_retrain/checkpoint.pt")
    assert status == 0
    assert "NOT BINARY" not in output and "{-1, +1} and 0 from padding" in output
    assert "real-valued parameters:" in output and "classifier (Linear" in output
    assert "stage 'fully_binary': binary activations, binary weights" in output


def test_the_command_on_a_stage_with_real_weights(done: Path, binas: Runner) -> None:
    stages = "[{name: binary_activations, epochs: 1, binarize_weights: false}]"
    assert binas("retrain", "runs/tiny/genotype.json", "--retrain.stages", stages, "--name", "half")[0] == 0
    status, output, _ = binas("check", "runs/half/checkpoint.pt")
    assert status == 1
    assert (
        "NOT BINARY" in output and "binary activations, real weights" in output and "not binary: " in output
    )


def test_the_command_on_a_binarizer_that_lets_a_third_value_through(done: Path, binas: Runner) -> None:
    Path("leaky.py").write_text(
        "import torch\n"
        "from binas.binarize import ACTIVATION_BINARIZERS, ActivationBinarizer\n"
        "@ACTIVATION_BINARIZERS.register('leaky')\n"
        "class Leaky(ActivationBinarizer):\n"
        "    def __init__(self, channels):\n"
        "        super().__init__()\n"
        "    def forward(self, x):\n"
        "        codes = torch.sign(x).detach() + x - x.detach()\n"
        "        return [(codes.masked_fill(x == x.max(), 0.0), None)]\n"
    )
    stages = "[{name: s, epochs: 1, binarization: {activation: {name: leaky}}}]"
    words = ["--retrain.stages", stages, "--name", "leaky", "--plugins", "leaky.py"]
    assert binas("retrain", "runs/tiny/genotype.json", *words)[0] == 0
    status, output, _ = binas("check", "runs/leaky/checkpoint.pt", "--plugins", "leaky.py")
    assert status == 1 and "NOT BINARY" in output
    status, _, error = binas("check", "runs/tiny/checkpoint.pt")
    assert status == 2 and "is the checkpoint of a search, not of a retrain" in error
