"""Cases for published networks, and for measures of what networks cost."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from binas.binarize import binary_convolutions
from binas.models import ModelChoice, Task, build_model
from binas.profile.executed import profile_module
from binas.profile.measures import Limits
from binas.testing.promises import promise, told_of


def check_network(name: str, *, image_size: int = 32, in_channels: int = 3, **options: Any) -> None:
    """A network learns, says its own binarization, repeats itself, loads its state, and can be counted.

    Args:
        name: registered.
        image_size: side of the images.
        in_channels: of these.
        options: of the network, the smallest that make sense: a small width.
    """
    what = f"model '{name}'"
    with told_of(what):
        choice = ModelChoice.model_validate({"name": name, **options})
        for classes in (10, 7):
            task = Task(in_channels, (image_size, image_size), classes)
            torch.manual_seed(0)
            network = build_model(choice, task)
            images = torch.randn(2, in_channels, image_size, image_size)
            logits = network(images)
            logits = logits[0] if isinstance(logits, tuple) else logits
            promise(
                tuple(logits.shape) == (2, classes), what, f"gave {tuple(logits.shape)}, not (2, {classes})"
            )
        _check_training(network, logits, what)
        _check_state(network, build_model(choice, task), images, what)
        profile = profile_module(network, in_channels, (image_size, image_size))
        promise(profile.parameters > 0 and profile.ops > 0, what, "costs nothing when it is counted")
        binary = [conv for _, conv in binary_convolutions(network)]
        if not options.get("real"):
            promise(bool(binary), what, "has no binary convolution")
            promise(
                all(conv.binarize_weights or conv.keeps_real_weights for conv in binary),
                what,
                "has binary convolutions with real weights",
            )


def _check_training(network: nn.Module, logits: torch.Tensor, what: str) -> None:
    logits.square().sum().backward()  # type: ignore[no-untyped-call]
    learned = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is not None]
    promise(bool(learned), what, "no parameter gets a gradient")
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            promise(bool(parameter.grad.isfinite().all()), what, f"parameter '{name}' has no finite gradient")


def _check_state(network: nn.Module, copy: nn.Module, images: torch.Tensor, what: str) -> None:
    network.eval()
    with torch.no_grad():
        first = network(images)
        promise(torch.equal(first, network(images)), what, "two evaluations of the same images differ")
        copy.load_state_dict(network.state_dict(), strict=True)
        promise(torch.equal(copy.eval()(images), first), what, "a copy with its state gives another output")


def check_measure(name: str, **options: Any) -> None:
    """A measure gives the same finite number twice, and says its unit.

    Args:
        name: registered.
        options: of the measure.
    """
    what = f"measure '{name}'"
    with told_of(what):
        limits = Limits.model_validate({name: options or {}})
        measure = limits.measures[name]
        promise(isinstance(measure.unit, str), what, "unit is no word")
        choice = ModelChoice.model_validate({"name": "vgg_small", "width": 0.0625})

        def build() -> nn.Module:
            return build_model(choice, Task(3, (32, 32), 10))

        profile = profile_module(build(), 3, (32, 32))
        first, second = (limits.values(profile, build)[name] for _ in range(2))
        promise(math.isfinite(first), what, f"gave {first}")
        promise(first == second, what, f"gave {first}, then {second}, for the same network")
        promise(first >= 0, what, f"gave {first}; smaller is better, from 0 on")
