"""Every registered binarizer keeps the contract in layers of every kind; a broken one is caught."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from binas.arch import fast_supernet as sharing
from binas.arch.genotype import CELL_KINDS, cell_edges
from binas.arch.space import SearchSpace, load_space
from binas.arch.supernet import Supernet
from binas.binarize import (
    ACTIVATION_BINARIZERS,
    GRADIENT_QUANTIZERS,
    WEIGHT_BINARIZERS,
    ActivationBinarizer,
    Binarization,
    BinarizerSpec,
    BinaryConv2d,
    BinaryLinear,
    GradientQuantizer,
    LayerGeometry,
    WeightBinarizer,
    after_optimizer_step,
    binary_convolutions,
    set_progress,
)
from binas.binarize.binarizer_check import LAYERS, check_binarizer
from binas.binarize.catalogue import KINDS, binarization_with, rows, to_line, variants
from binas.binarize.contract import Bases
from binas.binarize.sign import sign, straight_through_sign
from binas.errors import UserError

ENTRIES = [(kind, name) for kind, registry in KINDS.items() for name in registry]
VARIANTS = [(kind, name, options) for kind, name in ENTRIES for options in variants(kind, name)]


@pytest.fixture
def rigged() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    registries = list(KINDS.values())
    contexts = [registry.loading_from("rigged") for registry in registries]
    for context in contexts:
        context.__enter__()
    yield
    for context in contexts:
        context.__exit__(None, None, None)
    for registry in registries:
        with registry.loading_from("rigged"):
            pass


def test_there_are_binarizers_of_every_kind() -> None:
    assert {kind for kind, _ in ENTRIES} == {"activation", "weight", "gradient"}
    assert len(ENTRIES) >= 45


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_every_binarizer_keeps_the_contract(kind: str, name: str) -> None:
    lines = list(check_binarizer(kind, name))
    assert len(lines) == len(variants(kind, name)) * (1 if kind == "gradient" else 2)


def test_layers_of_every_kind_are_tried() -> None:
    groups = {layer.get("groups", 1) for layer in LAYERS}
    assert 1 in groups and any(g > 1 for g in groups)
    assert any(layer.get("groups") == layer["in_channels"] for layer in LAYERS)
    assert any(layer.get("dilation", 1) > 1 for layer in LAYERS)
    assert any(layer.get("stride", 1) > 1 for layer in LAYERS)
    assert any(layer["in_channels"] in (7, 11) for layer in LAYERS)


@pytest.mark.parametrize(("kind", "name", "options"), VARIANTS, ids=str)
def test_training_goes_on_from_its_state_bit_for_bit(kind: str, name: str, options: dict[str, Any]) -> None:
    def network() -> nn.Sequential:
        torch.manual_seed(0)
        binarizations = [binarization_with(kind, name, options)]
        return nn.Sequential(
            nn.BatchNorm2d(3),
            BinaryConv2d(3, 6, 3, padding=1, binarizations=binarizations),
            nn.BatchNorm2d(6),
            BinaryConv2d(6, 4, 3, stride=2, groups=2, binarizations=binarizations),
        )

    def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        model.train()
        for step in steps:
            torch.manual_seed(100 + step)
            set_progress(model, step / 6)
            loss = (model(torch.randn(4, 3, 7, 9)) - 1).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            after_optimizer_step(model, weight_clipping=1.0)

    def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)

    whole = network()
    optimizer = optimizer_of(whole)
    train(whole, optimizer, range(3))
    half = copy.deepcopy(whole.state_dict())
    with torch.no_grad():
        whole.eval()(torch.randn(1, 3, 7, 9))
    train(whole, optimizer, range(3, 6))
    resumed = network()
    resumed.load_state_dict(half, strict=True)
    train(resumed, optimizer_of(resumed), range(3, 6))
    state = resumed.state_dict()
    for key, value in whole.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert not all(torch.equal(value, half[key]) for key, value in state.items())


# ---- what is broken is told


class _Activation(ActivationBinarizer):
    paper = "a test"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Bases:
        return [(straight_through_sign(x), None)]


class _Weight(WeightBinarizer):
    paper = "a test"

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, weight: Tensor) -> Bases:
        return [(straight_through_sign(weight), None)]


class Foreign(_Activation):
    def forward(self, x: Tensor) -> Bases:
        return [(straight_through_sign(x) * (x.detach().abs() > 0.5), None)]


class TwoPairs(_Activation):
    def forward(self, x: Tensor) -> Bases:
        return super().forward(x) * 2


class Unsourced(_Activation):
    paper = ""


class InPlace(_Activation):
    def forward(self, x: Tensor) -> Bases:
        codes = straight_through_sign(x)
        with torch.no_grad():
            x.data.mul_(2)
        return [(codes, None)]


class Random(_Activation):
    def forward(self, x: Tensor) -> Bases:
        return [(straight_through_sign(x + 0.1 * torch.randn_like(x)), None)]


class Counting(_Activation):
    count: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Bases:
        self.count += 1
        return super().forward(x)


class Forgetful(_Activation):
    """Keeps a number that decides outside its state."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.calls = 0

    def forward(self, x: Tensor) -> Bases:
        self.calls += self.training
        return [(straight_through_sign(x), torch.tensor(1.0 + self.calls))]


