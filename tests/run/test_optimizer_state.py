"""An optimizer goes on bit for bit from its saved state, by the names of its parameters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import Parameter
from torch.optim import SGD, Adadelta, Adagrad, Adam, AdamW, Optimizer, RMSprop

from binas.errors import UserError
from binas.run.checkpoint import load_checkpoint, save_checkpoint
from binas.run.optimizer_state import load_optimizer_state, optimizer_state

Factory = Callable[[Any], Optimizer]

OPTIMIZERS: dict[str, Factory] = {
    "sgd": lambda p: SGD(p, 0.1),
    "sgd_momentum": lambda p: SGD(p, 0.1, momentum=0.9, weight_decay=3e-4),
    "sgd_nesterov": lambda p: SGD(p, 0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: Adam(p, 1e-2, betas=(0.5, 0.99)),
    "adam_amsgrad": lambda p: Adam(p, 1e-2, amsgrad=True),
    "adam_tensor_lr": lambda p: Adam(p, torch.tensor(1e-2), foreach=False),
    "adamw": lambda p: AdamW(p, 1e-2),
    "rmsprop": lambda p: RMSprop(p, 1e-2, momentum=0.9, centered=True),
    "adagrad": lambda p: Adagrad(p, 1e-2),
    "adadelta": lambda p: Adadelta(p, 1.0),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 4))
    return body.to(memory_format=torch.channels_last)


def groups(module: nn.Module) -> list[dict[str, Any]]:
    parameters = list(module.parameters())
    return [{"params": parameters[:2]}, {"params": parameters[2:], "lr": 0.03}]


def train(module: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        images = torch.randn(5, 2, 6, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        module(images).square().mean().backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"] * 0.9


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_three_steps_and_three_more_are_six(tmp_path: Path, make: Factory) -> None:
    whole = network()
    train(whole, make(groups(whole)), range(6))

    first = network()
    optimizer = make(groups(first))
    train(first, optimizer, range(3))
    state = {
        "model": first.state_dict(),
        "optimizer": optimizer_state(optimizer, dict(first.named_parameters())),
    }
    save_checkpoint(tmp_path / "c.pt", "x", {}, state)

    loaded = load_checkpoint(tmp_path / "c.pt").state
    for _ in range(2):  # the loaded state is not used up
        second = network()
        second.load_state_dict(loaded["model"], strict=True)
        optimizer = make(groups(second))
        load_optimizer_state(optimizer, loaded["optimizer"], dict(second.named_parameters()))
        train(second, optimizer, range(3, 6))
        for name, value in whole.state_dict().items():
            assert torch.equal(second.state_dict()[name], value), name


def pair(make: Factory, names: list[str]) -> tuple[dict[str, Parameter], Optimizer]:
    """Parameters whose gradients depend on their names alone."""
    named = {name: Parameter(torch.full((2,), float(len(name)))) for name in names}
    return named, make(list(named.values()))


def descend(named: dict[str, Parameter], optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        for name, parameter in named.items():
            parameter.grad = torch.full((2,), len(name) * 0.1 + step)
        optimizer.step()


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_removed_and_reordered(make: Factory) -> None:
    named, optimizer = pair(make, ["a", "bb", "ccc", "dddd"])
    descend(named, optimizer, range(3))
    saved = optimizer_state(optimizer, named)
    fewer, second = pair(make, ["dddd", "a", "bb"])
    with torch.no_grad():
        for name, parameter in fewer.items():
            parameter.copy_(named[name])
    load_optimizer_state(second, saved, fewer)
    descend(named, optimizer, range(3, 6))
    descend(fewer, second, range(3, 6))
    for name, parameter in fewer.items():
        assert torch.equal(parameter, named[name]), name


def test_new_parameters_start_afresh() -> None:
    named, optimizer = pair(OPTIMIZERS["adam"], ["a"])
    descend(named, optimizer, range(3))
    more, second = pair(OPTIMIZERS["adam"], ["new", "a"])
    load_optimizer_state(second, optimizer_state(optimizer, named), more)
    assert set(second.state) == {more["a"]}


def test_hyper_parameters_follow_the_names_of_the_group() -> None:
    one, two = Parameter(torch.zeros(1)), Parameter(torch.zeros(1))
    named = {"one": one, "two": two}
    first: list[dict[str, Any]] = [{"params": [one], "lr": 1.0}, {"params": [two], "betas": (0.1, 0.2)}]
    saved = optimizer_state(Adam(first), named)
    assert saved["groups"][1]["hyper"]["betas"] == [0.1, 0.2]
    other = Adam([{"params": [two]}, {"params": [one]}], lr=9.0)
    load_optimizer_state(other, saved, named)
    assert [group["lr"] for group in other.param_groups] == [1e-3, 1.0]
    assert [group["betas"] for group in other.param_groups] == [(0.1, 0.2), (0.9, 0.999)]


def test_named_optimizers_work_too() -> None:
    module = nn.Linear(2, 2)
    optimizer = SGD(module.named_parameters(), 0.1, momentum=0.9)
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    saved = optimizer_state(optimizer, dict(module.named_parameters()))
    load_optimizer_state(optimizer, saved, dict(module.named_parameters()))
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]


def test_other_shapes_are_another_network() -> None:
    named, optimizer = pair(OPTIMIZERS["adam"], ["a"])
    descend(named, optimizer, range(1))
    saved = optimizer_state(optimizer, named)
    other = {"a": Parameter(torch.zeros(3))}
    with pytest.raises(UserError, match=r"'a' is for shape \(2,\), the network has \(3,\)"):
        load_optimizer_state(Adam(other.values()), saved, other)


def test_every_parameter_needs_a_name() -> None:
    with pytest.raises(ValueError, match=r"without a name, of shapes \[\(2, 3\)\]"):
        optimizer_state(SGD([Parameter(torch.zeros(2, 3))], 0.1), {})
