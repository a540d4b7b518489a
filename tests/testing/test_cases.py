"""The cases for plug-in authors: our own names keep their promises, and faulty ones are found out."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from binas import testing
from binas.data.datasets import DATASETS
from binas.models import MODELS
from binas.ops import NONLINEARITIES, OPS
from binas.plugins import load_plugins
from binas.profile.measures import MEASURES
from binas.registries import REGISTRIES
from binas.search.parts import DECISIONS, RELAXATIONS, STRATEGIES

SMALL_SEARCH = {
    "binas": {
        "supernet_epochs": 2,
        "candidates": 3,
        "rounds": 1,
        "offspring": 2,
        "finalists": 2,
        "random_finalists": 2,
        "rungs": [1, 2],
        "bins": 1,
    }
}
OFFLINE = {
    "digits": {},
    "fashion_small": {},
    "synthetic": {"images_per_class": 12},
    "photo_patches": {"images_per_class": 12},
}
"""Sets that are here without a download; the others are tested with files in tests/data."""


def test_our_operations(subtests: pytest.Subtests) -> None:
    for name in OPS:
        if name != "zeroise":
            with subtests.test(name):
                testing.check_operation(name)


def test_our_nonlinearities(subtests: pytest.Subtests) -> None:
    for name in NONLINEARITIES:
        with subtests.test(name):
            testing.check_nonlinearity(name)


def test_our_strategies(subtests: pytest.Subtests) -> None:
    for name in STRATEGIES:
        with subtests.test(name):
            testing.check_strategy(name, **SMALL_SEARCH.get(name, {}))


def test_our_parts_of_a_search(subtests: pytest.Subtests) -> None:
    cases: list[tuple[Any, Callable[..., None]]] = [
        (RELAXATIONS, testing.check_relaxation),
        (DECISIONS, testing.check_decision),
    ]
    for registry, check in cases:
        for name in registry:
            with subtests.test(name):
                check(name)


def test_our_measures(subtests: pytest.Subtests) -> None:
    for name in MEASURES:
        if name not in ("latency_ms", "program_ms"):  # which need a table and have tests of their own
            with subtests.test(name):
                testing.check_measure(name)


def test_our_data_sets(subtests: pytest.Subtests) -> None:
    assert set(OFFLINE) <= set(DATASETS)
    for name, settings in OFFLINE.items():
        with subtests.test(name):
            testing.check_dataset(name, **settings)


@pytest.mark.parametrize("name", ["vgg_small", "resnet20", "mobilenet_v2"])
def test_some_of_our_networks(name: str) -> None:
    """All others are built, run and counted in tests/models."""
    narrow = {"width": 0.0625} if "width" in type(MODELS[name].options).model_fields else {}
    testing.check_network(name, **narrow)


FAULTY = '''
import itertools
import torch
from torch import nn
from binas import (register_op, register_nonlinearity, register_dataset, register_model, register_strategy,
    register_relaxation, register_regularizer, register_decision, register_measure, register_stage_part,
    register_activation_binarizer, register_weight_binarizer)
from binas.binarize.schemes.straight_through import Sign
from binas.binarize.schemes.xnor import Xnor
from binas.data.source import ArraySource, RawData
from binas.profile import Measure
from binas.search.decisions.largest_alpha import LargestAlpha
from binas.search.regularizers.base import Regularizer
from binas.search.relaxations.softmax import Softmax
from binas.search.strategies.gradient import Gradient
from binas.train.parts.base import StagePart

COUNT = itertools.count()


@register_op("narrows")
class Narrows(nn.Conv2d):
    """Loses channels."""

    def __init__(self, channels, stride):
        super().__init__(channels, channels - 1, 3, stride, padding=1)


@register_op("miscounts")
class Miscounts(nn.Conv2d):
    """Declares half of what it costs."""

    kind = "real"

    def __init__(self, channels, stride):
        super().__init__(channels, channels, 3, stride, padding=1, bias=False)

    @staticmethod
    def cost(place):
        from binas.profile.formulas import real_conv

        return [real_conv(place.name, place.shape, place.shape[0], 1, place.stride, 0)]


@register_op("odd_kind")
class OddKind(nn.Conv2d):
    """Says a kind that is none."""

    kind = "ternary"

    def __init__(self, channels, stride):
        super().__init__(channels, channels, 3, stride, padding=1)


@register_nonlinearity("in_place")
class InPlace(nn.Module):
    """Changes what it is given."""

    def __init__(self, channels):
        super().__init__()

    def forward(self, x):
        with torch.no_grad():
            x.mul_(2)
        return x.clone()


@register_activation_binarizer("three_levels")
class ThreeLevels(Sign):
    """Gives codes that it does not declare."""

    def forward(self, x):
        return (((x.sign() * (x.abs() > 0.5)), None),)


@register_weight_binarizer("moves")
class Moves(Xnor):
    """Changes the latent weight."""

    def forward(self, weight):
        with torch.no_grad():
            weight.mul_(0.5)
        return super().forward(weight)


@register_model("wrong_classes")
def wrong_classes(options, task):
    """Always gives ten classes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))


