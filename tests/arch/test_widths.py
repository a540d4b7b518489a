"""Cells of different widths: what is built runs, is counted right, and equal widths change nothing."""

from __future__ import annotations

import random

import pytest
import torch

from binas.arch.genotype import Genotype
from binas.arch.network import Network
from binas.arch.sample import random_genotype
from binas.arch.space import NetworkSettings, load_space
from binas.errors import UserError
from binas.profile.closed_form import profile_genotype
from binas.profile.executed import profile_module

SIZES = {"init_channels": 8, "num_cells": 4, "reductions": (1,), "stem_multiplier": 1}


def genotype(space: str, seed: int = 0) -> Genotype:
    return random_genotype(load_space(space), random.Random(seed))


@pytest.mark.parametrize("space", ["binas", "bnas", "darts_binary"])
@pytest.mark.parametrize("widths", [(2, 1, 0.5, 3), (0.5, 4, 4, 1)])
def test_closed_form_is_what_runs(space: str, widths: tuple[float, ...]) -> None:
    settings = NetworkSettings(**SIZES, widths=widths)
    found = genotype(space)
    network = Network(found, 1, 5, settings=settings)
    executed = profile_module(network, 1, (8, 8))
    closed = profile_genotype(found, 1, (8, 8), 5, settings)
    for key in ("flops", "bops", "ops", "parameters", "bits"):
        assert getattr(closed, key) == getattr(executed, key), key
    assert [plan.channels for plan in network.plans] == [
        round(base * width) for base, width in zip((8, 16, 16, 16), widths, strict=True)
    ]


def test_equal_widths_change_nothing() -> None:
    found = genotype("binas")
    outputs = []
    for widths in (None, (1, 1, 1, 1)):
        torch.manual_seed(0)
        network = Network(found, 3, 5, settings=NetworkSettings(**SIZES, widths=widths)).eval()
        outputs.append(network(torch.ones(2, 3, 8, 8)))
    assert torch.equal(*outputs)


def test_a_network_of_many_widths_learns() -> None:
    network = Network(genotype("binas"), 1, 3, settings=NetworkSettings(**SIZES, widths=(1, 2, 0.5, 3)))
    loss = network(torch.randn(4, 1, 8, 8)).square().mean()
    loss.backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize("widths", [(1, 1), (1, 1, 1, 0), (1, 1, -1, 1)])
def test_wrong_widths_are_told(widths: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="widths: 4 numbers above 0"):
        NetworkSettings(**SIZES, widths=widths)


def test_a_width_that_groups_cannot_divide_is_told() -> None:
    for seed in range(20):
        found = genotype("bats", seed)
        if any("group" in op for op in found.operations()):
            with pytest.raises(UserError, match="does not divide"):
                Network(
                    found, 1, 3, settings=NetworkSettings(**SIZES | {"init_channels": 12}, widths=(0.1,) * 4)
                )
            return
    raise AssertionError("no genotype with a group convolution")
