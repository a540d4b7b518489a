"""Published networks: every name builds, runs and trains; sizes are the published ones; twins are real."""

from __future__ import annotations

import itertools
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binas.arch.network import Network
from binas.binarize import Binarization, BinarizerSpec, binary_convolutions, set_precision
from binas.binarize.rules import LayerRule
from binas.config import build
from binas.errors import UserError
from binas.models import MODELS, ModelChoice, Task, build_model
from binas.models.bireal import LeakyClip
from binas.models.cells import NormedConv, SkippedConv
from binas.models.dense import ImprovementLayer
from binas.models.layers import average_pool, scaled
from binas.models.mobilenet import Around
from binas.models.reactnet import ReActBlock, ReActNetOptions
from binas.models.resnet20 import PaddedShortcut
from binas.ops.contract import OpContext
from binas.ops.convolutions import BinaryConv
from binas.profile import count, profile_module
from tests.quick import few_of

NAMED = [
    "xnor_alexnet",
    "xnor_resnet18",
    "xnor_resnet34",
    "bireal_resnet18",
    "bireal_resnet34",
    "bireal_resnet50",
    "bireal_resnet152",
    "resnete18",
    "resnete34",
    "binary_densenet28",
    "binary_densenet37",
    "binary_densenet45",
    "meliusnet22",
    "meliusnet29",
    "meliusnet42",
    "meliusnet59",
    "meliusnet_a",
    "meliusnet_b",
    "meliusnet_c",
    "reactnet_a",
    "reactnet_b",
    "reactnet_c",
    "reactnet_resnet18",
    "real_to_binary_resnet18",
    "bnas_mini",
    "bnas_a",
    "bnas_b",
    "bnas_c",
    "bnas_d",
    "bnas_e",
    "bnas_f",
    "bnas_g",
    "bnas_h",
    "bats_cifar",
    "bats_imagenet",
    "bats_imagenet_2x",
    "mobilenet_group",
    "mobinet",
    "vgg_small",
    "vgg10",
    "mlp",
    "resnet20",
]
SMALL: dict[str, dict[str, Any]] = {
    "bats_cifar": {"num_cells": 3, "init_channels": 24},
    "bats_imagenet": {"num_cells": 3, "init_channels": 32},
    "bnas_mini": {"num_cells": 3, "init_channels": 8},
    "bnas_h": {"num_cells": 3, "init_channels": 8},
    "ebnas": {"num_cells": 3, "init_channels": 14},
    "mlp": {"hidden": (16, 16)},
    "autobnn_resnet18_a": {"ratios": (0.25,) * 12},
}
"""Options that make a network small; others take a width."""
FAMILIES = [
    "xnor_alexnet",
    "xnor_resnet18",
    "bireal_resnet18",
    "bireal_resnet50",
    "resnete18",
    "binary_densenet28",
    "meliusnet_a",
    "reactnet_a",
    "reactnet_b",
    "reactnet_resnet18",
    "real_to_binary_resnet18",
    "mobilenet_group",
    "mobinet",
    "vgg_small",
    "vgg10",
    "resnet20",
    *SMALL,
]
"""One of each architecture."""


def small(name: str, **options: Any) -> ModelChoice:
    return ModelChoice(name=name, **{**SMALL.get(name, {"width": 0.25}), **options})


def imagenet_stem(name: str) -> dict[str, str]:
    """The option that asks for it, of a network that has one."""
    return {"stem": "imagenet"} if "stem" in type(MODELS[name].options).model_fields else {}


def task(*binarizations: Binarization, size: tuple[int, int] = (32, 32), **more: Any) -> Task:
    return Task(3, size, 10, binarizations, **more)


def on_meta(choice: ModelChoice, num_classes: int = 1000, size: tuple[int, int] = (224, 224)) -> nn.Module:
    with torch.device("meta"):
        return build_model(choice, Task(3, size, num_classes, ()))


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def norm_channels(module: nn.Module) -> int:
    return sum(norm.num_features for norm in module.modules() if isinstance(norm, nn.BatchNorm2d))


def check_gradients(network: nn.Module, size: tuple[int, int]) -> None:
    """Two images forward and backward; every parameter that trains gets a finite gradient."""
    images = torch.randn(2, 3, *size)
    logits = network(images)
    assert logits.shape == (2, 10) and logits.isfinite().all()
    F.cross_entropy(logits, torch.tensor([1, 2])).backward()  # type: ignore[no-untyped-call]
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} is not reached"
            assert parameter.grad.isfinite().all(), name