class NoGradient(_Activation):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.unused = nn.Parameter(torch.zeros(channels))


class Exploding(_Activation):
    def forward(self, x: Tensor) -> Bases:
        return [(straight_through_sign(x), x.sum() / 0)]


class SharedThough(_Activation):
    same_for_all_edges = True

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.threshold = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Bases:
        return [(straight_through_sign(x - self.threshold), None)]


class ThreeInABit(_Activation):
    levels = (-1, 0, 1)


class Widening(_Activation):
    def forward(self, x: Tensor) -> Bases:
        return [(straight_through_sign(x), torch.ones(7, 1, 1, 1, 1))]


class Neighbours(_Weight):
    filter_by_filter = True

    def forward(self, weight: Tensor) -> Bases:
        return [(straight_through_sign(weight - weight[:1]), None)]


class NegativeScale(_Weight):
    filter_by_filter = True

    def forward(self, weight: Tensor) -> Bases:
        return [(straight_through_sign(weight), -torch.ones(len(weight), 1, 1))]


class Overwriting(_Weight):
    def forward(self, weight: Tensor) -> Bases:
        weight.data.mul_(0.5)
        return super().forward(weight)


class Diverging(_Weight):
    def after_step(self, weight: nn.Parameter) -> None:
        weight.div_(0)


class Crashing(_Weight):
    def forward(self, weight: Tensor) -> Bases:
        return [(weight[:, :, 5], None)]


class Infinite(GradientQuantizer):
    paper = "a test"

    def forward(self, gradient: Tensor) -> Tensor:
        return gradient / 0


