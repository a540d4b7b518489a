"""The state of an optimizer by the names of its parameters, as plain values.

torch numbers parameters by their order; by name, the state survives a network whose operations were
removed or reordered during the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from binas.errors import UserError

_NOT_HYPER = ("params", "param_names")
_OF_THE_DEVICE = ("fused", "foreach", "capturable")
"""How a step is launched: a state that goes on elsewhere is launched as is right there."""


def optimizer_state(optimizer: Optimizer, named_parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    """Everything an optimizer needs to go on exactly, as a dict that `save_checkpoint` takes.

    Args:
        named_parameters: a name for every parameter of the optimizer; it may name others too.
    """
    names = _names(optimizer, named_parameters)
    return {
        "state": {
            names[parameter]: {key: _to_plain(value) for key, value in state.items()}
            for parameter, state in optimizer.state.items()
        },
        "shapes": {name: list(parameter.shape) for parameter, name in names.items()},
        "groups": [
            {
                "names": [names[parameter] for parameter in group["params"]],
                "hyper": {key: _to_plain(group[key]) for key in group if key not in _NOT_HYPER},
            }
            for group in optimizer.param_groups
        ],
    }


def load_optimizer_state(
    optimizer: Optimizer, saved: Mapping[str, Any], named_parameters: Mapping[str, Parameter]
) -> None:
    """Gives an optimizer the state and the hyper-parameters that `optimizer_state` returned.

    A saved parameter that is gone is left out and a new one starts afresh. A group takes the
    hyper-parameters of the saved group in which its first known parameter was.

    Raises:
        UserError: a parameter has another shape than when its state was saved.
    """
    names = _names(optimizer, named_parameters)
    for parameter, name in names.items():
        shape = saved["shapes"].get(name, list(parameter.shape))
        if shape != list(parameter.shape):
            raise UserError(
                f"checkpoint: optimizer state of '{name}' is for shape {tuple(shape)}, the network has"
                f" {tuple(parameter.shape)}; it is the checkpoint of another network"
            )
    state: dict[int, Any] = {}
    groups: list[dict[str, Any]] = []
    position = 0
    for index, group in enumerate(optimizer.param_groups):
        numbers = range(position, position + len(group["params"]))
        position = numbers.stop
        group_names = [names[parameter] for parameter in group["params"]]
        for number, name in zip(numbers, group_names, strict=True):
            if name in saved["state"]:
                state[number] = {key: _copied(value) for key, value in saved["state"][name].items()}
        current = {key: value for key, value in group.items() if key != "params"}
        hyper = _hyper_of(saved["groups"], group_names, index)
        restored = {
            key: _like(current.get(key), _copied(value))
            for key, value in hyper.items()
            if key not in _OF_THE_DEVICE
        }
        groups.append({**current, **restored, "params": list(numbers)})
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _names(optimizer: Optimizer, named_parameters: Mapping[str, Parameter]) -> dict[Tensor, str]:
    known: dict[Tensor, str] = {parameter: name for name, parameter in named_parameters.items()}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    missing = [tuple(parameter.shape) for parameter in held if parameter not in known]
    if missing:
        raise ValueError(f"the optimizer holds parameters without a name, of shapes {missing}")
    return {parameter: known[parameter] for parameter in held}


def _hyper_of(saved_groups: list[dict[str, Any]], names: list[str], index: int) -> dict[str, Any]:
    for name in names:
        for group in saved_groups:
            if name in group["names"]:
                return dict(group["hyper"])
    if not names and index < len(saved_groups) and not saved_groups[index]["names"]:
        return dict(saved_groups[index]["hyper"])
    return {}


def _to_plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, list | tuple):
        return [_to_plain(item) for item in value]
    return value


def _copied(value: Any) -> Any:
    # the optimizer changes its state in place, and the checkpoint may be loaded from once more
    if isinstance(value, torch.Tensor):
        return value.clone()
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _like(current: Any, value: Any) -> Any:
    """Plain lists become tuples again where the optimizer has a tuple (Adam's betas)."""
    return tuple(value) if isinstance(current, tuple) and isinstance(value, list) else value