def test_every_published_name_is_registered() -> None:
    assert set(NAMED) <= set(MODELS) and len(NAMED) == len(set(NAMED))


@pytest.mark.parametrize("name", few_of(MODELS, FAMILIES))
def test_forward_and_backward_at_32(name: str) -> None:
    torch.manual_seed(0)
    network = build_model(ModelChoice(name=name), task())
    assert any(binary_convolutions(network))
    check_gradients(network, (32, 32))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_and_its_twin_at_224(name: str) -> None:
    """With its ImageNet stem where it has one; the twin computes in real numbers what is binary here."""
    stem = imagenet_stem(name)
    binary, twin = (
        count(ModelChoice(name=name, real=real, **stem), (224, 224), 1000) for real in (False, True)
    )
    assert binary.bops > 0 and twin.bops == 0 and twin.binary_parameters == 0
    assert twin.flops == binary.flops + binary.bops


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_forward_and_backward_at_224(name: str) -> None:
    torch.manual_seed(0)
    size = (224, 224)
    is_flat = name in ("vgg_small", "vgg10") or name.startswith("autobnn_vgg")  # their heads read all pixels
    choice = small(name) if is_flat else ModelChoice(name=name, **imagenet_stem(name))
    check_gradients(build_model(choice, task(size=size)), size)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (33, 20)], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_any_size_of_image_and_number_of_classes(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = build_model(small(name), Task(1, size, 3, ()))
    assert network(torch.randn(2, 1, *size)).shape == (2, 3)
    with torch.no_grad():
        assert network.eval()(torch.randn(1, 1, *size)).isfinite().all()


STEMMED = [
    name
    for name in MODELS
    if "stem" in type(MODELS[name].options).model_fields and name != "xnor_alexnet"  # its is not apart
]


@pytest.mark.parametrize("name", few_of(STEMMED, set(STEMMED) & set(FAMILIES)))
def test_stems_keep_the_network_behind_them(name: str) -> None:
    field = type(MODELS[name].options).model_fields["stem"]
    behind, strides = set(), set()
    for kind in get_args(field.annotation):
        network = on_meta(ModelChoice(name=name, stem=kind), 10, (32, 32))
        stem = network.get_submodule("stem")
        behind.add(num_parameters(network) - num_parameters(stem))
        output = stem(torch.zeros(1, 3, 32, 32, device="meta"))
        strides.add(32 // (output[-1] if isinstance(output, tuple) else output).shape[-1])
    assert len(strides) == 2 and min(strides) == 1
    # cells read a stem of other width
    assert len(behind) == 1 or MODELS[name].has_cells


WITH_STATISTICS = {
    # counted with running statistics, 4 numbers for each channel of a batch-norm (larq_zoo's docstrings)
    "bireal_resnet18": 11_699_112,
    "resnete18": 11_699_368,
    "binary_densenet28": 5_150_504,
    "real_to_binary_resnet18": 11_995_624,
}


@pytest.mark.parametrize(("name", "published"), WITH_STATISTICS.items())
def test_parameters_as_larq_counts_them(name: str, published: int) -> None:
    network = on_meta(ModelChoice(name=name))
    assert num_parameters(network) + 2 * norm_channels(network) == published


def test_parameters_of_meliusnet22() -> None:
    """6,944,584 without running statistics; they are of the grouped stem."""
    assert num_parameters(on_meta(ModelChoice(name="meliusnet22", stem="grouped"))) == 6_944_584


def test_parameters_of_xnor_alexnet() -> None:
    """Larq's batch-norms have no scale, but its count holds their two running statistics: 3 per channel."""
    network = on_meta(ModelChoice(name="xnor_alexnet"))
    assert num_parameters(network) + norm_channels(network) == 62_396_768


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("reactnet_a", 29.34),
        ("meliusnet59", 55.56),
        ("meliusnet22", 6.95),
        ("binary_densenet28", 5.13),
        ("bireal_resnet18", 11.69),
        ("bnas_d", 28.41),
        ("bnas_e", 32.00),
        ("bnas_g", 37.34),
        ("bnas_h", 160.0),
    ],
)
def test_parameters_in_millions(name: str, millions: float) -> None:
    digits = 1 if millions == 160.0 else 2
    assert round(num_parameters(on_meta(ModelChoice(name=name))) / 1e6, digits) == millions


