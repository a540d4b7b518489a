"""MobileNetV2 with bits per layer: published sizes, its blocks, what its options binarize, the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from binas.binarize import Binarization, BinarizerSpec, BinaryConv2d, set_precision
from binas.config import build
from binas.errors import UserError
from binas.models import ModelChoice, Task, build_model
from binas.models.mobilenet_v2 import BlockOptions, InvertedOptions, block_inputs
from binas.profile import count
from binas.train.stage import StageConfig

Runner = Callable[..., tuple[int, str, str]]

MIXED: list[dict[str, Any]] = [
    {"channels": 8, "blocks": [{"expansion": 1}]},
    {
        "channels": 16,
        "stride": 2,
        "blocks": [
            {
                "kernel": 5,
                "expansion": 3,
                "bits": {
                    "pointwise_weight": 2,
                    "pointwise_activation": 4,
                    "depthwise_weight": 8,
                    "depthwise_activation": 1,
                },
            },
            {
                "kernel": 7,
                "expansion": 4,
                "kept": 0.5,
                "bits": {
                    "pointwise_weight": "real",
                    "pointwise_activation": 2,
                    "depthwise_weight": 4,
                    "depthwise_activation": "real",
                },
            },
            {"expansion": 2, "bits": {"depthwise_weight": "real", "depthwise_activation": "real"}},
        ],
    },
]
SMALL = {"stem": "cifar", "first_channels": 8, "stages": MIXED, "last_channels": 24}


def mixed(**more: Any) -> ModelChoice:
    return ModelChoice(name="mobilenet_v2", **{**SMALL, **more})


def bits_of(stages: list[dict[str, Any]]) -> dict[str, tuple[Any, Any]]:
    """Bits of weights and activations that the options ask for, by the path of the convolution."""
    found = {}
    for s, stage in enumerate(stages):
        for b, block in enumerate(stage["blocks"]):
            bits = block.get("bits", {})
            for layer, kind in (("expand", "pointwise"), ("depthwise",) * 2, ("project", "pointwise")):
                if layer == "expand" and block["expansion"] == 1:
                    continue
                pair = bits.get(f"{kind}_weight", 1), bits.get(f"{kind}_activation", 1)
                found[f"stages.{s}.{b}.{layer}"] = pair
    return found


def convolutions(network: nn.Module) -> dict[str, BinaryConv2d]:
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, BinaryConv2d)}


def sizes_by_hand(norms_before_expanding: bool) -> tuple[int, int]:
    """Multiply-accumulates at 224×224 and parameters of MobileNetV2, from the paper's table."""
    table = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]
    side, before = 112, 32
    macs, parameters = 27 * 32 * side**2, 27 * 32
    for t, c, n, s in table:
        for i in range(n):
            middle, out_side = t * before, side // s if i == 0 else side
            if t != 1:
                macs += before * middle * side**2
                parameters += before * middle + 2 * middle
            macs += (9 * middle + middle * c) * out_side**2
            parameters += 9 * middle + 2 * middle + middle * c + 2 * c
            parameters += 2 * before if norms_before_expanding else 0
            side, before = out_side, c
    macs += before * 1280 * side**2 + 1280 * 1000
    parameters += before * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    return macs, parameters + 2 * (320 if norms_before_expanding else 32)


def test_sizes_of_the_paper() -> None:
    macs, theirs = sizes_by_hand(False)
    assert theirs == 3_504_872  # torchvision's
    _, ours = sizes_by_hand(True)
    twin = count(ModelChoice(name="mobilenet_v2", real=True), (224, 224), 1000)
    assert (twin.flops, twin.parameters) == (macs, ours)
    assert macs == pytest.approx(300e6, rel=0.01) and ours == pytest.approx(3.4e6, rel=0.04)
    binary = count("mobilenet_v2", (224, 224), 1000)
    assert binary.flops + binary.bops == macs and binary.bops > 0.85 * macs


@pytest.mark.parametrize(
    ("options", "channels", "expected"),
    [
        ({}, 16, 96),
        ({"expansion": 4.5}, 16, 72),
        ({"expansion": 6, "kept": 0.4}, 24, 56),
        ({"expansion": 1}, 12, 12),
        ({"expansion": 1, "kept": 0.5}, 32, 16),
        ({"expansion": 2, "kept": 0.01}, 8, 8),
    ],
)
def test_middle_channels(options: dict[str, Any], channels: int, expected: int) -> None:
    assert BlockOptions(**options).middle(channels) == expected


