"""The YAML mapping that says how a layer is binarized, and the building of what it names."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ConfigDict, Field, model_validator
from torch import Size

import binas.binarize.schemes  # noqa: F401 (its files register their binarizers)
from binas.binarize.contract import (
    ACTIVATION_BINARIZERS,
    GRADIENT_QUANTIZERS,
    WEIGHT_BINARIZERS,
    ActivationBinarizer,
    GradientQuantizer,
    WeightBinarizer,
)
from binas.config import Config, call_named, name_and_options
from binas.errors import UserError
from binas.registry import Registry, nearest

B = TypeVar("B")


class BinarizerSpec(Config):
    """A binarizer's registered name and its options: `sign`, or `{name: sign, window: 1.25}`."""

    model_config = ConfigDict(extra="allow")

    name: str

    @model_validator(mode="before")
    @classmethod
    def _any_spelling(cls, value: Any) -> Any:
        return name_and_options(value)

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})

    @property
    def key(self) -> str:
        """A word that tells specs apart, usable in a parameter's name."""
        parts = [self.name, *(f"{key}_{value}" for key, value in sorted(self.options.items()))]
        return re.sub(r"\W", "_", "_".join(parts))


class Binarization(Config):
    """How a layer's activations and weights are binarized, and what pads a binary input."""

    activation: BinarizerSpec = BinarizerSpec(name="sign")
    """Estimator of activations, e.g. {name: sign, window: 1.0} or {name: approx_sign}."""
    weight: BinarizerSpec = BinarizerSpec(name="xnor")
    """Binarizer of weights, e.g. {name: xnor, center: true}."""
    gradient: BinarizerSpec | None = None
    """Quantizer of the gradient of the layer's output, e.g. {name: dorefa, bits: 6}; null: none."""
    pad_value: float = Field(0.0, ge=-1, le=1)
    """What surrounds a binarized input: 0 makes a third value, −1 and +1 keep it binary."""

    def with_activation(self, spec: BinarizerSpec) -> Binarization:
        """The same with another binarizer of activations."""
        return self.model_copy(update={"activation": spec})

    def registered_names(self) -> set[str]:
        """The names of the binarizers that it uses."""
        return {spec.name for spec in (self.activation, self.weight, self.gradient) if spec is not None}

    def build_activation(self, channels: int) -> ActivationBinarizer:
        """The activation binarizer for an input of so many channels."""
        return _build(ACTIVATION_BINARIZERS, self.activation, (channels,))

    def build_weight(self, shape: Size) -> WeightBinarizer:
        """The weight binarizer for a latent weight of that shape."""
        return _build(WEIGHT_BINARIZERS, self.weight, (shape,))

    def build_gradient(self) -> GradientQuantizer:
        """The gradient quantizer; there has to be one."""
        assert self.gradient is not None
        return _build(GRADIENT_QUANTIZERS, self.gradient, ())


def _build(registry: Registry[Callable[..., B]], spec: BinarizerSpec, arguments: tuple[Any, ...]) -> B:
    if spec.name not in registry:
        raise UserError(
            f"unknown {registry.kind} '{spec.name}';{nearest(spec.name, registry)}", hint="plugins"
        )
    entry = registry[spec.name]
    made: B = call_named(registry.kind, spec.name, entry, spec.options, *arguments, typed=False)
    return made
