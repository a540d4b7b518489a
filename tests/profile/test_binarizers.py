"""Profile of every binarizer, activation and gate: the closed form is what runs; counts by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from binas.arch.genotype import Edge, Genotype
from binas.arch.network import Network
from binas.arch.space import load_space
from binas.binarize import Binarization, BinaryConv2d, BinaryLinear
from binas.binarize.catalogue import KINDS, binarization_with, variants
from binas.ops import NONLINEARITIES
from binas.profile import LayerCost, profile_genotype, profile_module

VARIANTS = [
    (kind, name, options)
    for kind in ("activation", "weight")
    for name in KINDS[kind]
    for options in variants(kind, name)
]
NETWORK = {"init_channels": 8, "num_cells": 2, "stem_multiplier": 1, "reductions": [1]}
CELL = (Edge(2, 0, "binary_conv_3x3"), Edge(2, 1, "binary_dilated_group_conv_3x3"))


def genotype(**changes: Any) -> Genotype:
    space = {
        "base": "binas",
        "operations": ["zeroise", "binary_conv_3x3", "binary_dilated_group_conv_3x3"],
        "num_nodes": 1,
        "network": NETWORK,
        **changes,
    }
    mapping = load_space(space).model_dump(mode="json")
    return Genotype(space=mapping, num_nodes=1, edges_per_node=2, normal=CELL, reduce=CELL)


def by_name(layers: Any) -> list[LayerCost]:
    return sorted(layers, key=lambda layer: (layer.name, layer.kind))


@pytest.mark.parametrize(("kind", "name", "options"), VARIANTS, ids=str)
def test_closed_form_is_what_runs(kind: str, name: str, options: dict[str, Any]) -> None:
    binarization = binarization_with(kind, name, options)
    drawn = genotype(binarization=binarization.model_dump())
    network = Network(drawn, 1, 3)
    closed = profile_genotype(drawn, 1, (7, 6), 3)
    run = profile_module(network, 1, (7, 6))
    assert by_name(closed.layers) == by_name(run.layers)
    assert closed.parameters == sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", sorted(NONLINEARITIES))
def test_activations_and_gates(activation: str, gated: bool) -> None:
    gating = {"reduction": 4} if gated else None
    drawn = genotype(activation=activation, gating=gating)
    network = Network(drawn, 1, 3)
    closed = profile_genotype(drawn, 1, (7, 6), 3)
    assert by_name(closed.layers) == by_name(profile_module(network, 1, (7, 6)).layers)
    assert closed.parameters == sum(parameter.numel() for parameter in network.parameters())
    gates = [layer for layer in closed.layers if ".gating" in layer.name and layer.kind == "linear"]
    assert len(gates) == (8 if gated else 0)


@pytest.mark.parametrize(
    ("activation", "weight", "bops_per_mac", "bits_per_weight"),
    [
        ({"name": "sign"}, {"name": "xnor"}, 1, 1),
        ({"name": "spike"}, {"name": "xnor"}, 1, 1),
        ({"name": "sign"}, {"name": "twn"}, 2, 2),
        ({"name": "sign"}, {"name": "ls2"}, 2, 2),
        ({"name": "sign"}, {"name": "abc_net", "bases": 3}, 3, 3),
        ({"name": "abc_net", "bases": 2}, {"name": "abc_net", "bases": 3}, 6, 3),
        ({"name": "dorefa", "bits": 3}, {"name": "dorefa", "bits": 4}, 12, 4),
        ({"name": "dorefa", "bits": 8}, {"name": "twn"}, 16, 2),
        ({"name": "dorefa", "bits": 2}, {"name": "ls2"}, 4, 2),
    ],
)
def test_bit_operations_and_storage(
    activation: dict[str, Any], weight: dict[str, Any], bops_per_mac: int, bits_per_weight: int
) -> None:
    binarization = Binarization.model_validate({"activation": activation, "weight": weight})
    conv = BinaryConv2d(4, 6, 3, padding=1, groups=2, binarizations=[binarization])
    (layer,) = (one for one in profile_module(conv, 4, (5, 7)).layers if one.kind == "convolution")
    weights, macs = 6 * 2 * 9, 6 * 2 * 9 * 5 * 7
    assert (layer.bops, layer.flops) == (bops_per_mac * macs, 0)
    assert (layer.weight_bits, layer.binary_parameters) == (bits_per_weight, weights)
    learned = sum(p.numel() for p in conv.parameters()) - weights
    assert layer.bits == bits_per_weight * weights + 32 * learned


def test_codes_of_more_than_8_bits_are_real_numbers() -> None:
    conv = BinaryConv2d(4, 4, 1)
    conv.activation_binarizer.bits = 12
    (layer,) = profile_module(conv, 4, (2, 2)).layers
    assert (layer.bops, layer.flops) == (0, 4 * 4 * 4)


def test_scales_inside_the_kernel_cost_one_operation_each_for_every_output() -> None:
    plain, places = (
        BinaryConv2d(4, 2, 3, binarizations=[Binarization.model_validate({"weight": weight})])
        for weight in ({"name": "bnn"}, {"name": "syq"})
    )
    (without,), (inside,) = (profile_module(conv, 4, (6, 6)).layers for conv in (plain, places))
    ((_, scale),) = places.weight_binarizer(places.weight)
    assert scale is not None and places.weight_binarizer.scales == "kernel"
    outputs = 2 * 4 * 4
    assert inside.extra_operations - without.extra_operations == scale.numel() * outputs
    assert inside.scale_bits == 32 * scale.numel()


def test_a_linear_layer_is_counted() -> None:
    with torch.no_grad():
        layer = BinaryLinear(12, 5)
        assert layer(torch.zeros(2, 12)).shape == (2, 5)
    (cost,) = profile_module(torch.nn.Sequential(torch.nn.Flatten(), layer), 3, (2, 2)).layers
    assert (cost.bops, cost.binary_parameters, cost.bits) == (60, 60, 60)
