"""Settings go by keyword, and the same settings stand in the same order wherever they are taken."""

from __future__ import annotations

import importlib
import inspect
import itertools
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import binas
from binas import nn
from binas.arch.macro_network import MacroNetwork
from binas.arch.network import Network
from binas.arch.supernet import Supernet
from binas.evolve.evolution import Evolution
from binas.search.search import Search
from binas.train.retrain import Retraining

MOST_POSITIONAL = 3
LIKE_TORCH = ("stride", "padding", "dilation", "groups", "kernel_size")
"""What convolutions of torch take by position too."""


def _public() -> Iterator[tuple[str, Callable[..., Any]]]:
    """What the package hands out: its functions, those of binas.nn, and what searches and trains."""
    for name in binas.__all__:
        value = getattr(binas, name)
        if inspect.isfunction(value):  # settings and results are values with fields
            yield f"binas.{name}", value
    for name in nn.__all__:
        yield f"binas.nn.{name}", getattr(nn, name)
    for kind in (Search, Retraining, Evolution, Network, MacroNetwork, Supernet):
        yield kind.__name__, kind


def _options(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return [p for p in inspect.signature(function).parameters.values() if p.default is not p.empty]


def late_positionals(function: Callable[..., Any]) -> list[str]:
    """Optional parameters beyond the third that can be given by position."""
    parameters = list(inspect.signature(function).parameters.values())
    return [
        parameter.name
        for place, parameter in enumerate(parameters)
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        and parameter.default is not parameter.empty
        and place >= MOST_POSITIONAL
        and parameter.name not in LIKE_TORCH
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_setting_beyond_the_third_goes_by_position() -> None:
    def wrong(a: int, b: int, c: int, d: int = 0) -> None: ...

    assert late_positionals(wrong) == ["d"]
    found = {name: late for name, function in _public() if (late := late_positionals(function))}
    assert not found


def test_the_same_settings_stand_in_the_same_order() -> None:
    """No two of them are swapped anywhere, by position or in what one reads."""
    orders: dict[tuple[str, str], str] = {}
    swapped = []
    for name, function in _public():
        for first, second in itertools.combinations([p.name for p in _options(function)], 2):
            orders.setdefault((first, second), name)
            if (second, first) in orders:
                swapped.append((name, first, second, orders[second, first]))
    assert not swapped


def test_all_modules_import() -> None:
    """A module that nobody imports is found here."""
    for module in pkgutil.walk_packages(binas.__path__, "binas."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
