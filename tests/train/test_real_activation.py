"""What stands in place of the sign while activations are real: ReLU and clip of a pre-training stage."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binas.arch.network import Network
from binas.arch.sample import random_genotype
from binas.arch.space import load_space
from binas.binarize import BinaryConv2d, binary_convolutions, set_precision
from binas.config import build
from binas.errors import UserError
from binas.recipe import Recipe

FUNCTIONS: list[tuple[str, Callable[[Tensor], Tensor]]] = [
    ("none", lambda x: x),
    ("relu", lambda x: x * (x > 0)),
    ("clip", lambda x: x.clamp(-1, 1)),
]


@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
@pytest.mark.parametrize("binarize_weights", [False, True])
def test_convolves_what_the_function_gives(
    name: str, function: Callable[[Tensor], Tensor], binarize_weights: bool
) -> None:
    torch.manual_seed(0)
    conv = BinaryConv2d(4, 6, 3, padding=1)
    x = (2 * torch.randn(2, 4, 5, 5)).requires_grad_()
    set_precision(conv, False, binarize_weights, real_activation=name)  # type: ignore[arg-type]
    expected = BinaryConv2d(4, 6, 3, padding=1)
    expected.load_state_dict(conv.state_dict())
    set_precision(expected, False, binarize_weights)
    y = conv(x)
    assert torch.equal(y, expected(function(x)))
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    (oracle,) = torch.autograd.grad(expected(function(x)).square().sum(), x)
    assert torch.allclose(gradient, oracle)
    assert gradient.abs().sum() > 0


def test_a_binary_stage_ignores_it_and_a_layer_kept_real_has_none() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(BinaryConv2d(4, 4, 3), BinaryConv2d(4, 4, 3))
    kept = network[1]
    assert isinstance(kept, BinaryConv2d)
    kept.keeps_real_activations = kept.keeps_real_weights = True
    x = torch.randn(1, 4, 6, 6)
    set_precision(network)
    binary = network[0](x)
    set_precision(network, real_activation="relu")
    assert torch.equal(network[0](x), binary)
    assert torch.equal(kept(-x.abs()), F.conv2d(-x.abs(), kept.weight))


def test_cells_pass_it_on() -> None:
    torch.manual_seed(0)
    space = load_space("binas")
    genotype = random_genotype(space, random.Random(1))
    network = Network(
        genotype, 3, 4, settings=space.network.model_copy(update={"init_channels": 4, "num_cells": 3})
    ).eval()
    x = torch.randn(2, 3, 8, 8)
    set_precision(network, False, False)
    raw = network(x)
    set_precision(network, False, False, real_activation="relu")
    rectified = network(x)
    assert not torch.allclose(raw, rectified)
    set_precision(network, False, False)
    for _, conv in binary_convolutions(network):
        conv.register_forward_pre_hook(lambda module, inputs: (F.relu(inputs[0]),))
    assert torch.allclose(network(x), rectified, atol=1e-5)


def test_a_stage_with_signs_has_no_place_for_it(tmp_path: Path) -> None:
    stage = {"name": "binary", "real_activation": "clip"}
    with pytest.raises(UserError, match="binarize_activations: false"):
        build(Recipe, {"retrain": {"stages": [stage]}}, str(tmp_path / "recipe.yaml"))
    stages = [{**stage, "binarize_activations": False, "binarize_weights": False}]
    recipe = build(Recipe, {"retrain": {"stages": stages}}, "recipe")
    assert recipe.retrain.stages[0].format_precision() == "clip activations, real weights"
