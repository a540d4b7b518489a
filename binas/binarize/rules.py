"""Which layer is binarized how: rules by path or type, the last one that matches a layer decides.

A layer is binary because of its type; rules only choose among binarizations, or keep it, its weights or its
activations real-valued.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import model_validator
from torch import nn

from binas.binarize.conv import BinaryConv2d
from binas.binarize.spec import Binarization
from binas.config import Config
from binas.errors import UserError


class LayerRule(Config):
    """How the binary convolutions of some paths, or of a type, are binarized."""

    match: str | None = None
    """Path of a layer or of what holds it, * for any text: cells.3.*, *.preprocess, cells.0."""
    type: str | None = None
    """Name of an operation (binary_conv_5x5), or the class of the layer or of what holds it (Preprocess)."""
    binarization: Binarization | None = None
    """Estimators of these layers; pad_value too."""
    precision: Literal["binary", "real", "real_weights", "real_activations"] = "binary"
    """real: these layers, their weights or their activations stay real-valued whatever the stage says."""

    @model_validator(mode="after")
    def _complete(self) -> LayerRule:
        if (self.match is None) == (self.type is None):
            raise ValueError("give exactly one of match (a path) and type (an operation or class)")
        if self.keeps_real_activations != self.keeps_real_weights:
            if self.binarization is None:
                half = "activations" if self.keeps_real_weights else "weights"
                raise ValueError(
                    f"precision: {self.precision} needs a binarization, which says how {half} are quantized"
                )
        elif (self.binarization is None) == (self.precision == "binary"):
            raise ValueError("give either binarization, or precision: real")
        return self

    @property
    def keeps_real_activations(self) -> bool:
        """Whether activations of its layers stay real-valued."""
        return self.precision in ("real", "real_activations")

    @property
    def keeps_real_weights(self) -> bool:
        """Whether weights of its layers stay real-valued."""
        return self.precision in ("real", "real_weights")

    def summary(self) -> str:
        """What it looks for."""
        return f"match: {self.match}" if self.type is None else f"type: {self.type}"

    def applies(self, layer: LayerNames) -> bool:
        """Whether a layer is one of those that it is for."""
        if self.type is not None:
            return self.type in layer.types
        pattern = self.match or ""
        return any(fnmatchcase(path, pattern) for path in layer.paths)


class LayerNames(Config):
    """The names by which rules find a layer."""

    path: str
    paths: tuple[str, ...]
    """Its own path and those of the modules that hold it."""
    types: frozenset[str]
    """Their classes, and the registered names of operations among them."""


BinarizationChoice = tuple[Binarization, Sequence[LayerRule]]
"""A binarization, and the rules that except some layers from it."""


def layer_names(model: nn.Module) -> Iterator[tuple[LayerNames, BinaryConv2d]]:
    """Every binary convolution of a model, with the names by which rules find it."""
    modules = dict(model.named_modules())
    for path, layer in modules.items():
        if isinstance(layer, BinaryConv2d):
            words = path.split(".")
            paths = [".".join(words[:length]) for length in range(1, len(words) + 1)]
            holders = [modules[name] for name in paths]
            types = {type(holder).__name__ for holder in holders}
            types |= {str(holder.operation) for holder in holders if hasattr(holder, "operation")}
            yield LayerNames(path=path, paths=tuple(paths), types=frozenset(types)), layer


def rule_for(layer: LayerNames, rules: Sequence[LayerRule]) -> LayerRule | None:
    """The last of the rules that applies to a layer, or None."""
    return next((rule for rule in reversed(rules) if rule.applies(layer)), None)


def check_rules(
    layers: Sequence[LayerNames], rules: Sequence[LayerRule], may_be_absent: Collection[str] = ()
) -> None:
    """Raises a `UserError` naming a rule that applies to no layer.

    Args:
        may_be_absent: types that another network of the same space has.
    """
    for rule in rules:
        if rule.type in may_be_absent or any(rule.applies(layer) for layer in layers):
            continue
        wanted = str(rule.match if rule.type is None else rule.type)
        known = {name for layer in layers for name in (layer.paths if rule.type is None else layer.types)}
        close = difflib.get_close_matches(wanted, known, n=3, cutoff=0.3) or sorted(known)[:3]
        raise UserError(
            f"layers: the rule '{rule.summary()}' fits none of the {len(layers)} binary convolutions;"
            f" there are, for example, {', '.join(close)}. Rules of a space hold for supernet and network"
            " alike; those for one stage of training stand in its own layers"
        )


def own_by_rules(
    model: nn.Module, choices: Sequence[BinarizationChoice], may_be_absent: Collection[str] = ()
) -> None:
    """Give layers that rules single out the binarizers of all stages; the first choice becomes active.

    Layers that no rule is for stay as they were built.

    Args:
        choices: of every stage of training, in order.
        may_be_absent: see `check_rules`.
    Raises:
        UserError: a rule fits no layer.
    """
    if not any(rules for _, rules in choices):
        return
    layers = list(layer_names(model))
    for _, rules in choices:
        check_rules([names for names, _ in layers], rules, may_be_absent)
    for names, layer in layers:
        chosen = [(binarization, rule_for(names, rules)) for binarization, rules in choices]
        if any(rule is not None for _, rule in chosen):
            layer.own([binarization_by(rule, binarization) for binarization, rule in chosen])
            _keep_real(layer, chosen[0][1])
            layer.binarize_activations = not layer.keeps_real_activations
            layer.binarize_weights = not layer.keeps_real_weights


def use_by_rules(model: nn.Module, choice: BinarizationChoice) -> None:
    """Make one choice the active one in every layer of a model that owns it."""
    binarization, rules = choice
    for names, layer in layer_names(model):
        rule = rule_for(names, rules)
        layer.use(binarization_by(rule, binarization))
        _keep_real(layer, rule)


def binarization_by(rule: LayerRule | None, otherwise: Binarization) -> Binarization:
    """What a rule says, or the binarization of layers that no rule is for."""
    return otherwise if rule is None or rule.binarization is None else rule.binarization


def _keep_real(layer: BinaryConv2d, rule: LayerRule | None) -> None:
    layer.keeps_real_activations = rule is not None and rule.keeps_real_activations
    layer.keeps_real_weights = rule is not None and rule.keeps_real_weights
