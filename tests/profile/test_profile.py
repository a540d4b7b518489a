"""Counts by hand, the closed form against what runs, plug-ins without a closed form, table, CSV and chart."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import spaces_of
from torch import Tensor, nn
from torch.nn import functional as F

from binas.arch.genotype import Edge, Genotype, read_genotype
from binas.arch.network import Network
from binas.arch.sample import random_genotype
from binas.arch.space import NetworkSettings, load_space
from binas.binarize import (
    ACTIVATION_BINARIZERS,
    WEIGHT_BINARIZERS,
    ActivationBinarizer,
    Binarization,
    BinarizerSpec,
    BinaryConv2d,
    WeightBinarizer,
    set_precision,
)
from binas.binarize.contract import register_activation_binarizer
from binas.config import find_file
from binas.errors import UserError
from binas.ops import OPS, OpContext, build_op, register_op
from binas.ops.nonlinearities import register_nonlinearity
from binas.profile import CONVENTIONS, LayerCost, Place, Profile, op_cost, profile_genotype, profile_module
from binas.profile.chart import figure, save_chart
from binas.profile.executed import executed_layers
from binas.profile.table import short_count, to_csv, to_table
from tests.oracles.operation_costs import closed_op_cost

OWN_OPS = sorted(name for name in OPS if name != "zeroise" and not OPS.origin(name))
SMALL = {
    "name": "small",
    "operations": ["zeroise", "skip", "max_pool_3x3", "binary_conv_3x3"],
    "num_nodes": 1,
    "network": {
        "init_channels": 4,
        "num_cells": 3,
        "reductions": [1],
        "stem_multiplier": 2,
        "batch_norm_affine": True,
        "batch_norm_after_pool": False,
    },
}
NORMAL = (Edge(2, 0, "binary_conv_3x3"), Edge(2, 1, "max_pool_3x3"))
REDUCE = (Edge(2, 0, "binary_conv_3x3"), Edge(2, 1, "zeroise"))


def small_genotype(**changes: Any) -> Genotype:
    space = SMALL | changes
    return Genotype(space=space, num_nodes=1, edges_per_node=2, normal=NORMAL, reduce=REDUCE)


def by_name(layers: Any) -> list[LayerCost]:
    return sorted(layers, key=lambda layer: (layer.name, layer.kind))


@pytest.fixture
def plugin() -> Iterator[None]:
    registries = (OPS, ACTIVATION_BINARIZERS, WEIGHT_BINARIZERS)
    contexts = [registry.loading_from("test") for registry in registries]
    for context in contexts:
        context.__enter__()
    yield
    for context in contexts:
        context.__exit__(None, None, None)
    for registry in registries:
        with registry.loading_from("test"):
            pass  # forgets what the test registered


# ---- by hand: one channel, 6×5 pixels, 3 classes; cells normal, reduce, normal with 4, 8, 8 channels


def test_totals_by_hand() -> None:
    profile = profile_genotype(small_genotype(), 1, (6, 5), 3)
    binary = (
        (8 * 4 + 8 * 4 + 4 * 4 * 9)  # cell 0: two 1×1 preprocessings and a 3×3 convolution
        + (8 * 8 + 8 * 8 * 9)  # cell 1: its second input is not read
        + (4 * 8 * 9 + 8 * 8 + 8 * 8 * 9)  # cell 2: 3×3 preprocessing of the larger input
    )
    real = 1 * 8 * 9 + (4 * 8 * 4 + 8) + (8 * 3 + 3)  # stem, 2×2 reduction skip with bias, classifier
    norms = 2 * (1 + (8 + 8 + 4) + (8 + 8 + 4) + (8 + 8))  # none affine before the strided preprocessing
    assert (binary, real, norms) == (1776, 235, 114)
    assert profile.totals() == {
        "parameters": 2125,
        "parameters_as_published": 2165,  # cell 1: batch-norm of 4 and 1×1 convolution from 4 to 8 channels
        "binary_parameters": 1776,
        "bits": 1776 + 32 * (235 + 114),
        "flops": 72 * 30 + 128 * 9 + 24,
        "bops": (32 + 32 + 144) * 30 + (64 * 30 + 576 * 9) + (288 + 64 + 576) * 9,
        "ops": 3336 + 21696 / 64,
    }


def test_everything_by_hand() -> None:
    profile = profile_genotype(small_genotype(), 1, (6, 5), 3)
    stem = 30 + 240
    # batch-norm, sign, scale, ReLU of two preprocessings and a convolution; pool; addition
    cell_0 = 2 * (240 + 240 + 120 + 120) + 4 * 120 + 9 * 120 + 120
    # preprocessing; strided convolution; batch-norm of the skip's 4 channels of 6×5; its addition
    cell_1 = 4 * 240 + (240 + 240 + 72 + 72) + 4 * 30 + 72
    cell_2 = (120 + 120 + 72 + 72) + 4 * 72 + 4 * 72 + 9 * 72 + 2 * 72
    average = 72
    extra = stem + cell_0 + cell_1 + cell_2 + average
    assert extra == 6990
    assert profile.flops_of_everything == 3336 + extra
    assert profile.ops_of_everything == 3336 + extra + 339


def test_storage_by_hand() -> None:
    profile = profile_genotype(small_genotype(), 1, (6, 5), 3)
    assert profile.packed_bytes == 1618
    assert profile.scale_bytes == 4 * (4 + 4 + 4 + 8 + 8 + 8 + 8 + 8)  # one for each filter
    assert profile.float_bytes == 2125 * 4
    assert profile.binary_share == 1776 / 2125
    assert profile.largest_activation_bytes == 4 * (8 * 30 + 8 * 30)


def test_layers_by_hand() -> None:
    layers = {
        (layer.name, layer.kind): layer for layer in profile_genotype(small_genotype(), 1, (6, 5), 3).layers
    }
    skip = layers["cells.1.skip.reduce", "convolution"]
    assert (skip.precision, skip.input_shape, skip.output_shape) == ("real × real", (4, 6, 6), (8, 3, 3))
    assert skip.why_real
    conv = layers["cells.2.preprocess.0.1", "convolution"]
    assert (conv.precision, conv.input_shape, conv.output_shape) == ("binary × binary", (4, 6, 5), (8, 3, 3))
    assert not conv.why_real and conv.scale_bits == 8 * 32


def test_bytes_are_rounded_up_per_layer() -> None:
    layers = [
        LayerCost(f"conv{i}", "convolution", (1,), (1,), weight_bits=1, binary_parameters=9) for i in "ab"
    ]
    assert Profile(tuple(layers)).bits == 18
    assert Profile(tuple(layers)).packed_bytes == 4


def test_bnas_a_has_the_published_number_of_parameters() -> None:
    genotype = read_genotype(find_file("bnas_latest_cell_zeroise", "genotypes"), OPS)
    profile = profile_genotype(genotype, 3, (32, 32), 10, load_space("bnas").network)
    assert profile.parameters == 5_525_548
    assert profile.parameters_as_published == 5_578_252


def test_operations_that_only_dead_nodes_feed_count_as_published() -> None:
    dead = (Edge(2, 0, "zeroise"), Edge(2, 1, "zeroise"), Edge(3, 2, "binary_conv_3x3"), Edge(3, 1, "skip"))
    live = (*dead[:2], Edge(3, 2, "zeroise"), dead[3])
    space = SMALL | {"num_nodes": 2}
    profiles = [
        profile_genotype(
            Genotype(space=space, num_nodes=2, edges_per_node=2, normal=cell, reduce=live), 1, (6, 5), 3
        )
        for cell in (dead, live)
    ]
    assert profiles[0].parameters == profiles[1].parameters
    extra = profiles[0].parameters_as_published - profiles[1].parameters_as_published
    assert extra == (4 * 4 * 9 + 2 * 4) + (8 * 8 * 9 + 2 * 8)  # cells 0 and 2


# ---- the closed form against what runs


CHOICES: list[dict[str, Any]] = [
    {},
    {"activation": "rprelu"},
    {"estimator": BinarizerSpec(name="rsign")},
    {"activation": "none", "estimator": BinarizerSpec(name="dorefa", bits=2)},
]


def with_choices(genotype: Genotype, generator: random.Random) -> Genotype:
    """The genotype with activations and estimators chosen for some of its edges."""
    cells = {
        kind: tuple(
            edge if edge.op == "zeroise" else edge._replace(**generator.choice(CHOICES))
            for edge in genotype.cell(kind)
        )
        for kind in ("normal", "reduce")
    }
    return genotype.model_copy(update=cells)


GROUPINGS = [
    {"channels_per_group": 3, "groups": None},
    {"channels_per_group": None, "groups": 4, "shuffle": True},
    {"channels_per_group": 1, "groups": None},
]
BINARIZATIONS = [
    {"activation": {"name": "sign"}, "weight": {"name": "xnor"}},
    {"activation": {"name": "rsign"}, "weight": {"name": "react"}},
    {"activation": {"name": "dorefa", "bits": 3}, "weight": {"name": "dorefa", "bits": 4}},
    {"activation": {"name": "dorefa", "bits": 8}, "weight": {"name": "dorefa", "bits": 8}},
    {"activation": {"name": "abc_net", "bases": 2}, "weight": {"name": "abc_net", "bases": 3}},
    {"activation": {"name": "sign"}, "weight": {"name": "twn"}},
    {"activation": {"name": "sign"}, "weight": {"name": "syq"}},
]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    base=st.sampled_from(spaces_of("cell")),
    image_size=st.tuples(st.integers(5, 17), st.integers(5, 17)),
    in_channels=st.sampled_from([1, 3]),
    switches=st.sampled_from([(True, True), (True, False), (False, True), (False, False)]),
)
def test_closed_form_equals_what_runs(
    seed: int, base: str, image_size: tuple[int, int], in_channels: int, switches: tuple[bool, bool]
) -> None:
    generator = random.Random(seed)
    num_cells = generator.choice([1, 3, 4])
    network_settings = {
        "init_channels": 12,
        "num_cells": num_cells,
        "widths": generator.choice([None, [generator.choice([1, 2]) for _ in range(num_cells)]]),
        "stem": generator.choice(["cifar", "imagenet"]),
        "preprocess": generator.choice(["real", "binary"]),
        "batch_norm_affine": generator.random() < 0.5,
        "batch_norm_after_pool": generator.random() < 0.5,
    }
    changes = {
        "network": network_settings,
        "reduction_skip": generator.choice(["real", "binary", "avg_pool"]),
        "inter_cell_skip": generator.random() < 0.7,
        "activation": generator.choice(["relu", "prelu", "none"]),
        "gating": generator.choice([None, {"reduction": 4}]),
        "grouping": generator.choice(GROUPINGS),
        "binarization": generator.choice(BINARIZATIONS),
    }
    genotype = with_choices(random_genotype(load_space({"base": base, **changes}), generator), generator)
    network = Network(genotype, in_channels, 7)
    set_precision(network, *switches)
    closed = profile_genotype(
        genotype, in_channels, image_size, 7, binarize_activations=switches[0], binarize_weights=switches[1]
    )
    run = profile_module(network, in_channels, image_size)
    assert by_name(closed.layers) == by_name(run.layers)
    assert closed.parameters == sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("switches", [(True, False), (False, True)], ids=["real weights", "real inputs"])
def test_one_real_side_makes_flops(switches: tuple[bool, bool]) -> None:
    both = profile_genotype(small_genotype(), 1, (6, 5), 3)
    one = profile_genotype(
        small_genotype(), 1, (6, 5), 3, binarize_activations=switches[0], binarize_weights=switches[1]
    )
    assert (one.flops, one.bops) == (both.flops + both.bops, 0)
    assert one.binary_parameters == (1776 if switches[1] else 0)
    assert one.parameters == both.parameters


@pytest.mark.parametrize("name", OWN_OPS)
def test_operations_cost_what_their_closed_form_says(name: str) -> None:
    for stride, size, normalized, affine, shuffles in (
        (1, (6, 6), True, False, False),
        (2, (7, 9), False, True, True),
        (2, (1, 2), True, True, False),
    ):
        context = OpContext(
            normalized_input=normalized,
            batch_norm_affine=affine,
            channel_shuffle=shuffles,
            activation="prelu",
        )
        place = Place("op", (8, *size), stride, context)
        module = build_op(name, 8, stride, context)
        cost = op_cost(name, place)
        assert by_name(cost.layers) == by_name(executed_layers(module, torch.zeros(1, *place.shape), "op"))
        assert cost.takes_normalized_input == bool(getattr(module, "takes_normalized_input", False))
        closed = closed_op_cost(name, place)
        assert by_name(closed.layers) == by_name(cost.layers)
        assert closed.takes_normalized_input == cost.takes_normalized_input


def test_operations_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second genotype of the same operations builds nothing; no network is built for any."""
    genotype = random_genotype(load_space("binas"), random.Random(1))
    first = profile_genotype(genotype, 3, (32, 32), 10)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a layer was built")

    for layer in (BinaryConv2d, nn.Conv2d, nn.BatchNorm2d, nn.Linear, nn.MaxPool2d, nn.AvgPool2d):
        monkeypatch.setattr(layer, "__init__", refuse)
    assert profile_genotype(genotype, 3, (32, 32), 10) == first and first.parameters > 1_000_000


