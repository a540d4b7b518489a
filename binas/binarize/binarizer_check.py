"""The contract of a binarizer, tried on real tensors in layers of every kind: `binas binarizers check`."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from binas.binarize.catalogue import binarization_with, example, variants
from binas.binarize.contract import ActivationBinarizer, Bases, WeightBinarizer
from binas.binarize.conv import BinaryConv2d
from binas.binarize.precision import after_optimizer_step, set_progress
from binas.errors import UserError

TABLE = (-1.5, -1.0, -0.0, 0.0, 0.3, 1.0, 1.5)
"""Numbers that stand in every input and latent weight: zeros of both signs, and ends of windows."""
LAYERS: tuple[dict[str, int], ...] = (
    {"in_channels": 8, "out_channels": 8, "kernel_size": 3, "padding": 1},
    {"in_channels": 8, "out_channels": 4, "kernel_size": 3, "padding": 1, "groups": 4},
    {"in_channels": 6, "out_channels": 6, "kernel_size": 3, "padding": 1, "groups": 6},
    {"in_channels": 8, "out_channels": 8, "kernel_size": 5, "padding": 4, "dilation": 2, "stride": 2},
    {"in_channels": 7, "out_channels": 11, "kernel_size": 1, "stride": 2},
    {"in_channels": 3, "out_channels": 5, "kernel_size": 2},
    {"in_channels": 1, "out_channels": 1, "kernel_size": 3, "padding": 1},
)
"""Dense, grouped, depthwise, dilated and strided, odd numbers of channels, an even kernel, one channel."""
SHAPES = ((2, 8, 8), (1, 7, 9))
"""Batch, height and width of inputs."""


def check_binarizer(kind: str, name: str) -> Iterator[str]:
    """Yields a line for every promise that a registered binarizer keeps, for each of its variants.

    Args:
        kind: activation, weight or gradient.
        name: in the registry of that kind.
    Raises:
        UserError: at the first promise that it breaks: codes among its levels, number of pairs, output of
            the right shape, finite gradients, latent weight and input untouched, evaluation that repeats
            itself and changes no state, a state dict that loads and continues bit for bit.
    """
    for options in variants(kind, name):
        shown = f"{name} {options}" if options else name
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                if kind != "gradient":
                    _check_declaration(example(kind, name, options))
                    yield f"{shown}: what it declares fits together"
                for geometry in LAYERS:
                    _check_layer(kind, name, options, geometry)
        except UserError as error:
            raise UserError(f"{kind} '{shown}': {error}") from None
        except Exception as error:
            raise UserError(f"{kind} '{shown}' raised {type(error).__name__}: {error}") from error
        yield f"{shown}: codes, gradients and state in {len(LAYERS)} kinds of layers are as promised"


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _numbers(shape: Sequence[int]) -> Tensor:
    numbers = torch.randn(shape)
    flat = numbers.view(-1)
    # seven numbers at random places, as far as there is room
    places = torch.randperm(flat.numel())[: len(TABLE)]
    flat[places] = torch.tensor(TABLE[: len(places)])
    return numbers


def _check_declaration(quantizer: nn.Module) -> None:
    assert isinstance(quantizer, ActivationBinarizer | WeightBinarizer)
    levels = quantizer.levels
    _require(list(levels) == sorted(set(levels)), f"levels {levels} are not ascending and different")
    _require(
        len(levels) <= 2**quantizer.bits, f"{len(levels)} levels need more than its {quantizer.bits} bits"
    )
    _require(bool(quantizer.paper), "says no source; give it an attribute paper")
    parameters = [name for name, _ in quantizer.named_parameters()]
    if isinstance(quantizer, ActivationBinarizer) and quantizer.same_for_all_edges:
        _require(not parameters, f"same_for_all_edges, but it learns {', '.join(parameters)}")
        _require(quantizer.num_bases == 1, "same_for_all_edges, but it gives several pairs")
    if isinstance(quantizer, WeightBinarizer):
        _require(quantizer.learning_rate_scale > 0, "learning_rate_scale is not above 0")
        if quantizer.filter_by_filter:
            _check_filters(quantizer)


def _check_filters(binarizer: WeightBinarizer) -> None:
    weight = _numbers((8, 8, 3, 3))
    ((codes, scale),) = binarizer(weight)
    order = torch.randperm(8)
    ((moved, moved_scale),) = binarizer(weight[order])
    _require(torch.equal(codes[order], moved), "filter_by_filter, but a filter's codes depend on others")
    if scale is not None:
        _require(scale.numel() == 8, f"filter_by_filter, but its scale has shape {tuple(scale.shape)}")
        _require(bool((scale >= 0).all()), "filter_by_filter, but a scale is negative")
        same = torch.allclose(scale.flatten()[order], moved_scale.flatten())
        _require(same, "filter_by_filter, but a filter's scale depends on others")


def _check_layer(kind: str, name: str, options: dict[str, Any], geometry: dict[str, int]) -> None:
    binarization = binarization_with(kind, name, options)
    layer = BinaryConv2d(**geometry, binarizations=[binarization])
    with torch.no_grad():
        layer.weight.copy_(torch.where(torch.rand_like(layer.weight) < 0.5, layer.weight, -layer.weight))
    for batch, height, width in SHAPES:
        x = _numbers((batch, geometry["in_channels"], height, width))
        for progress in (0.0, 0.5, 1.0):
            set_progress(layer, progress)
            _check_training(layer, x, binarize=kind)
        _check_evaluation(layer, x)
    copied = BinaryConv2d(**geometry, binarizations=[binarization])
    copied.load_state_dict(layer.state_dict(), strict=True)
    set_progress(copied, 1.0)
    _check_continues(layer, copied, x)


def _check_training(layer: BinaryConv2d, x: Tensor, binarize: str) -> None:
    layer.train()
    weight_before, x = layer.weight.detach().clone(), x.clone().requires_grad_()
    x_before = x.detach().clone()
    y = layer(x)
    expected = nn.functional.conv2d(
        x, layer.weight, None, layer.stride, layer.padding, layer.dilation, layer.groups
    ).shape
    _require(y.shape == expected, f"the output {tuple(y.shape)} is not {tuple(expected)}")
    _require(bool(y.isfinite().all()), "the output is not finite")
    layer.zero_grad(set_to_none=True)
    (y * torch.randn(y.shape)).sum().backward()
    _require(torch.equal(x.detach(), x_before), "the input was changed in place; work on a copy")
    _require(torch.equal(layer.weight, weight_before), "the latent weight was changed by forward")
    learned = {key: p.grad for key, p in layer.named_parameters() if p.requires_grad}
    for key, gradient in {"the input": x.grad, **learned}.items():
        _require(gradient is not None, f"{key} gets no gradient")
        assert gradient is not None
        _require(bool(gradient.isfinite().all()), f"{key} gets a gradient that is not finite")
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.grad is not None:
                parameter.sub_(1e-3 * parameter.grad)
    after_optimizer_step(layer)
    _require(bool(layer.weight.isfinite().all()), "after_step made the latent weight not finite")
    if binarize == "activation" and not layer.activation_binarizer.smooth_in_training:
        check_codes(layer.activation_binarizer, layer.activation_binarizer(x.detach()))
    if binarize == "weight" and not layer.weight_binarizer.smooth_in_training:
        check_codes(layer.weight_binarizer, layer.weight_binarizer(layer.weight.detach()))


def check_codes(quantizer: ActivationBinarizer | WeightBinarizer, bases: Bases) -> None:
    """Raises a `UserError` where pairs are not as many as declared, or a code is none of the levels."""
    _require(
        len(bases) == quantizer.num_bases, f"gives {len(bases)} pairs, but num_bases is {quantizer.num_bases}"
    )
    for codes, _ in bases:
        found = set(torch.unique(codes.detach()).tolist())
        foreign = sorted(found - {float(level) for level in quantizer.levels})
        _require(not foreign, f"a code is {foreign[:1]}, which is none of its levels {quantizer.levels}")


@torch.no_grad()
def _check_evaluation(layer: BinaryConv2d, x: Tensor) -> None:
    layer.eval()
    before = copy.deepcopy(layer.state_dict())
    first, second = layer(x), layer(x)
    _require(torch.equal(first, second), "two evaluations of one input differ; nothing may be random there")
    for key, value in layer.state_dict().items():
        _require(torch.equal(value, before[key]), f"evaluation changed its state '{key}'")
    check_codes(layer.activation_binarizer, layer.activation_binarizer(x))
    check_codes(layer.weight_binarizer, layer.weight_binarizer(layer.weight))


def _check_continues(layer: BinaryConv2d, copied: BinaryConv2d, x: Tensor) -> None:
    outputs = []
    for one in (layer, copied):
        torch.manual_seed(1)
        one.train()
        y = one(x)
        one.zero_grad(set_to_none=True)
        y.square().sum().backward()
        after_optimizer_step(one)
        outputs.append((y.detach(), one(x).detach()))
    for mine, copys in zip(*outputs, strict=True):
        _require(
            torch.equal(mine, copys),
            "a copy with the same state gives another output; state is what stands in state_dict",
        )
