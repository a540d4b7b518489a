"""Measures: what of a network's cost a search can limit, by name; and limits, a mapping over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from pydantic import ConfigDict, ModelWrapValidatorHandler, model_validator
from torch import nn

from binas.config import Config, call_named, checked_options
from binas.errors import UserError
from binas.profile.cost import Profile
from binas.registry import Registry, nearest

AT_MOST = "at_most"


class Measure:
    """A number for a network, smaller being better; its constructor takes its options.

    A search builds it once and calls it for every candidate before anything is trained.
    """

    unit: ClassVar[str] = ""
    """What it counts, in a word, for tables."""
    reads_network: ClassVar[bool] = True
    """Whether it looks at the network; False spares the building: it gets None, and goes by the profile."""

    needs_numbers: ClassVar[bool] = False
    """Whether the network that it gets has values, fresh ones; otherwise it is on torch's meta device."""

    def __call__(self, network: nn.Module, profile: Profile) -> float:
        """The number.

        Args:
            network: a candidate's network: it has shapes, and values only for those that need them.
            profile: what the network costs for one image.
        """
        raise NotImplementedError

    def about(self) -> Mapping[str, Any]:
        """What it goes by besides, in plain types: a table's device and hash, say."""
        return {}


MEASURES: Registry[Callable[..., Measure]] = Registry("measure")
"""Measures by name; called with the options."""
register_measure = MEASURES.register


class _Total(Measure):
    """A total that the profile has already."""

    reads_network = False
    total: ClassVar[str]
    """Which: a name of `Profile.totals`."""

    def __call__(self, network: nn.Module, profile: Profile) -> float:
        return profile.totals()[self.total]


@register_measure("parameters")
class Parameters(_Total):
    """All parameters that are read."""

    unit = "parameters"
    total = "parameters"


@register_measure("bits")
class Bits(_Total):
    """Stored bits: binary weights × bits of a code + 32 × all other parameters."""

    unit = "bit"
    total = "bits"


@register_measure("packed_kb")
class PackedKilobytes(Measure):
    """Bytes / 1000 of a packed file, scales of binary filters included; see `binas profile`."""

    unit = "kB"
    reads_network = False

    def __call__(self, network: nn.Module, profile: Profile) -> float:
        """See the class."""
        return profile.file_bytes / 1000


@register_measure("flops")
class Flops(_Total):
    """Real-valued multiply-accumulates of convolutions and linear layers for one image."""

    unit = "FLOPs"
    total = "flops"


@register_measure("bops")
class Bops(_Total):
    """1-bit multiply-accumulates for one image."""

    unit = "BOPs"
    total = "bops"


@register_measure("ops")
class Ops(_Total):
    """FLOPs + BOPs/64 of convolutions and linear layers for one image."""

    unit = "OPs"
    total = "ops"