@pytest.mark.parametrize("kind", ["activation", "binarizer"])
def test_one_that_is_registered_anew_is_measured_anew(plugin: None, kind: str) -> None:
    space = SMALL | (
        {"activation": "mine"} if kind == "activation" else {"binarization": {"activation": {"name": "mine"}}}
    )
    genotype = Genotype(space=space, num_nodes=1, normal=NORMAL, reduce=REDUCE)

    def counted(size: int) -> int:
        if kind == "activation":

            class Bent(nn.Module):
                def __init__(self, channels: int) -> None:
                    super().__init__()
                    self.bend = nn.Parameter(torch.ones(size, channels, 1, 1))

                def forward(self, x: Tensor) -> Tensor:
                    return x + self.bend[0]

            register_nonlinearity("mine", replace=True)(Bent)
        else:

            class Moved(ActivationBinarizer):
                def __init__(self, channels: int) -> None:
                    super().__init__()
                    self.threshold = nn.Parameter(torch.ones(size, channels, 1, 1))

                def forward(self, x: Tensor) -> list[tuple[Tensor, Tensor | None]]:
                    return [(torch.where(x >= self.threshold[0], 1.0, -1.0), None)]

            register_activation_binarizer("mine", replace=True)(Moved)
        profile = profile_genotype(genotype, 1, (6, 5), 3)
        assert profile.parameters == sum(p.numel() for p in Network(genotype, 1, 3).parameters())
        return profile.parameters

    assert counted(2) > counted(1)