@pytest.mark.parametrize(
    ("kind", "broken", "told"),
    [
        ("activation", Foreign, "none of its levels"),
        ("activation", TwoPairs, "gives 2 pairs, but num_bases is 1"),
        ("activation", Unsourced, "says no source"),
        ("activation", InPlace, "changed in place"),
        ("activation", Random, "two evaluations of one input differ"),
        ("activation", Counting, "evaluation changed its state"),
        ("activation", Forgetful, "state is what stands in state_dict"),
        ("activation", NoGradient, "unused gets no gradient"),
        ("activation", Exploding, "not finite"),
        ("activation", SharedThough, "same_for_all_edges, but it learns threshold"),
        ("activation", ThreeInABit, "need more than its 1 bits"),
        ("activation", Widening, "its scale is for an output"),
        ("weight", Neighbours, "a filter's codes depend on others"),
        ("weight", NegativeScale, "a scale is negative"),
        ("weight", Overwriting, "latent weight was changed by forward"),
        ("weight", Diverging, "after_step made the latent weight not finite"),
        ("weight", Crashing, "raised IndexError"),
        ("gradient", Infinite, "gets a gradient that is not finite"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_a_broken_binarizer_is_told(rigged: None, kind: str, broken: Any, told: str) -> None:
    KINDS[kind].register("broken")(broken)
    with pytest.raises(UserError, match=told):
        list(check_binarizer(kind, "broken"))


def test_a_sound_binarizer_of_a_user_passes(rigged: None) -> None:
    ACTIVATION_BINARIZERS.register("sound")(_Activation)
    WEIGHT_BINARIZERS.register("sound")(_Weight)
    assert len(list(check_binarizer("activation", "sound"))) == 2
    assert len(list(check_binarizer("weight", "sound"))) == 2


# ---- what the layer does with what binarizers declare


class _Bound(_Activation):
    def bind(self, geometry: LayerGeometry) -> None:
        self.geometry = geometry


class _Initialising(_Weight):
    def __init__(self, shape: torch.Size) -> None:
        super().__init__(shape)
        self.seen: list[Tensor] = []

    def initialise(self, weight: nn.Parameter) -> None:
        self.seen.append(weight.clone())
        weight.copy_(sign(weight))


class _Places(_Weight):
    scales = "kernel"

    def forward(self, weight: Tensor) -> Bases:
        return [(straight_through_sign(weight), torch.arange(1.0, 10).view(1, 1, 3, 3))]


def test_the_layer_tells_its_geometry_once(rigged: None) -> None:
    ACTIVATION_BINARIZERS.register("bound")(_Bound)
    layer = BinaryConv2d(
        6, 4, 3, 2, 1, 2, 2, binarizations=[Binarization(activation=BinarizerSpec(name="bound"))]
    )
    bound = layer.activation_binarizer
    assert isinstance(bound, _Bound) and bound.geometry == LayerGeometry(3, 2, 1, 2, 2, 6, 4)


def test_only_the_first_binarizer_may_change_the_latent_weight(rigged: None) -> None:
    WEIGHT_BINARIZERS.register("initialising")(_Initialising)
    own = Binarization(weight=BinarizerSpec(name="initialising"))
    first = BinaryConv2d(4, 4, 3, binarizations=[own, Binarization()])
    assert set(torch.unique(first.weight.detach()).tolist()) == {-1.0, 1.0}
    torch.manual_seed(0)
    plain = BinaryConv2d(4, 4, 3)
    torch.manual_seed(0)
    later = BinaryConv2d(4, 4, 3, binarizations=[Binarization(), own])
    assert torch.equal(plain.weight, later.weight)
    binarizer = later.weight_binarizers[own.weight.key]
    assert isinstance(binarizer, _Initialising)
    (seen,) = binarizer.seen
    assert torch.equal(seen, plain.weight)


def test_scales_of_the_kernel_are_applied_before_the_convolution(rigged: None) -> None:
    WEIGHT_BINARIZERS.register("places")(_Places)
    layer = BinaryConv2d(4, 2, 3, binarizations=[Binarization(weight=BinarizerSpec(name="places"))])
    x = torch.randn(2, 4, 5, 6)
    kernel = sign(layer.weight.detach()) * torch.arange(1.0, 10).view(1, 1, 3, 3)
    assert torch.equal(layer(x), torch.nn.functional.conv2d(sign(x), kernel))


class _Halving(GradientQuantizer):
    paper = "a test"

    def forward(self, gradient: Tensor) -> Tensor:
        return gradient / 2


def test_a_gradient_quantizer_sees_the_gradient_of_the_output(rigged: None) -> None:
    GRADIENT_QUANTIZERS.register("halving")(_Halving)
    torch.manual_seed(0)
    plain = BinaryConv2d(4, 4, 3)
    torch.manual_seed(0)
    halved = BinaryConv2d(4, 4, 3, binarizations=[Binarization(gradient=BinarizerSpec(name="halving"))])
    x = torch.randn(2, 4, 6, 6)
    outputs = [layer(x) for layer in (plain, halved)]
    assert torch.equal(*outputs)
    for y in outputs:
        y.square().sum().backward()
    assert plain.weight.grad is not None and halved.weight.grad is not None
    assert torch.equal(plain.weight.grad / 2, halved.weight.grad)
    assert list(halved.state_dict()) == list(plain.state_dict())
    halved.binarize_activations = halved.binarize_weights = False
    assert halved.gradient_quantizer is None  # a real-valued layer is real-valued backwards too
    with torch.no_grad():
        assert not halved(x).requires_grad


@pytest.mark.parametrize("weight", ["xnor", "twn", "abc_net", "xnor_plus_plus"])
def test_a_linear_layer_is_the_product_of_codes(weight: str) -> None:
    torch.manual_seed(0)
    layer = BinaryLinear(7, 5, [Binarization(weight=BinarizerSpec(name=weight))])
    x = torch.randn(3, 7)
    expected = torch.zeros(3, 5)
    for codes, scale in layer.weight_binarizer(layer.weight):
        product = sign(x) @ codes.flatten(1).T
        expected += product if scale is None else product * scale.flatten()
    # the order of sums of a few real numbers may differ
    torch.testing.assert_close(layer(x), expected)
    assert dict(binary_convolutions(nn.Sequential(layer))) == {"0": layer}
    layer(x).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("options", [{"window": "wide"}, {"window": -1}, {"windwo": 1}])
def test_wrong_options_are_the_users_mistake(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="sign"):
        BinaryConv2d(4, 4, 3, binarizations=[binarization_with("activation", "sign", options)])


# ---- the fast path of a supernet


SHARED_WITH: dict[str, dict[str, Any]] = {
    "default": {},
    "rsign": {"binarization": {"activation": {"name": "rsign"}}},
    "ternary": {"binarization": {"weight": {"name": "twn"}}},
    "two bits": {"binarization": {"activation": {"name": "dorefa"}}},
    "spikes": {"binarization": {"activation": {"name": "spike"}}},
    "two bases": {"binarization": {"weight": {"name": "ls2"}}},
    "map": {"binarization": {"activation": {"name": "xnor_k"}}},
    "smooth weights": {"binarization": {"weight": {"name": "self_binarizing"}}},
    "per place": {"binarization": {"weight": {"name": "syq"}}},
    "released": {"binarization": {"weight": {"name": "xnor_released"}}},
    "gate": {"gating": {"reduction": 2}},
    "rprelu": {"activation": "rprelu"},
    "some layers": {
        "layers": [
            {"match": "cells.0.edges.edge_3_0", "binarization": {"weight": {"name": "bwn"}}},
            {"match": "cells.0.edges.edge_2_1", "precision": "real"},
            {"type": "binary_conv_5x5", "binarization": {"activation": {"name": "approx_sign"}}},
        ]
    },
}


def space_with(changes: dict[str, Any]) -> SearchSpace:
    operations = ["zeroise", "skip", "max_pool_3x3", "binary_conv_3x3", "binary_conv_5x5"]
    small = {"num_cells": 2, "init_channels": 4, "stem_multiplier": 1, "reductions": [1]}
    base = {"base": "binas", "operations": operations, "num_nodes": 2, "supernet": small}
    return load_space(base | changes)


def run_supernet(space: SearchSpace) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(0)
    supernet = Supernet(space, 3, 4)
    edges = len(cell_edges(space.num_nodes))
    edge_weights = {kind: torch.rand(edges, len(space.operations)).requires_grad_() for kind in CELL_KINDS}
    set_progress(supernet, 0.5)
    logits = supernet(torch.randn(3, 3, 8, 8), edge_weights)
    logits.square().sum().backward()
    gradients = {name: p.grad for name, p in supernet.named_parameters() if p.grad is not None}
    gradients |= {kind: weights.grad for kind, weights in edge_weights.items() if weights.grad is not None}
    return logits.detach(), gradients


@pytest.mark.parametrize("changes", SHARED_WITH.values(), ids=SHARED_WITH)
def test_a_supernets_fast_path_is_its_slow_path(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    space = space_with(changes)
    fused = 0
    shares = sharing.shares_convolution

    def counting(modules: Any) -> bool:
        nonlocal fused
        fused += shares(modules)
        return shares(modules)

    monkeypatch.setattr(sharing, "shares_convolution", counting)
    fast, fast_gradients = run_supernet(space)
    monkeypatch.setattr(sharing, "shares_convolution", lambda modules: False)
    slow, slow_gradients = run_supernet(space)
    if changes.keys() & {"gating", "activation"}:
        assert fused == 0
    if not changes:
        assert fused > 0
    # sums over operations are taken in another order, in float32; later signs may not differ for that
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)
    assert fast_gradients.keys() == slow_gradients.keys()
    for name, gradient in fast_gradients.items():
        scale = slow_gradients[name].abs().max().clamp_min(1)
        assert torch.allclose(gradient / scale, slow_gradients[name] / scale, atol=1e-4), name


# ---- the catalogue


def test_the_catalogue_says_what_each_binarizer_declares() -> None:
    table = list(rows())
    assert {(row["kind"], row["name"]) for row in table} == set(ENTRIES)
    found = {(row["kind"], row["name"]): row for row in table}
    assert found["activation", "rsign"]["learnable"] == ["threshold"]
    assert found["weight", "twn"]["bits"] == 2 and found["weight", "twn"]["levels"] == [-1, 0, 1]
    assert found["activation", "ede"]["annealed"] is True and found["activation", "sign"]["annealed"] is False
    for row in table:
        assert ("arXiv" in row["paper"] or "doi" in row["paper"]) and row["summary"].endswith("."), row
        assert "\n" not in to_line(row) and row["name"] in to_line(row)
        assert len(row["variants"]) == len(variants(row["kind"], row["name"]))
