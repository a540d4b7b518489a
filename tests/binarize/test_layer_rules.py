"""Rules for single layers: which one decides, what a layer owns, stages, profile, files, errors."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from binas.arch.genotype import Edge, Genotype
from binas.arch.network import Network
from binas.arch.sample import random_genotype
from binas.arch.space import load_space
from binas.arch.supernet import Supernet
from binas.binarize import Binarization, BinarizerSpec, BinaryConv2d, LayerRule, set_precision
from binas.binarize.rules import layer_names, rule_for
from binas.errors import UserError
from binas.profile import profile_genotype, profile_module
from binas.train.stage import StageConfig

TERNARY = {"weight": {"name": "twn"}}
RSIGN = {"activation": {"name": "rsign"}}
NETWORK = {"init_channels": 4, "num_cells": 3, "stem_multiplier": 1, "reductions": [1]}
OPERATIONS = ["zeroise", "skip", "max_pool_3x3", "binary_conv_3x3", "binary_conv_5x5"]
CELL = (
    Edge(2, 0, "binary_conv_3x3"),
    Edge(2, 1, "binary_conv_3x3"),
    Edge(3, 0, "max_pool_3x3"),
    Edge(3, 2, "skip"),
)


def genotype(layers: list[dict[str, Any]] | None = None) -> Genotype:
    space = {
        "base": "binas",
        "operations": OPERATIONS,
        "num_nodes": 2,
        "network": NETWORK,
        "layers": layers or [],
    }
    return Genotype(
        space=load_space(space).model_dump(mode="json"),
        num_nodes=2,
        edges_per_node=2,
        normal=CELL,
        reduce=CELL,
    )


def rule(**keys: Any) -> LayerRule:
    return LayerRule.model_validate(keys)


def layers_of(network: torch.nn.Module) -> dict[str, BinaryConv2d]:
    return {names.path: layer for names, layer in layer_names(network)}


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([], None),
        ([{"match": "cells.0.*"}], 0),
        ([{"match": "cells.0"}], 0),
        ([{"match": "cells.1.*"}], None),
        ([{"match": "*.binary_conv_3x3"}], 0),
        ([{"match": "cells.0.edges.edge_2_0.binary_conv_3x3.conv"}], 0),
        ([{"match": "ells.0"}], None),
        ([{"type": "binary_conv_3x3"}], 0),
        ([{"type": "BinaryConv"}], 0),
        ([{"type": "BinaryConv2d"}], 0),
        ([{"type": "Cell"}], 0),
        ([{"type": "binary_conv"}], None),
        ([{"match": "cells.*"}, {"type": "binary_conv_3x3"}], 1),
        ([{"type": "binary_conv_3x3"}, {"match": "cells.*"}], 1),
        ([{"type": "binary_conv_3x3"}, {"match": "cells.1.*"}], 0),
    ],
)
def test_the_last_rule_that_fits_decides(rules: list[dict[str, Any]], expected: int | None) -> None:
    path = "cells.0.edges.edge_2_0.binary_conv_3x3.conv"
    network = Network(genotype(), 1, 3)
    names = next(names for names, _ in layer_names(network) if names.path == path)
    built = [rule(**{**keys, "binarization": TERNARY}) for keys in rules]
    found = rule_for(names, built)
    assert found == (None if expected is None else built[expected])


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"binarization": TERNARY}, "exactly one of match"),
        ({"match": "a", "type": "b", "binarization": TERNARY}, "exactly one of match"),
        ({"match": "a"}, "give either binarization, or precision: real"),
        ({"match": "a", "precision": "real", "binarization": TERNARY}, "give either"),
        ({"match": "a", "precision": "half"}, "precision"),
        ({"match": "a", "precision": "real_weights"}, "how activations are quantized"),
        ({"match": "a", "precision": "real_activations"}, "how weights are quantized"),
    ],
)
def test_a_rule_that_says_too_little_or_too_much(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        rule(**keys)


def test_a_space_binarizes_layers_as_its_rules_say() -> None:
    rules: list[dict[str, Any]] = [
        {"match": "cells.1.*", "binarization": TERNARY},
        {"match": "cells.2.preprocess", "precision": "real"},
        {"match": "cells.1.edges.edge_2_0", "binarization": RSIGN},
    ]
    network = Network(genotype(rules), 1, 3)
    for path, layer in layers_of(network).items():
        real = path.startswith("cells.2.preprocess")
        assert (layer.keeps_real, layer.binarize_weights) == (real, not real)
        weight = "twn" if path.startswith("cells.1.") and "edge_2_0" not in path else "xnor"
        activation = "rsign" if path.startswith("cells.1.edges.edge_2_0") else "sign"
        assert [key.split("_")[0] for key in layer.weight_binarizers] == [weight]
        assert [key.split("_")[0] for key in layer.activation_binarizers] == [activation]
    set_precision(network)
    for path, layer in layers_of(network).items():
        real = path.startswith("cells.2.preprocess")
        assert layer.binarize_weights == layer.binarize_activations == (not real)
    plain = Network(genotype(), 1, 3)
    assert set(plain.state_dict()) < set(network.state_dict())  # RSign's thresholds
    assert network(torch.randn(2, 1, 8, 8)).shape == (2, 3)


def test_layers_without_a_rule_are_built_as_ever() -> None:
    torch.manual_seed(0)
    plain = Network(genotype(), 1, 3).state_dict()
    torch.manual_seed(0)
    ruled = Network(genotype([{"match": "cells.2.*", "binarization": TERNARY}]), 1, 3).state_dict()
    for name, value in ruled.items():
        if not name.startswith(("cells.2.", "classifier")):
            assert torch.equal(value, plain[name]), name


def test_the_binarizer_of_the_first_stage_starts_the_layer() -> None:
    rules = [{"match": "cells.1.*", "binarization": {"weight": {"name": "bop"}}}]
    for path, layer in layers_of(Network(genotype(rules), 1, 3)).items():
        is_code = set(torch.unique(layer.weight.detach()).tolist()) <= {-1.0, 1.0}
        assert is_code == path.startswith("cells.1.")


def test_stages_choose_by_their_own_rules() -> None:
    space = load_space(genotype([{"type": "Preprocess", "binarization": TERNARY}]).space)
    first = StageConfig(name="a").completed(space)
    second = StageConfig(
        name="b",
        binarization=Binarization(weight=BinarizerSpec(name="bwn")),
        layers=(rule(match="cells.0.*", precision="real"), rule(type="binary_conv_3x3", binarization=RSIGN)),
    ).completed(space)
    third = StageConfig(name="c", layers=()).completed(space)
    stages = (first, second, third)
    assert first.layers == space.layers and third.layers == ()
    assert second.registered_names() == {"sign", "bwn", "rsign", "xnor"}
    network = Network(
        genotype(),
        1,
        3,
        binarizations=tuple(s.binarization for s in stages if s.binarization),
        layers=tuple(s.layers or () for s in stages),
    )
    keys = list(network.state_dict())

    def active() -> dict[str, tuple[str, str, bool]]:
        return {
            path: (
                type(layer.activation_binarizer).__name__,
                type(layer.weight_binarizer).__name__,
                layer.binarize_weights,
            )
            for path, layer in layers_of(network).items()
        }

    for stage in (first, second, third, first):
        stage.apply(network)
        assert list(network.state_dict()) == keys
        found = active()
        preprocess = found["cells.0.preprocess.1.1"], found["cells.1.preprocess.1.1"]
        conv = found["cells.1.edges.edge_2_0.binary_conv_3x3.conv"]
        if stage is first:
            assert preprocess == (("Sign", "Twn", True),) * 2 and conv == ("Sign", "Xnor", True)
        elif stage is second:
            assert preprocess == (("Sign", "Bwn", False), ("Sign", "Bwn", True))
            # the later rule is for this type in all cells, cell 0 too
            assert conv == ("RSign", "Xnor", True)
            assert found["cells.0.edges.edge_2_0.binary_conv_3x3.conv"] == conv
        else:
            assert set(found.values()) == {("Sign", "Xnor", True)}
        network(torch.randn(2, 1, 8, 8)).sum().backward()


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"match": "cells.7.*"}, "match: cells.7"),
        ({"match": "cels.0.*"}, "there are, for example, cells.0"),
        ({"type": "binary_conv_7x7"}, "binary_conv_3x3"),
        ({"type": "max_pool_3x3"}, "type: max_pool_3x3"),
    ],
)
def test_a_rule_that_fits_nothing_is_named(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match="fits none of the") as caught:
        Network(genotype([{**keys, "precision": "real"}]), 1, 3)
    assert told in str(caught.value)


def test_an_operation_that_the_search_left_out_may_have_a_rule() -> None:
    rules = [{"type": "binary_conv_5x5", "binarization": TERNARY}]
    found = genotype(rules)
    Network(found, 1, 3)
    supernet = Supernet(load_space(found.space), 1, 3)
    ternary = {path for path, layer in layers_of(supernet).items() if "twn" in layer.weight_binarizers}
    assert ternary == {path for path in layers_of(supernet) if "binary_conv_5x5" in path} != set()


@pytest.mark.parametrize("switches", [(True, True), (True, False)])
def test_profile_counts_each_layer_as_its_rule_says(switches: tuple[bool, bool]) -> None:
    rules = (
        rule(type="binary_conv_3x3", binarization=TERNARY),
        rule(match="cells.0.preprocess", precision="real"),
        rule(match="cells.2.edges", binarization={"activation": {"name": "dorefa", "bits": 2}}),
    )
    plain = profile_genotype(genotype(), 1, (8, 8), 3, binarize_weights=switches[1])
    ruled = profile_genotype(genotype(), 1, (8, 8), 3, binarize_weights=switches[1], layers=rules)
    network = Network(genotype(), 1, 3, binarizations=(Binarization(),), layers=(rules,))
    set_precision(network, *switches)
    assert ruled.totals() | {"parameters_as_published": 0} == profile_module(network, 1, (8, 8)).totals() | {
        "parameters_as_published": 0
    }
    assert ruled.parameters == plain.parameters
    by_name = {layer.name: layer for layer in ruled.layers if layer.kind == "convolution"}
    before = {layer.name: layer for layer in plain.layers if layer.kind == "convolution"}
    for name, layer in by_name.items():
        if not switches[1] or name.startswith("stem") or name.endswith("reduce"):
            continue
        if name.startswith("cells.0.preprocess"):
            assert layer.bops == 0 and layer.flops == before[name].bops and layer.weight_bits == 32
        elif name.startswith("cells.2.edges"):
            assert (layer.bops, layer.weight_bits) == (2 * before[name].bops, 1)
        elif "binary_conv_3x3" in name:
            assert (layer.bops, layer.weight_bits) == (2 * before[name].bops, 2)
            assert layer.bits == 2 * layer.binary_parameters
        else:
            assert layer == before[name]


HALVES = (
    rule(
        match="cells.0.preprocess",
        precision="real_weights",
        binarization={"activation": {"name": "dorefa", "bits": 2}},
    ),
    rule(
        match="cells.2.edges",
        precision="real_activations",
        binarization={"weight": {"name": "dorefa", "bits": 4}},
    ),
)


@pytest.mark.parametrize("real_activation", ["none", "relu"])
@pytest.mark.parametrize("switches", [(True, True), (True, False), (False, True), (False, False)])
def test_one_half_stays_real_and_the_other_follows_the_stage(
    switches: tuple[bool, bool], real_activation: Any
) -> None:
    torch.manual_seed(0)
    network = Network(genotype(), 1, 3, binarizations=(Binarization(),), layers=(HALVES,)).eval()
    set_precision(network, *switches, real_activation=real_activation)
    seen = set()
    for path, layer in layers_of(network).items():
        weights = path.startswith("cells.0.preprocess")
        activations = path.startswith("cells.2.edges")
        assert layer.binarize_activations is (switches[0] and not activations), path
        assert layer.binarize_weights is (switches[1] and not weights), path
        assert not layer.keeps_real
        if not (weights or activations):
            continue
        x = 3 * torch.randn(2, layer.in_channels, 6, 6)
        read = x.relu() if real_activation == "relu" and not activations else x
        if layer.binarize_activations:
            read = (3 * x.clamp(0, 1)).round() / 3
        kernel = layer.weight.detach()
        if layer.binarize_weights:
            squashed = kernel.tanh() / (2 * kernel.tanh().abs().max()) + 0.5
            kernel = 2 * (15 * squashed).round() / 15 - 1
        expected = torch.nn.functional.conv2d(
            read, kernel, None, layer.stride, layer.padding, layer.dilation, layer.groups
        )
        assert torch.allclose(layer(x), expected, atol=1e-5), path
        seen.add((weights, activations))
    assert seen == {(True, False), (False, True)}


def test_a_stage_without_these_rules_binarizes_both_halves() -> None:
    network = Network(genotype(), 1, 3, binarizations=(Binarization(),) * 2, layers=(HALVES, ()))
    assert not all(layer.binarize_weights for layer in layers_of(network).values())
    set_precision(network, binarization=Binarization())
    for layer in layers_of(network).values():
        assert layer.binarize_weights and layer.binarize_activations
        assert not (layer.keeps_real_weights or layer.keeps_real_activations)
    set_precision(network, binarization=Binarization(), layers=HALVES)
    assert {layer.keeps_real_weights for layer in layers_of(network).values()} == {True, False}


def test_profile_counts_a_real_half() -> None:
    plain = profile_genotype(genotype(), 1, (8, 8), 3)
    ruled = profile_genotype(genotype(), 1, (8, 8), 3, layers=HALVES)
    before = {layer.name: layer for layer in plain.layers if layer.kind == "convolution"}
    seen = 0
    for layer in (layer for layer in ruled.layers if layer.kind == "convolution"):
        macs = before[layer.name].bops
        if layer.name.startswith("cells.0.preprocess"):
            found = (layer.bops, layer.flops, layer.input_bits, layer.weight_bits)
            assert found == (0, macs, 2, 32) and layer.binary_parameters == 0
            assert layer.bits == 32 * before[layer.name].parameters
            assert "precision: real_weights" in layer.reason
            seen += 1
        elif layer.name.startswith("cells.2.edges"):
            found = (layer.bops, layer.flops, layer.input_bits, layer.weight_bits)
            assert found == (0, macs, 32, 4) and layer.real_parameters == 0 and layer.reason == ""
            assert layer.bits == 4 * before[layer.name].parameters
            seen += 1
        else:
            assert layer == before[layer.name]
    assert seen > 3 and ruled.parameters == plain.parameters


def test_procedures_leave_a_real_half_alone() -> None:
    inq = Binarization(weight=BinarizerSpec(name="inq"))
    rules = (
        rule(match="cells.0", precision="real_weights", binarization=inq.model_dump()),
        rule(match="cells.1", precision="real_activations", binarization=inq.model_dump()),
        rule(match="cells.2", precision="real"),
    )
    keys = {"name": "s", "binarization": inq, "layers": rules}
    network = Network(genotype(), 1, 3, binarizations=(inq,), layers=(rules,))
    portions = StageConfig.model_validate({**keys, "portions": {}})
    portions.apply(network)
    portions.begin_epoch(network, 1)
    layers = layers_of(network)
    for path, layer in layers.items():
        share = 0.75 if path.startswith("cells.1") else None
        assert getattr(layer.weight_binarizer, "asked", None) == share, path
    layerwise = StageConfig.model_validate({**keys, "layerwise": {"order": "inverse_depth"}})
    turns = [path for path in layers if not path.startswith("cells.2")][::-1]
    for epoch in (0, 2, 99):
        assert layerwise.begin_epoch(network, epoch) == {"binary_layers": min(epoch + 1, len(turns))}
        for path, layer in layers.items():
            has_come = path in turns[: epoch + 1]
            assert layer.binarize_activations is (has_come and path.startswith("cells.0")), path
            assert layer.binarize_weights is (has_come and path.startswith("cells.1")), path


def test_a_search_with_rules_goes_to_a_checked_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, binas: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rules.yaml").write_text(
        "name: rules\n"
        "data: {name: synthetic, images_per_class: 10}\n"
        "space:\n"
        "  base: binas\n"
        "  operations: [skip, binary_conv_3x3, binary_conv_5x5]\n"
        "  num_nodes: 2\n"
        "  supernet: {num_cells: 2, init_channels: 4, preprocess: binary}\n"
        "  layers: [{type: Preprocess, binarization: {weight: {name: twn}}}]\n"
        "search: {phases: [{epochs: 1}]}\n"
        "retrain:\n"
        "  network: {num_cells: 2, init_channels: 4}\n"
        "  stages:\n"
        "  - {name: first, epochs: 1, binarize_weights: false}\n"
        "  - name: second\n"
        "    epochs: 1\n"
        "    binarization: {activation: {name: rsign}, weight: {name: bwn}}\n"
        "    layers: [{match: cells.0.preprocess.1, precision: real}]\n"
    )
    status, _, error = binas("search", "rules.yaml")
    assert status == 0, error
    status, _, error = binas("retrain", "runs/rules/genotype.json", "--name", "out")
    assert status == 0, error
    status, output, _ = binas("check", "runs/out/checkpoint.pt")
    assert status == 0 and "precision: real" in output and "NOT BINARY" not in output
    assert "cells.0.preprocess.1.1 (BinaryConv2d" in output
    for command in ("eval", "profile"):
        assert binas(command, "runs/out/checkpoint.pt")[0] == 0
    words = (
        "retrain",
        "runs/rules/genotype.json",
        "--name",
        "bad",
        "--retrain.stages.1.layers.0.match",
        "x.*",
    )
    status, _, error = binas(*words)
    assert status == 2 and "match: x.*" in error and not Path("runs/bad").exists()


def test_random_genotypes_with_rules_run() -> None:
    space = load_space(genotype([{"type": "binary_conv_5x5", "precision": "real"}]).space)
    for seed in range(3):
        drawn = random_genotype(space, random.Random(seed))
        assert Network(drawn, 1, 3)(torch.randn(2, 1, 8, 8)).isfinite().all()