def test_settings_replace_those_of_the_space() -> None:
    wide = NetworkSettings(**SMALL["network"] | {"init_channels": 8})  # type: ignore[operator]
    profile = profile_genotype(small_genotype(), 1, (6, 5), 3, wide)
    again = profile_genotype(small_genotype(network=wide.model_dump()), 1, (6, 5), 3)
    assert profile == again
    assert profile.parameters > 2 * 2125


def test_auxiliary_head_is_not_counted() -> None:
    network = Network(small_genotype(), 1, 3, auxiliary=True)
    assert profile_module(network, 1, (6, 5)).parameters == 2125


# ---- what runs, on plain modules


def test_module_is_left_as_it_was() -> None:
    network = Network(small_genotype(), 1, 3).train()
    network.cells[0].eval()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    profile_module(network, 1, (6, 5))
    assert network.training and not network.cells[0].training and network.stem.training
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


class Plain(nn.Module):
    """A transposed convolution, one layer that runs twice, own parameters, a functional convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2, 3, 2, stride=2)
        self.twice = nn.Conv2d(3, 3, 1, bias=False)
        self.gain = nn.Parameter(torch.ones(3, 1, 1))
        self.kernel = nn.Parameter(torch.ones(3, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.twice(self.twice(self.up(x))) * self.gain
        return F.conv2d(y, self.kernel, padding=1, groups=3)


def test_plain_module_by_hand() -> None:
    layers = {layer.name: layer for layer in profile_module(Plain(), 2, (4, 5)).layers}
    assert (layers["up"].flops, layers["up"].parameters) == (2 * 3 * 4 * 20, 2 * 3 * 4 + 3)
    assert (layers["twice"].flops, layers["twice"].parameters) == (2 * 9 * 80, 9)
    own = layers["network"]
    assert (own.flops, own.extra_operations, own.parameters) == (27 * 80, 3 * 80, 3 + 27)


# ---- plug-ins


def plain_op(channels: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, 1, groups=channels), nn.BatchNorm2d(channels)
    )


class ReadsNumbers(nn.Conv2d):
    """Looks at its input, which the meta device cannot do."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__(channels, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() >= 0 else -x)


