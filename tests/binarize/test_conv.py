"""`BinaryConv2d`: exact sums of ±1 times a scale, its two switches, and keys that never change."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binas.binarize import (
    ActivationBinarizer,
    Binarization,
    BinarizerSpec,
    BinaryConv2d,
    WeightBinarizer,
    set_precision,
    set_progress,
)
from binas.errors import UserError

GEOMETRIES = [
    dict(zip(("kernel_size", "stride", "dilation", "groups"), values, strict=True))
    for values in itertools.product((1, 3, 5), (1, 2), (1, 2), (1, 2, 8))
]
STAGES = (
    Binarization(),
    Binarization(activation=BinarizerSpec(name="approx_sign")),
    Binarization.model_validate(
        {"activation": {"name": "sign", "window": 1.25}, "weight": {"name": "xnor_released"}, "pad_value": -1}
    ),
)


def signs(x: Tensor) -> Tensor:
    return 2.0 * (x >= 0).float() - 1.0


def by_hand(conv: BinaryConv2d, x: Tensor, pad_value: float) -> Tensor:
    """α · conv2d(sign(x), sign(w)) for the default binarization."""
    weight = conv.weight.detach()
    if weight.shape[1] >= 4:
        weight = weight - weight.mean(dim=1, keepdim=True)
    scale = weight.abs().flatten(1).mean(dim=1)[:, None, None]
    padded = torch.full(
        (x.shape[0], x.shape[1], x.shape[2] + 2 * conv.padding, x.shape[3] + 2 * conv.padding),
        float(pad_value),
    )
    p = conv.padding
    padded[:, :, p : p + x.shape[2], p : p + x.shape[3]] = signs(x)
    return scale * F.conv2d(padded, signs(weight), None, conv.stride, 0, conv.dilation, conv.groups)


@pytest.mark.parametrize("pad_value", [0.0, -1.0, 1.0])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda g: "-".join(f"{k[0]}{v}" for k, v in g.items()))
def test_equals_scale_times_sums_of_signs(geometry: dict[str, int], pad_value: float) -> None:
    torch.manual_seed(1)
    padding = geometry["dilation"] * (geometry["kernel_size"] - 1) // 2
    conv = BinaryConv2d(8, 16, padding=padding, binarizations=[Binarization(pad_value=pad_value)], **geometry)
    for size in ((8, 8), (15, 15), (7, 9)):
        x = torch.randn(2, 8, *size)
        x[0, :, ::2] = 0  # zeros count as +1
        y = conv(x)
        assert torch.equal(y, by_hand(conv, x, pad_value))
        counts = y / conv.weight_binarizer(conv.weight)[0][1]
        assert torch.allclose(counts, counts.round(), atol=1e-4)  # one rounding of the product and quotient


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_padding_is_its_own_number(padding: int) -> None:
    conv = BinaryConv2d(4, 4, 3, padding=padding, binarizations=[Binarization(pad_value=-1)])
    x = torch.randn(1, 4, 6, 5)
    assert torch.equal(conv(x), by_hand(conv, x, -1))


@pytest.mark.parametrize("pad_value", [0.0, -1.0, 1.0])
@pytest.mark.parametrize("geometry", GEOMETRIES[:12], ids=str)
def test_both_switches_off_is_a_plain_convolution(geometry: dict[str, int], pad_value: float) -> None:
    conv = BinaryConv2d(8, 8, padding=2, binarizations=[Binarization(pad_value=pad_value)], **geometry)
    set_precision(conv, binarize_activations=False, binarize_weights=False)
    x = torch.randn(2, 8, 9, 7)
    expected = F.conv2d(x, conv.weight, None, conv.stride, 2, conv.dilation, conv.groups)
    assert torch.equal(conv(x), expected)


@pytest.mark.parametrize("pad_value", [0.0, -1.0])
def test_one_switch_off(pad_value: float) -> None:
    conv = BinaryConv2d(8, 8, 3, padding=1, binarizations=[Binarization(pad_value=pad_value)])
    x = torch.randn(2, 8, 6, 6)
    set_precision(conv, binarize_activations=True, binarize_weights=False)
    padded = F.pad(signs(x), (1, 1, 1, 1), value=pad_value)
    assert torch.equal(conv(x), F.conv2d(padded, conv.weight))
    set_precision(conv, binarize_activations=False, binarize_weights=True)
    centred = conv.weight - conv.weight.mean(dim=1, keepdim=True)
    scale = centred.abs().flatten(1).mean(dim=1)[:, None, None]
    # the order of sums of real numbers may differ, float32
    torch.testing.assert_close(conv(x), scale * F.conv2d(x, signs(centred), padding=1))


def test_latent_weight_survives_forward_backward_and_evaluation() -> None:
    for stage in STAGES:
        conv = BinaryConv2d(4, 4, 3, binarizations=[stage])
        before = conv.weight.detach().clone()
        conv(torch.randn(2, 4, 6, 6)).sum().backward()
        with torch.no_grad():
            conv.eval()(torch.randn(2, 4, 6, 6))
        assert torch.equal(conv.weight, before) and conv.weight.grad is not None


def test_keys_are_the_same_in_every_stage() -> None:
    one, all_stages = BinaryConv2d(4, 4, 3), BinaryConv2d(4, 4, 3, binarizations=STAGES)
    keys = [list(all_stages.state_dict())]
    for stage in STAGES:
        all_stages.use(stage)
        for switches in ((True, True), (True, False), (False, False)):
            set_precision(all_stages, *switches)
            keys.append(list(all_stages.state_dict()))
    assert all(other == keys[0] for other in keys)
    assert list(one.state_dict()) == keys[0] == ["weight"]
    all_stages.load_state_dict(one.state_dict(), strict=True)
    assert torch.equal(all_stages.weight, one.weight)


def test_use_switches_estimator_weights_and_padding() -> None:
    conv = BinaryConv2d(4, 4, 3, padding=1, binarizations=STAGES)
    x = torch.randn(2, 4, 5, 5)
    for stage in (STAGES[2], STAGES[0], STAGES[1]):
        alone = BinaryConv2d(4, 4, 3, padding=1, binarizations=[stage])
        alone.load_state_dict(conv.state_dict())
        conv.use(stage)
        gradients = []
        for module in (conv, alone):
            leaf = x.clone().requires_grad_()
            y = module(leaf)
            y.square().sum().backward()
            gradients.append((y.detach(), leaf.grad, module.weight.grad.clone()))
            module.zero_grad()
        assert all(map(torch.equal, *gradients)), stage


class _Learned(WeightBinarizer):
    """A binarizer with a parameter, as learned scales have."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, weight: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        return [(weight, self.gain)]