@register_dataset("shuffled")
def shuffled(config):
    """Other images every time."""
    n = next(COUNT)
    images = torch.randint(0, 255, (60, 1, 8, 8), generator=torch.Generator().manual_seed(n)).byte()
    return RawData(("a", "b"), ArraySource(images, torch.arange(60) % 2))


@register_strategy("forgets")
class Forgets(Gradient):
    """Counts what it does not hand on."""

    steps = 0

    def step(self, train, validation):
        self.steps += 1
        values = super().step(train, validation)
        with torch.no_grad():
            for alphas in self.state.alphas.parameters():
                alphas[:, self.steps % alphas.shape[1]] += self.steps
        return values


@register_relaxation("own_dice")
class OwnDice(Softmax):
    """Draws from a clock of its own."""

    def edge_weights(self, alphas, temperatures, generator):
        with torch.no_grad():
            for alpha in alphas.parameters():
                alpha[:, next(COUNT) % alpha.shape[1]] += 1.0
        return super().edge_weights(alphas, temperatures, generator)


@register_regularizer("no_number")
class NoNumber(Regularizer):
    """Is not finite."""

    def loss(self, relaxed):
        return relaxed.alphas.get_parameter("normal").sum() * float("nan")


@register_decision("restless")
class Restless(LargestAlpha):
    """Recommends another one each time."""

    def decide(self, found):
        from dataclasses import replace

        front = super().decide(found)
        return replace(front, rule=f"call {next(COUNT)}")


@register_measure("grows")
class Grows(Measure):
    """Gives more each time."""

    def __call__(self, network, profile):
        return float(next(COUNT))


@register_stage_part("forgetful")
class Forgetful(StagePart):
    """Remembers a number that no checkpoint holds."""

    is_fixed_program = False

    def __init__(self):
        self.seen = 0

    def loss(self, images, logits, labels):
        self.seen += 1
        term = logits.square().mean() / self.seen
        return term, {"forgetful_loss": term}
'''


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[None]:
    file = tmp_path / "faulty.py"
    file.write_text(textwrap.dedent(FAULTY))
    load_plugins([str(file)], REGISTRIES)
    yield


CASES: list[tuple[Callable[..., None], str, str]] = [
    (testing.check_operation, "narrows", "expected .*channels stay"),
    (testing.check_operation, "miscounts", "cost declares parameters 256, and 2304 run"),
    (testing.check_operation, "odd_kind", "kind: 'ternary' is none of"),
    (testing.check_nonlinearity, "in_place", "the input was changed in place"),
    (testing.check_activation_binarizer, "three_levels", "activation 'three_levels'"),
    (testing.check_weight_binarizer, "moves", "weight 'moves'"),
    (testing.check_network, "wrong_classes", r"gave \(2, 10\), not \(2, 7\)"),
    (testing.check_dataset, "shuffled", "opened twice, its splits differ"),
    (testing.check_strategy, "forgets", "stopped and resumed ends in another front"),
    (testing.check_relaxation, "own_dice", "with one seed differ"),
    (testing.check_regularizer, "no_number", "regularizer 'no_number'"),
    (testing.check_decision, "restless", "with one seed differ"),
    (testing.check_measure, "grows", "for the same network"),
    (testing.check_stage_part, "forgetful", "stopped and resumed ends otherwise"),
]


@pytest.mark.usefixtures("faulty")
def test_faulty_ones_are_found_out(subtests: pytest.Subtests) -> None:
    for check, name, expected in CASES:
        with subtests.test(name), pytest.raises(AssertionError, match=expected):
            torch.manual_seed(0)
            check(name)


def test_every_kind_has_a_case() -> None:
    """What `register_*` takes, a case checks."""
    import binas

    kinds = {name.removeprefix("register_") for name in binas.__all__ if name.startswith("register_")}
    names = {"op": "operation", "model": "network"}
    assert {f"check_{names.get(kind, kind)}" for kind in kinds} == set(testing.__all__)
