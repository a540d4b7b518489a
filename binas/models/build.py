"""A published network from its name and options: the choice a recipe makes, and the module built from it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

from pydantic import ConfigDict, model_validator
from torch import nn

from binas.binarize import Binarization, BinaryConv2d, LayerRule
from binas.binarize.rules import own_by_rules
from binas.config import Config, build, merged
from binas.errors import UserError
from binas.models.model_registry import MODELS, Model, ModelOptions, Task
from binas.registry import nearest

LONGEST_OPTION = 200
"""Characters of an option in one line."""


class ModelChoice(Config):
    """A published network: its registered name, and the options that differ from its paper's."""

    model_config = ConfigDict(extra="allow")

    name: str
    """Registered name."""

    @model_validator(mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        # an override inside a word, `model: vgg10` and then `model.width: 0.5`, arrives as a change to a base
        if isinstance(value, dict) and isinstance(value.get("base"), str) and "name" not in value:
            return {"name": value["base"], **{key: inner for key, inner in value.items() if key != "base"}}
        return value

    @model_validator(mode="after")
    def _options_are_known(self) -> ModelChoice:
        if self.name not in MODELS:
            # not a ValueError, which would lose the hint on its way through the validation
            raise UserError(f"unknown model '{self.name}';{nearest(self.name, MODELS)}", hint="plugins")
        self.options()
        return self

    @property
    def model(self) -> Model:
        """The network's entry in the registry."""
        return MODELS[self.name]

    def options(self) -> ModelOptions:
        """The paper's options with the changes laid over them, checked."""
        paper = self.model.options
        given = dict(self.model_extra or {})
        return build(type(paper), merged(paper.model_dump(), given), "model")

    @property
    def binarization(self) -> Binarization:
        """The paper's, where a stage says nothing."""
        return self.model.binarization

    @property
    def layers(self) -> tuple[LayerRule, ...]:
        """The rules for single layers that follow from the options; none for the full-precision twin."""
        rules, options = self.model.rules, self.options()
        return () if rules is None or options.real else rules(options)

    def summary(self) -> str:
        """Name and changed options in one line; of a long option its hash."""
        given = self.model_dump(mode="json")
        changes = []
        for key, value in (self.model_extra or {}).items():
            text = str(value)
            if len(text) > LONGEST_OPTION:
                text = hashlib.sha256(json.dumps(given[key], sort_keys=True).encode()).hexdigest()[:12]
            changes.append(f"{key} {text}")
        return f"{self.name} ({', '.join(changes)})" if changes else self.name


def build_model(choice: ModelChoice, task: Task) -> nn.Module:
    """The network of that choice, with fresh weights.

    Args:
        task: without binarizations the paper's own is taken, with the rules that follow from the options.
    Raises:
        UserError: an option does not fit the others, or an auxiliary head is wanted where there is none.
    """
    model, options = choice.model, choice.options()
    if task.auxiliary and not model.has_cells:
        raise UserError(f"model: '{choice.name}' has no auxiliary head; set retrain.auxiliary_weight to 0")
    if not task.binarizations:
        task = replace(task, binarizations=(choice.binarization,), layers=(choice.layers,))
    network = model.build(options, task)
    if options.real:
        make_real(network, model.twin_activation == "relu")
    elif task.layers:
        own_by_rules(network, list(zip(task.binarizations, task.layers, strict=True)))
    return network


def make_real(network: nn.Module, relu: bool) -> None:
    """Put a real-valued convolution in the place of every binary one: the full-precision twin.

    Args:
        relu: whether a ReLU stands before each, in place of the sign.
    """
    for name, layer in list(network.named_modules()):
        if not isinstance(layer, BinaryConv2d):
            continue
        conv = nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            bias=False,
        )
        conv.why_real = "the full-precision twin: real: true"  # type: ignore[assignment]
        parent, _, key = name.rpartition(".")
        holder = network.get_submodule(parent)
        holder.add_module(key, nn.Sequential(nn.ReLU(), conv) if relu else conv)