@pytest.mark.parametrize(
    ("name", "flops", "bops", "ops"),
    [
        ("reactnet_a", 0.12e8, 4.82e9, 0.87e8),
        ("bireal_resnet18", 1.39e8, 1.68e9, 1.63e8),
        ("binary_densenet28", None, None, 2.58e8),
        ("meliusnet22", None, None, 2.58e8),
        ("meliusnet59", 2.45e8, 18.3e9, 5.32e8),
        ("bnas_d", None, 2.9319e9, None),
    ],
)
def test_operations_of_the_papers(
    name: str, flops: float | None, bops: float | None, ops: float | None
) -> None:
    with torch.device("meta"):
        profile = profile_module(on_meta(ModelChoice(name=name)), 3, (224, 224))
    totals = profile.to_json()
    for key, published in (("flops", flops), ("bops", bops), ("ops", ops)):
        if published is not None:  # as printed, two or three digits
            assert totals[key] == pytest.approx(published, rel=0.02), key


@pytest.mark.parametrize("name", FAMILIES)
def test_the_twin_is_real_everywhere_and_as_large(name: str) -> None:
    torch.manual_seed(0)
    binary, twin = (build_model(small(name, real=real), task()) for real in (False, True))
    assert not any(binary_convolutions(twin))
    own = sum(
        num_parameters(conv.activation_binarizers) + num_parameters(conv.weight_binarizers)
        for _, conv in binary_convolutions(binary)
    )
    assert num_parameters(twin) == num_parameters(binary) - own
    check_gradients(twin, (32, 32))


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("mlp",)])
def test_the_twin_is_not_linear(name: str) -> None:
    """Without its signs a network needs activations in their place."""
    torch.manual_seed(0)
    twin = build_model(small(name, real=True), task()).double().eval()
    a, b = torch.randn(2, 1, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        bent = twin(a) + twin(b) - 2 * twin((a + b) / 2)
    assert bent.abs().max() > 1e-9


@pytest.mark.parametrize("name", FAMILIES)
def test_every_real_layer_says_why(name: str) -> None:
    network = on_meta(small(name), 10, (32, 32))
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert len(str(getattr(module, "why_real", ""))) > 10, path


@pytest.mark.parametrize("name", ["bireal_resnet18", "reactnet_a", "bats_cifar", "mlp"])
def test_stages_switch_estimators_and_layers_keep_rules(name: str) -> None:
    torch.manual_seed(0)
    own = MODELS[name].binarization
    other = Binarization(activation=BinarizerSpec(name="sign", window=1.3), weight=BinarizerSpec(name="xnor"))
    first = next(path for path, _ in binary_convolutions(build_model(small(name), task())))
    rule = LayerRule(match=first, precision="real")
    network = build_model(small(name), task(own, other, layers=((), (rule,))))
    keys = list(network.state_dict())
    set_precision(network, binarization=own)
    assert {conv.active_activation for _, conv in binary_convolutions(network)} == {own.activation.key}
    set_precision(network, binarization=other, layers=(rule,))
    for path, conv in binary_convolutions(network):
        assert conv.binarize_weights is (path != first)
        assert conv.active_activation == other.activation.key
    assert list(network.state_dict()) == keys
    check_gradients(network, (32, 32))


def test_paper_binarization_is_used_where_none_is_given() -> None:
    for name in MODELS:
        network = on_meta(small(name) if name in FAMILIES else ModelChoice(name=name), 10, (32, 32))
        _, conv = next(binary_convolutions(network))
        assert conv.active_activation == MODELS[name].binarization.activation.key


def test_a_task_that_names_no_binarizations_means_the_networks_own() -> None:
    for name in ("reactnet_resnet18", "bnas_mini", "mobilenet_v2"):
        choice = ModelChoice(name=name, **({} if name == "bnas_mini" else {"width": 0.25}))
        with torch.device("meta"):
            plain, told = (
                build_model(choice, task) for task in (Task(3, (32, 32), 10), task(choice.binarization))
            )
        (_, conv), (_, expected) = (next(binary_convolutions(network)) for network in (plain, told))
        own = choice.binarization
        assert (conv.active_activation, conv.active_weight) == (own.activation.key, own.weight.key)
        assert conv.active_activation == expected.active_activation
    with pytest.raises(ValueError, match="1 lists of rules for layers and 0 binarizations"):
        Task(3, (32, 32), 10, layers=((),))


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ("reactnet", ["model", "unknown model 'reactnet'", "reactnet_a"]),
        ({"name": "mlp", "hiden": [3]}, ["model", "unknown key 'hiden'", "hidden"]),
        ({"name": "mlp", "hidden": []}, ["model", "hidden"]),
        ({"name": "bireal_resnet18", "stem": "small"}, ["stem", "imagenet"]),
        ({"name": "bireal_resnet18", "width": 0}, ["width", "greater than 0"]),
        ({"name": "binary_densenet28", "reductions": [2, 2]}, ["reductions", "3 transitions"]),
        ({"name": "meliusnet22", "transitions": [64]}, ["transitions", "3 of them"]),
        ({"name": "mobilenet_group", "groups": [1, 2]}, ["groups", "13 numbers"]),
        ({"name": "vgg_small", "ratios": [1, 1]}, ["ratios", "6 numbers"]),
        ({"name": "autobnn_resnet18", "ratios": [1] * 4}, ["ratios", "12 numbers"]),
    ],
    ids=str,
)
def test_a_wrong_choice_is_told_with_key_and_remedy(choice: Any, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        build(ModelChoice, choice, "recipe.yaml")
    for word in ["recipe.yaml", *words]:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "mobilenet_group", "groups": (5,) * 13}, ["groups.0", "does not divide the 32", "divisor"]),
        ({"name": "mobinet", "dependency": 5}, ["dependency", "divisor"]),
        ({"name": "bats_cifar", "groups": 5}, ["groups", "36 init_channels"]),
        ({"name": "bats_imagenet", "init_channels": 48, "groups": 4, "num_cells": 3}, []),
        ({"name": "ebnas", "stem": "imagenet", "init_channels": 14}, ["init_channels", "stem"]),
    ],
    ids=str,
)
def test_options_that_do_not_fit_each_other_are_told(options: dict[str, Any], words: list[str]) -> None:
    choice = ModelChoice(**options)
    if not words:
        build_model(choice, task())
        return
    with pytest.raises(UserError) as error:
        build_model(choice, task())
    for word in words:
        assert word in str(error.value)