class Raises(nn.Module):
    """Cannot run."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("no such thing")


@pytest.mark.parametrize(
    ("factory", "parameters", "weights"),
    [(plain_op, 8 * 9 + 8 + 16, 8 * 9), (ReadsNumbers, 64 + 8, 64)],
    ids=["any", "reads numbers"],
)
@pytest.mark.parametrize(("size", "pixels"), [((5, 6), 9), ((801, 800), 401 * 400)], ids=["few", "many"])
def test_plugin_is_run_alone(
    plugin: None, factory: Any, parameters: int, weights: int, size: tuple[int, int], pixels: int
) -> None:
    register_op("mine")(factory)
    before = torch.get_rng_state()
    profile = Profile(op_cost("mine", Place("x", (8, *size), 2, OpContext())).layers)
    assert (profile.parameters, profile.flops) == (parameters, weights * pixels)
    assert all(layer.name.startswith("x") for layer in profile.layers)
    assert torch.equal(torch.get_rng_state(), before)


def test_plugin_in_a_network_is_counted_as_it_runs(plugin: None) -> None:
    register_op("mine")(plain_op)
    normal = (Edge(2, 0, "mine"), Edge(2, 1, "binary_conv_3x3"))
    space = SMALL | {"operations": ["mine", "binary_conv_3x3"]}
    genotype = Genotype(space=space, num_nodes=1, normal=normal, reduce=normal)
    closed = profile_genotype(genotype, 1, (7, 9), 3)
    assert by_name(closed.layers) == by_name(profile_module(Network(genotype, 1, 3), 1, (7, 9)).layers)


def test_plugin_may_carry_its_closed_form(plugin: None) -> None:
    def cost(place: Place) -> list[LayerCost]:
        return [LayerCost(place.name, "convolution", place.shape, place.shape, flops=5, real_parameters=7)]

    Raises.cost = cost  # type: ignore[attr-defined]
    try:
        register_op("mine")(Raises)
        layers = op_cost("mine", Place("x", (8, 5, 6), 1, OpContext())).layers
    finally:
        del Raises.cost  # type: ignore[attr-defined]
    assert [(layer.flops, layer.parameters) for layer in layers] == [(5, 7)]


def test_plugin_that_raises_is_named(plugin: None) -> None:
    register_op("mine")(Raises)
    with pytest.raises(UserError, match=r"'mine' cannot be counted.*no such thing.*ops check"):
        op_cost("mine", Place("x", (8, 5, 6), 1, OpContext()))


class TwoBits(ActivationBinarizer):
    """Codes in {−3, −1, 1, 3} with a learned threshold per channel and a scale of their own."""

    bits = 2

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        codes = torch.where(x >= 0, 1.0, -1.0) * torch.where(x.abs() >= self.threshold, 3.0, 1.0)
        return [(codes, self.threshold.mean().reshape(1, 1, 1))]


class TwoBases(WeightBinarizer):
    """Two signs without scales."""

    num_bases = 2

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()

    def forward(self, weight: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        return [(weight.sign(), None), ((weight - 1).sign(), None)]


def test_wider_codes_and_several_bases(plugin: None) -> None:
    ACTIVATION_BINARIZERS.register("two_bits")(TwoBits)
    WEIGHT_BINARIZERS.register("two_bases")(TwoBases)
    binarization = Binarization(
        activation=BinarizerSpec(name="two_bits"), weight=BinarizerSpec(name="two_bases")
    )
    genotype = small_genotype()
    closed = profile_genotype(genotype, 1, (6, 5), 3, binarization=binarization)
    network = Network(genotype, 1, 3, binarizations=(binarization, Binarization()))
    run = profile_module(network, 1, (6, 5))
    assert by_name(closed.layers) == by_name(run.layers)
    assert closed.bops == 21696 * 2 * 2  # two bits of inputs, two bases of weights
    assert closed.bits == 12944 + 1776 + 32 * (closed.parameters - 2125)
    assert closed.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert closed.scale_bytes == 0


# ---- table, JSON, CSV, chart


def test_json_has_the_totals_and_all_layers() -> None:
    profile = profile_genotype(small_genotype(), 1, (6, 5), 3)
    data = json.loads(json.dumps(profile.to_json()))
    totals = profile.totals()
    assert {key: data[key] for key in totals} == totals
    assert data["everything"] == {"flops": 10326, "bops": 21696, "ops": 10665}
    assert len(data["layers"]) == len(profile.layers)
    for key in ("parameters", "bits", "flops", "bops", "ops", "packed_bytes"):
        total = data["storage"][key] if key == "packed_bytes" else data[key]
        assert sum(layer[key] for layer in data["layers"]) == total


def test_csv_has_a_line_per_layer() -> None:
    profile = profile_genotype(small_genotype(), 1, (6, 5), 3)
    rows = list(csv.DictReader(io.StringIO(to_csv(profile))))
    assert len(rows) == len(profile.layers)
    assert sum(int(row["bops"]) for row in rows) == 21696
    assert {row["name"]: row["output_shape"] for row in rows}["cells.1.skip.reduce"] == "8x3x3"


@pytest.mark.parametrize("layers", [False, True])
def test_table_fits_and_says_its_conventions(layers: bool) -> None:
    genotype = read_genotype(find_file("bats", "genotypes"), OPS)
    table = to_table(profile_genotype(genotype, 3, (32, 32), 10), layers)
    assert max(map(len, table.splitlines())) <= (126 if layers else 110)
    assert CONVENTIONS in table


def test_table_of_the_small_network() -> None:
    lines = to_table(profile_genotype(small_genotype(), 1, (6, 5), 3)).splitlines()
    assert [line.split()[0] for line in lines[2:8]] == ["stem", "cell", "cell", "cell", "head", "total"]
    assert " ".join(lines[4].split()) == "cell 1 3×3 816 78.4% 6.27k 0.8 5.5 1.15k 7.1k 1.26k"
    text = "\n".join(lines)
    assert (
        "A packed file would take 1.8 kB (1.6 kB of parameters, 0.2 kB of scales); as float32 8.5 kB" in text
    )
    assert "1,776 of 2,125 parameters are binary (83.6%); 12,944 bits" in text
    assert "As published 2,165 parameters: 40 more in 3 layers" in text
    assert "b 136 in cell 1.skip.reduce: down-sampling shortcut" in text
    precisions = next(line for line in lines if line.startswith("1-bit weights"))
    assert " ".join(precisions.split()) == "1-bit weights 1,776 1,776 13.7%"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (24, "24"),
        (999, "999"),
        (1000, "1k"),
        (999_600, "1000k"),
        (5_525_548, "5.53M"),
        (2e13, "20T"),
    ],
)
def test_short_counts(count: float, text: str) -> None:
    assert short_count(count) == text


def test_chart_has_a_bar_per_convolution_and_linear_layer(tmp_path: Path) -> None:
    profile = profile_genotype(small_genotype(), 1, (6, 5), 3)
    counted = [layer for layer in profile.layers if layer.kind in ("convolution", "linear")]
    above, below = figure(profile).axes
    assert [bar.get_height() for bar in above.patches] == [layer.ops for layer in counted]
    assert [bar.get_height() for bar in below.patches] == [layer.packed_bytes for layer in counted]
    path = save_chart(profile, tmp_path / "new" / "chart.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in path.parent.iterdir()] == ["chart.png"]


def test_chart_of_another_ending_is_refused(tmp_path: Path) -> None:
    profile = profile_genotype(small_genotype(), 1, (6, 5), 3)
    with pytest.raises(UserError, match=r"chart\.gif: cannot draw '\.gif'; end the name in \.png"):
        save_chart(profile, tmp_path / "chart.gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        save_chart(profile, tmp_path / "file" / "chart.png")