class Limits(Config):
    """What a network may cost: a mapping over measures.

    `{ops: 4.0e+6}`, or with options `{latency_ms: {table: phone.yaml, at_most: 12}}`; without `at_most` the
    measure is told of every candidate and limits nothing.
    """

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="wrap")
    @classmethod
    def _each_is_a_measure(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(value, Mapping):
            return handler(value)
        return handler({name: _entry(str(name), entry) for name, entry in value.items() if entry is not None})

    @property
    def entries(self) -> dict[str, float | dict[str, Any]]:
        """A number, or a mapping with `at_most` and options, by measure."""
        return dict(self.model_extra or {})

    @cached_property
    def at_most(self) -> dict[str, float]:
        """The largest value that each measure may have; measures that are only told are left out."""
        found = {
            name: entry.get(AT_MOST) if isinstance(entry, dict) else entry
            for name, entry in self.entries.items()
        }
        return {name: value for name, value in found.items() if value is not None}

    @cached_property
    def measures(self) -> dict[str, Measure]:
        """The measures by name, built from their options once.

        Raises:
            UserError: an option's value does not fit, or a file that one names cannot be read.
        """
        return {name: _built(name, _options(entry)) for name, entry in self.entries.items()}

    def values(self, profile: Profile, network: Callable[[], nn.Module] | None = None) -> dict[str, float]:
        """What each measure says.

        Args:
            profile: of the network.
            network: builds it on the default device, for measures that look at it; None where there is none
                to be had.
        Raises:
            UserError: a measure needs the network, or gives no number.
        """
        built: list[nn.Module] = []
        found = {}
        for name, measure in self.measures.items():
            seen: Any = None
            if getattr(measure, "reads_network", True):
                if network is None:
                    raise UserError(f"limits.{name}: looks at the network, and there is none here")
                built = built or [self._built_network(network)]
                seen = built[0]
            found[name] = _number(name, measure(seen, profile))
        return found

    def _built_network(self, network: Callable[[], nn.Module]) -> nn.Module:
        """With values if a measure needs them; the random numbers of others are not touched."""
        numbers = any(getattr(measure, "needs_numbers", False) for measure in self.measures.values())
        with torch.random.fork_rng(devices=[]), torch.device("cpu" if numbers else "meta"):
            return network()

    def excess_of(self, values: Mapping[str, float]) -> dict[str, float]:
        """By how much of itself each limit is exceeded by these values; 0 or less means that it is kept.

        An optimizer takes them as constraints as they are: all at most 0 is feasible.
        """
        # a limit of 0 is exceeded by the value itself
        return {
            name: values[name] / most - 1 if most else values[name] for name, most in self.at_most.items()
        }

    def excess(self, profile: Profile, network: Callable[[], nn.Module] | None = None) -> dict[str, float]:
        """By how much of itself each limit is exceeded; arguments as of `values`."""
        return self.excess_of(self.values(profile, network))

    def holds(self, profile: Profile, network: Callable[[], nn.Module] | None = None) -> bool:
        """Whether no limit is exceeded."""
        return all(excess <= 0 for excess in self.excess(profile, network).values())

    def about(self) -> dict[str, dict[str, Any]]:
        """What measures go by besides, by name: of a latency table its device and hash."""
        found = {name: dict(_about(measure)) for name, measure in self.measures.items()}
        return {name: about for name, about in found.items() if about}

    def registered_names(self) -> set[str]:
        """The names of its measures."""
        return set(self.entries)


def _entry(name: str, entry: Any) -> float | dict[str, Any]:
    """A checked number, or a checked mapping."""
    if name not in MEASURES:
        raise ValueError(f"unknown measure '{name}';{nearest(name, MEASURES)}")
    if not isinstance(entry, Mapping):
        _options_of(name, {})
        return _at_most(name, entry)
    options = _options_of(name, {key: value for key, value in entry.items() if key != AT_MOST})
    most = entry.get(AT_MOST)
    return {**options, **({} if most is None else {AT_MOST: _at_most(name, most)})}


def _at_most(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value < 0:
        raise ValueError(f"{name}: a number from 0 on is needed: the most that it may be (given: {value!r})")
    return value


def _options(entry: Any) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != AT_MOST} if isinstance(entry, dict) else {}


def _options_of(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as plain values, checked by the measure's signature."""
    try:
        checked_options(MEASURES.kind, name, MEASURES[name], options)
    except UserError as error:
        raise ValueError(str(error)) from None
    return dict(options)


def _built(name: str, options: Mapping[str, Any]) -> Measure:
    measure: Measure = call_named(MEASURES.kind, name, MEASURES[name], options)
    return measure


def _number(name: str, value: Any) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"limits.{name}: the measure gives {value!r}, not a number") from None
    if math.isnan(found):
        raise UserError(f"limits.{name}: the measure gives nan, which is compared with nothing")
    return value if isinstance(value, int | float) else found


def _about(measure: Any) -> Mapping[str, Any]:
    return measure.about() if hasattr(measure, "about") else {}