def test_an_auxiliary_head_is_for_cells() -> None:
    network = build_model(small("bats_cifar"), task(auxiliary=True))
    assert isinstance(network, Network) and network.auxiliary is not None
    logits, second = network(torch.randn(2, 3, 16, 16))
    assert logits.shape == second.shape == (2, 10)
    with pytest.raises(UserError, match="auxiliary"):
        build_model(small("resnet20"), task(auxiliary=True))


@pytest.mark.parametrize("width", [0.1, 0.25, 0.5, 1.0, 1.5, 2.0])
def test_widths_are_multiples_of_eight_and_exact_at_one(width: float) -> None:
    for channels in (16, 64, 96, 384):
        wide = scaled(channels, width)
        assert wide % 8 == 0 and wide >= 8 and abs(wide - channels * width) <= 8
        assert width != 1 or wide == channels


def test_leaky_clip_against_its_formula() -> None:
    x = np.array([-3.0, -1.0, -0.5, 0.0, 0.3, 1.0, 2.0])
    expected = np.where(np.abs(x) <= 1, x, np.sign(x) * (0.9 + 0.1 * np.abs(x)))
    given = torch.tensor(x, requires_grad=True)
    LeakyClip()(given).sum().backward()
    assert np.allclose(LeakyClip()(given).detach().numpy(), expected, atol=1e-12)
    inside = np.abs(x) < 1
    assert given.grad is not None
    assert np.allclose(given.grad.numpy()[inside], 1) and np.allclose(given.grad.numpy()[np.abs(x) > 1], 0.1)


def test_improvement_touches_the_last_channels_only() -> None:
    layer = ImprovementLayer(task(Binarization()), 12, 4).eval()
    x = torch.randn(2, 12, 5, 5)
    y = layer(x)
    assert torch.equal(y[:, :8], x[:, :8])
    assert torch.equal(y[:, 8:], x[:, 8:] + layer.body(x))


def test_padded_shortcut_against_loops() -> None:
    x = torch.randn(1, 2, 5, 4)
    y = PaddedShortcut(1)(x)
    assert y.shape == (1, 4, 3, 2)
    for row, column in itertools.product(range(3), range(2)):
        assert torch.equal(y[0, 1:3, row, column], x[0, :, 2 * row, 2 * column])
    assert not y[0, 0].any() and not y[0, 3].any()


