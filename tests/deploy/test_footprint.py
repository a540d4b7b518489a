"""What an exported network takes: the rule, the file, the measures, `binas profile`."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import binas
from binas.arch.sample import random_genotype
from binas.arch.space import load_space
from binas.deploy.export import export_module
from binas.deploy.footprint import footprint, footprint_of
from binas.deploy.model_file import write_model
from binas.profile import Limits, count
from tests.deploy.programs import shaken
from tests.quick import few_of


def header_bytes(file: Path) -> int:
    """Of a safetensors file: the length, and the words of that length."""
    return 8 + struct.unpack("<Q", file.read_bytes()[:8])[0]


@pytest.mark.parametrize(
    "name", few_of(["resnet20", "xnor_resnet18", "mobilenet_group", "reactnet_resnet18"], ["resnet20"])
)
def test_the_file_is_the_rule_and_a_header(name: str, tmp_path: Path) -> None:
    module = binas.create_model(name, num_classes=10, image_size=32, width=0.25)
    fresh = footprint(module, (3, 32, 32), fresh=True)
    with torch.no_grad():
        for parameter in shaken(module).parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.02)
    model = export_module(module, torch.zeros(1, 3, 32, 32))
    size = write_model(model, tmp_path / "m.binas")
    assert size == footprint_of(model).export_bytes + header_bytes(tmp_path / "m.binas")
    # sizes follow from shapes: fresh weights take what trained ones do
    assert footprint_of(model) == fresh
    assert 0 < fresh.sign_bytes < fresh.export_bytes and fresh.activation_bytes > 0


def test_signs_of_a_layer_take_a_bit_each() -> None:
    layers = [binas.nn.BinaryConv2d(3, 7, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    found = footprint(torch.nn.Sequential(*layers), (3, 5, 5))
    # 7·3·9 weights and 3 directions of thresholds; 7 scales: thresholds of pixels and shifts are all 0
    assert (found.sign_bytes, found.real_bytes) == (24 + 1, 4 * 7)


def test_measures_are_what_the_network_takes() -> None:
    space = load_space({"base": "binas", "num_nodes": 2, "network": {"num_cells": 3, "init_channels": 4}})
    genotype = random_genotype(space, __import__("random").Random(1), ())
    limits = Limits.model_validate({"export_kb": 1.0, "activation_kb": {"at_most": 1e9}})
    state = torch.get_rng_state()
    values = limits.values(
        count(genotype, (16, 16), 10, 3), lambda: binas.create_network(genotype, num_classes=10)
    )
    assert torch.equal(state, torch.get_rng_state())
    found = footprint(binas.create_network(genotype, num_classes=10), (3, 16, 16), fresh=True)
    assert values == {
        "export_kb": found.export_bytes / 1000,
        "activation_kb": found.activation_bytes / 1000,
    }
    assert limits.excess_of(values)["export_kb"] > 0 > limits.excess_of(values)["activation_kb"]


def test_profile_tells_it_of_files_and_where_it_is_asked(binas: Callable[..., Any]) -> None:
    status, output, _ = binas("profile", "digits_searched", "--json", "-")
    storage = json.loads(output)["storage"]
    assert status == 0 and storage["export_bytes"] == (
        storage["export_sign_bytes"] + storage["export_real_bytes"]
    )
    assert "export_bytes" not in json.loads(binas("profile", "resnet20", "--json", "-")[1])["storage"]
    assert "of it signs" in binas("profile", "resnet20", "--export")[1]
    assert "of it signs" not in binas("profile", "digits_searched", "--no-export")[1]