def test_channels_that_enter_blocks_are_those_that_are_built() -> None:
    for width in (1.0, 1.4):
        choice = ModelChoice(name="mobilenet_v2", width=width)
        options = choice.options()
        assert isinstance(options, InvertedOptions)
        with torch.device("meta"):
            layers = convolutions(build_model(choice, Task(3, (32, 32), 10, ())))
        for s, (stage, inputs) in enumerate(zip(options.stages, block_inputs(options), strict=True)):
            for b, (block, channels) in enumerate(zip(stage.blocks, inputs, strict=True)):
                depthwise = layers[f"stages.{s}.{b}.depthwise"]
                expand = layers.get(f"stages.{s}.{b}.expand", depthwise)
                assert expand.in_channels == channels
                assert depthwise.groups == depthwise.out_channels == block.middle(channels)


def test_a_smaller_network_has_the_names_of_the_larger() -> None:
    whole = build_model(mixed(), Task(1, (16, 16), 3, ())).state_dict()
    fewer = [MIXED[0], {**MIXED[1], "blocks": MIXED[1]["blocks"][:2]}]
    part = build_model(mixed(stages=fewer), Task(1, (16, 16), 3, ())).state_dict()
    missing = {name for name in whole if name.startswith("stages.1.2.")}
    assert missing and set(part) == set(whole) - missing


def test_real_blocks_compute_what_the_paper_writes() -> None:
    """Batch-norm and hard-tanh before each convolution, a batch-norm after the last, the input added."""
    torch.manual_seed(0)
    network = build_model(mixed(real=True), Task(1, (16, 16), 3, ())).double().eval()
    state = network.state_dict()
    x = torch.randn(2, 16, 5, 6, dtype=torch.float64)

    deviation = (1 + 1e-5) ** 0.5  # of a fresh batch-norm: mean 0, variance 1, scale 1, shift 0
    y = x
    for layer, padding in (("expand", 0), ("depthwise", 3), ("project", 0)):
        weight = state[f"stages.1.1.{layer}.weight"]
        groups = len(weight) if layer == "depthwise" else 1
        y = F.conv2d((y / deviation).clamp(-1, 1), weight, padding=padding, groups=groups)
    assert torch.allclose(network.get_submodule("stages.1.1")(x), x + y / deviation, atol=1e-12)


@pytest.mark.parametrize("uniform", [1, 2, 4, 8, "real"])
def test_every_layer_has_the_bits_of_the_options(uniform: Any) -> None:
    names = ("pointwise_weight", "pointwise_activation", "depthwise_weight", "depthwise_activation")
    alike = [
        {**stage, "blocks": [{**block, "bits": dict.fromkeys(names, uniform)} for block in stage["blocks"]]}
        for stage in MIXED
    ]
    for stages in (MIXED, alike):
        choice = mixed(stages=stages)
        layers = convolutions(build_model(choice, Task(1, (16, 16), 3, ())))
        wanted = bits_of(stages)
        assert set(layers) == set(wanted)
        for path, (weight, activation) in wanted.items():
            layer = layers[path]
            assert layer.binarize_weights is (weight != "real"), path
            assert layer.binarize_activations is (activation != "real"), path
            if weight != "real":
                assert len(layer.weight_binarizer.levels) == 2**weight, path
            if activation != "real":
                assert len(layer.activation_binarizer.levels) == 2**activation, path
        assert {rule.match for rule in choice.layers} == {k for k, pair in wanted.items() if pair != (1, 1)}


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_levels_of_activations_are_evenly_spaced_over_plus_and_minus_one(bits: int) -> None:
    stages = [{"channels": 8, "blocks": [{"bits": {"depthwise_activation": bits}}]}]
    network = build_model(mixed(stages=stages), Task(1, (16, 16), 3, ())).eval()
    binarizer = convolutions(network)["stages.0.0.depthwise"].activation_binarizer
    (pair,) = binarizer(torch.linspace(-2, 2, 5001).view(1, 1, 1, -1))
    assert pair[1] is not None
    values = torch.unique((pair[0] * pair[1]).detach())
    assert torch.allclose(values, torch.linspace(-1, 1, 2**bits), atol=1e-6)