@pytest.mark.parametrize("size", [(4, 4), (5, 3), (1, 1)], ids=str)
def test_average_pool_takes_what_is_left_at_the_border(size: tuple[int, int]) -> None:
    x = torch.randn(1, 1, *size, dtype=torch.float64)
    y = average_pool(2)(x)
    for row, column in itertools.product(range(y.shape[2]), range(y.shape[3])):
        part = x[0, 0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert y[0, 0, row, column].item() == pytest.approx(part.mean().item())
    assert y.shape[2:] == tuple(-(-length // 2) for length in size)


def test_reactnet_widens_by_two_convolutions_on_one_input() -> None:
    """The paper duplicates the block's input, convolves both, adds and concatenates."""
    torch.manual_seed(0)
    binarization = MODELS["reactnet_a"].binarization
    block = ReActBlock(task(binarization), 4, 8, 2, ReActNetOptions()).double().eval()
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    y = block.middle(block.spatial(x) + F.avg_pool2d(x, 2))
    conv, norm = block.pointwise
    codes = torch.where(y >= 0, 1.0, -1.0).double()
    weight = conv.weight.flatten(1)
    filters = torch.where(weight >= 0, 1.0, -1.0) * weight.abs().mean(dim=1, keepdim=True)
    halves = []
    for part in (slice(0, 4), slice(4, 8)):
        z = torch.einsum("nchw,oc->nohw", codes, filters[part])
        scale = norm.weight[part] / torch.sqrt(norm.running_var[part] + norm.eps)
        shift = norm.bias[part] - norm.running_mean[part] * scale
        halves.append(z * scale.view(-1, 1, 1) + shift.view(-1, 1, 1) + y)
    expected = block.last(torch.cat(halves, dim=1))
    assert torch.allclose(block(x), expected, atol=1e-12)


def test_shortcuts_of_mobile_blocks_pool_and_repeat() -> None:
    class Zeros(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x), 2 * x.shape[1], x.shape[2] // 2, x.shape[3] // 2)

    x = torch.randn(1, 3, 4, 4)
    pooled = F.avg_pool2d(x, 2)
    assert torch.equal(Around(Zeros(), 2, 2)(x), torch.cat([pooled, pooled], dim=1))


def test_operations_of_bats_and_ebnas_have_their_skips() -> None:
    torch.manual_seed(0)
    context = OpContext(activation="prelu", batch_norm_affine=True)
    x = torch.randn(2, 8, 6, 6)
    for stride in (1, 2):
        plain = BinaryConv(8, stride, context, 3, 1, 2).eval()
        f = plain(x)
        assert torch.equal(SkippedConv(plain)(x), x + f if stride == 1 else f)
        normed = NormedConv(plain).eval()
        pooled = x if stride == 1 else F.avg_pool2d(x, 2)
        inner = plain.conv(plain.norm(x)) / (1 + 1e-5) ** 0.5
        assert torch.allclose(normed(x), plain.activation(inner + pooled), atol=1e-6)


def test_without_a_word_a_network_is_binarized_as_its_paper_says(subtests: pytest.Subtests) -> None:
    """`Task` and `create_model` give the network that `binas retrain NAME` trains: layer by layer."""
    import binas
    from binas.train.model_file import ModelStructure, read_from
    from binas.train.stage import RetrainConfig, StageConfig

    data = binas.open_data("synthetic", channels=3, image_size=32, images_per_class=4)

    def layers(network: nn.Module) -> dict[str, tuple[str, ...]]:
        return {
            name: (
                repr(conv.activation_binarizer),
                repr(conv.weight_binarizer),
                str((conv.binarize_activations, conv.binarize_weights, conv.keeps_real, conv.pad_value)),
            )
            for name, conv in binary_convolutions(network)
        }

    for name in MODELS:
        choice = ModelChoice(name=name)
        with subtests.test(name), torch.device("meta"):
            stage = StageConfig(name="fully_binary").completed(choice)
            structure = ModelStructure(
                model=choice,
                binarizations=(stage.binarization,) if stage.binarization else (),
                layers=(stage.layers or (),),
                auxiliary=False,
                validation_fraction=RetrainConfig().validation_fraction,
                stage=stage,
                **read_from(data),
            )
            trained = layers(structure.build_network())
            assert trained
            assert layers(build_model(choice, Task(3, (32, 32), 4))) == trained
            if name in FAMILIES:
                assert layers(binas.create_model(name, num_classes=4)) == trained