def test_parameters_of_inactive_binarizers_are_frozen() -> None:
    conv = BinaryConv2d(4, 4, 3, binarizations=STAGES)
    learned = _Learned()
    conv.weight_binarizers[STAGES[2].weight.key] = learned
    conv.use(STAGES[0])
    assert not learned.gain.requires_grad and conv.weight.requires_grad
    conv.use(STAGES[2])
    assert learned.gain.requires_grad
    conv(torch.randn(1, 4, 5, 5)).sum().backward()
    assert learned.gain.grad is not None


class _TwoBases(ActivationBinarizer):
    """Two bases: x stands as codes + ½·codes of the reversed channels."""

    def forward(self, x: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        return [(signs(x), None), (signs(x.flip(1)), torch.tensor(0.5))]


def test_bases_add_up() -> None:
    conv = BinaryConv2d(4, 6, 3, padding=1)
    conv.activation_binarizers["sign"] = _TwoBases()
    x = torch.randn(2, 4, 5, 5)
    # two float32 sums of products; each of them is exact, their sum is rounded once
    expected = by_hand(conv, x, 0) + 0.5 * by_hand(conv, x.flip(1), 0)
    torch.testing.assert_close(conv(x), expected)


def test_set_precision_reaches_every_convolution_by_type() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ModuleDict({"res": BinaryConv2d(4, 4, 3)})["res"])
    inner = nn.Sequential(model, nn.Sequential(BinaryConv2d(4, 4, 3, binarizations=STAGES)))
    inner[1][0].use(STAGES[0])
    set_precision(inner, binarize_activations=False, binarize_weights=True)
    found = [m for m in inner.modules() if isinstance(m, BinaryConv2d)]
    assert [(m.binarize_activations, m.binarize_weights) for m in found] == [(False, True)] * 2
    set_precision(inner[1], binarization=STAGES[1])
    assert type(found[1].activation_binarizer).__name__ == "ApproxSign"
    set_progress(inner, 0.75)
    assert all(m.weight_binarizer.progress == m.activation_binarizer.progress == 0.75 for m in found)


def test_different_specs_have_different_keys() -> None:
    specs = [
        BinarizerSpec(name="sign"),
        BinarizerSpec.model_validate({"name": "sign", "window": 1.25}),
        BinarizerSpec.model_validate({"name": "sign", "window": 12.5}),
        BinarizerSpec.model_validate({"name": "sign", "window": None}),
        BinarizerSpec(name="approx_sign"),
    ]
    assert len({spec.key for spec in specs}) == len(specs)
    assert all(spec.key.isidentifier() for spec in specs)


def test_a_binarization_that_the_layer_was_built_without_is_an_error() -> None:
    conv = BinaryConv2d(4, 4, 3)
    other = Binarization(activation=BinarizerSpec(name="approx_sign"))
    with pytest.raises(UserError, match=r"'approx_sign', only sign; .*context\.binarizations"):
        conv.use(other)