def test_one_step_at_mixed_bits() -> None:
    torch.manual_seed(0)
    network = build_model(mixed(), Task(1, (16, 16), 3, ()))
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    images, labels = torch.randn(8, 1, 16, 16), torch.arange(8) % 3
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("size", [(1, 1), (9, 7), (17, 5)], ids=str)
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("last_channels", [0, 16])
def test_odd_images(size: tuple[int, int], stem: str, last_channels: int) -> None:
    network = build_model(mixed(stem=stem, last_channels=last_channels), Task(2, size, 5, ())).eval()
    before = tuple(-(-length // (2 if stem == "imagenet" else 1)) for length in size)
    image = torch.randn(1, 2, *size)
    y = network.get_submodule("stages")(network.get_submodule("stem")(image))
    assert y.shape == (1, 16, *(-(-length // 2) for length in before))
    assert network(image).shape == (1, 5)


def test_the_profile_counts_products_of_bits() -> None:
    profile = count(mixed(), (16, 16), 3, 1)
    twin = {layer.name: layer.flops for layer in count(mixed(real=True), (16, 16), 3, 1).layers}
    counted = {layer.name: layer for layer in profile.layers if layer.kind == "convolution"}
    for path, (weight, activation) in bits_of(MIXED).items():
        layer, macs = counted[path], twin[path]
        if "real" in (weight, activation):
            assert (layer.flops, layer.bops) == (macs, 0), path
        else:
            assert (layer.flops, layer.bops) == (0, macs * weight * activation), path
        stored = 32 if weight == "real" else weight
        learned = 2 if activation in (2, 4, 8) else 0  # the outermost level and the slope of dsq
        latent = convolutions(build_model(mixed(), Task(1, (16, 16), 3, ())))[path].weight.numel()
        assert layer.bits == stored * latent + 32 * learned, path
        assert ("real" in layer.reason) == (weight == "real"), path


def test_stages_take_the_rules_unless_they_have_their_own() -> None:
    choice = mixed()
    stage = StageConfig(name="s").completed(choice)
    assert stage.layers == choice.layers and stage.binarization == choice.binarization
    assert StageConfig(name="s", layers=()).completed(choice).layers == ()
    assert mixed(real=True).layers == () and ModelChoice(name="mobilenet_v2").layers == ()
    assert ModelChoice(name="resnet20").layers == ()


def test_another_estimator_of_a_stage_leaves_layers_with_bits_of_their_own() -> None:
    choice = mixed()
    other = Binarization(activation=BinarizerSpec(name="approx_sign"))
    stages = [StageConfig(name="s").completed(choice)]
    stages += [StageConfig(name="t", binarization=other).completed(choice)]
    assert stages[0].binarization is not None
    task = Task(1, (16, 16), 3, (stages[0].binarization, other), (choice.layers,) * 2)
    network = build_model(choice, task)
    set_precision(network, binarization=other, layers=choice.layers)
    for path, layer in convolutions(network).items():
        weight, activation = bits_of(MIXED)[path]
        if (weight, activation) == (1, 1):
            assert layer.active_activation == "approx_sign"
        elif activation not in (1, "real"):
            assert layer.active_activation.startswith("dsq")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stages": [{"channels": 8, "blocks": [{"kernel": 4}]}]}, ["kernel", "3, 5 or 7"]),
        ({"stages": [{"channels": 8, "blocks": []}]}, ["stages.0.blocks", "at least 1"]),
        ({"stages": [{"channels": 8, "blocks": [{"bits": {"pointwise_weight": 3}}]}]}, ["1, 2, 4, 8"]),
        ({"stages": [{"channels": 8, "blocks": [{"bits": {"weight": 3}}]}]}, ["bits", "weight"]),
        ({"stages": [{"channels": 8, "blocks": [{"kept": 0}]}]}, ["kept", "greater than 0"]),
        ({"stages": [{"channels": 8, "stride": 3, "blocks": [{}]}]}, ["stride", "1 or 2"]),
    ],
    ids=str,
)
def test_wrong_options_are_told_with_key_and_remedy(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        build(ModelChoice, {"name": "mobilenet_v2", **options}, "recipe.yaml")
    for word in ["recipe.yaml", *words]:
        assert word in str(error.value)


def test_bits_go_from_a_recipe_to_what_is_trained_checked_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, binas: Runner
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = {
        "name": "bits",
        "tensorboard": False,
        "num_threads": 1,
        "model": {"name": "mobilenet_v2", **SMALL},
        "data": {"name": "synthetic", "images_per_class": 8, "num_classes": 3, "image_size": 16},
        "retrain": {
            "batch_size": 8,
            "stages": [{"name": "a", "epochs": 1, "binarize_weights": False}, {"name": "b", "epochs": 1}],
        },
    }
    Path("bits.yaml").write_text(json.dumps(recipe))
    status, _, error = binas("retrain", "--config", "bits.yaml")
    assert status == 0, error
    status, out, _ = binas("check", "runs/bits/checkpoint.pt")
    assert status == 0 and "NOT BINARY" not in out
    for verdict in ("4 × 16 levels", "256 × 2 levels", "real × 4 levels", "16 × real levels"):
        assert verdict in out
    assert "precision: real_weights" in out and "precision: real\n" in out
    status, out, _ = binas("profile", "runs/bits/checkpoint.pt", "--json", "-")
    expected = count(mixed(), (16, 16), 3, 1)
    assert (
        status == 0 and json.loads(out)["bops"] == expected.bops and json.loads(out)["bits"] == expected.bits
    )
    status, out, _ = binas("eval", "runs/bits/checkpoint.pt", "--json")
    assert status == 0 and len(json.loads(out)["model"]) < 200
    status, out, _ = binas("models", "mobilenet_v2")
    assert status == 0 and "--model.stages.0.blocks.0.bits.pointwise_weight (default: 1)" in out
