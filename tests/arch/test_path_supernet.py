"""Supernets of single paths against genotypes' own networks, which hold the same weights."""

from __future__ import annotations

import random

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from binas.arch.extremes import extremes
from binas.arch.genotype import AnyGenotype
from binas.arch.kinds import AnySpace, load_any_space
from binas.arch.path_supernet import path_supernet, proxy_settings
from binas.arch.sample import random_genotype
from binas.arch.slices import tensors
from binas.arch.vary import crossover, mutation
from binas.binarize import set_precision
from binas.errors import UserError

SMALL = {"init_channels": 4, "num_cells": 3, "reductions": [1, 2]}
SPACES = {
    "cells": {"base": "binas", "supernet": SMALL},
    "cells_of_bnas": {"base": "bnas", "supernet": SMALL},
    "cells_of_bats": {"base": "bats", "supernet": SMALL, "grouping": {"groups": 2}},
    "macro": {
        "base": "binas_macro",
        "stem": {"channels": [4, 8]},
        "stages": [
            {"channels": [8, 12], "depth": [1, 2], "kernel_size": [1, 3, 5], "skip": ["none", "real"]},
            {
                "channels": [8, 16],
                "depth": [1, 2],
                "stride": [1, 2],
                "groups": [1, 2, 4],
                "activation": ["relu", "prelu", "rprelu", "none"],
                "skip": ["average", "max", "real"],
            },
        ],
        "non_decreasing": False,
    },
    "macro_small": {"base": "binas_macro_small"},
}


@pytest.fixture(params=SPACES)
def space(request: pytest.FixtureRequest) -> AnySpace:
    return load_any_space(SPACES[request.param])


def _genotypes(space: AnySpace, number: int) -> list[AnyGenotype]:
    generator = random.Random(3)
    return [random_genotype(space, generator) for _ in range(number)]


@pytest.mark.parametrize("weights", [False, True], ids=["real", "binary"])
def test_a_path_computes_what_the_genotypes_own_network_computes(space: AnySpace, weights: bool) -> None:
    """Outputs to the last bit, gradients and running statistics up to rounding."""
    supernet = path_supernet(space, 2, 5, binarize_weights=weights)
    images = torch.randn(4, 2, 9, 9, generator=torch.Generator().manual_seed(0))
    for genotype in _genotypes(space, 5):
        alone = supernet.network(genotype)
        set_precision(alone, True, weights)
        supernet.zero_grad(set_to_none=True)
        supernet.train()
        alone.train()
        ours, theirs = supernet(images, genotype), alone(images)
        assert torch.equal(ours, theirs)
        ours.square().sum().backward()
        theirs.square().sum().backward()
        expected = sum(float(p.grad.abs().sum()) for p in alone.parameters() if p.grad is not None)
        found = sum(float(p.grad.abs().sum()) for p in supernet.parameters() if p.grad is not None)
        assert found == pytest.approx(expected, rel=1e-5)
        after = supernet.network(genotype)
        statistics = {name: tensor for name, tensor in tensors(alone).items() if "running" in name}
        assert statistics
        for name, tensor in statistics.items():
            torch.testing.assert_close(tensors(after)[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_path_computes_nothing_that_is_not_in_the_genotype(space: AnySpace) -> None:
    """As many multiply-accumulates run as in the genotype's own network."""
    supernet = path_supernet(space, 1, 3)
    images = torch.randn(2, 1, 8, 8)
    for genotype in _genotypes(space, 4):
        with FlopCounterMode(display=False) as ours:
            supernet(images, genotype)
        with FlopCounterMode(display=False) as theirs:
            alone = supernet.network(genotype)
            set_precision(alone, True, False)
            alone(images)
        assert ours.get_total_flops() == theirs.get_total_flops() > 0


def test_the_state_is_one_of_plain_parameters(space: AnySpace) -> None:
    """What is kept for paths is no part of it, and a step after loading is the same."""
    supernet, other = (path_supernet(space, 1, 3) for _ in range(2))
    genotype = _genotypes(space, 1)[0]
    images = torch.randn(2, 1, 8, 8)
    before = set(supernet.state_dict())
    supernet(images, genotype)
    assert set(supernet.state_dict()) == before
    other.load_state_dict(supernet.state_dict())
    assert torch.equal(supernet(images, genotype), other(images, genotype))


def test_offspring_are_members_and_differ(space: AnySpace) -> None:
    generator = random.Random(0)
    first, second = _genotypes(space, 2)
    found = [mutation(first, space, generator, 0.2) for _ in range(20)]
    found += [crossover(first, second, space, generator) for _ in range(20)]
    supernet = path_supernet(space, 1, 3)
    images = torch.randn(2, 1, 8, 8)
    for genotype in found:
        supernet(images, genotype)
        supernet.network(genotype)
    assert len({genotype.hash() for genotype in found}) > 12
    assert mutation(first, space, generator, 0.0).hash() == first.hash()
    assert {crossover(first, first, space, generator).hash() for _ in range(5)} == {first.hash()}


def test_genotypes_are_compared_at_the_size_of_the_supernet() -> None:
    settings = proxy_settings(load_any_space("binas"))
    assert settings is not None
    assert (settings.init_channels, settings.num_cells) == (16, 8)
    assert settings.preprocess == "binary" and settings.batch_norm_affine
    assert proxy_settings(load_any_space("binas_macro")) is None


def test_extremes_hold_all_others_between_them() -> None:
    space = load_any_space("binas_macro_small")
    most, least = extremes(space)
    assert most.widths() == (16, 32, 48, 96) and least.widths() == (8, 16, 24, 48)
    assert [len(stage.blocks) for stage in most.stages] == [2, 3, 3]
    assert {block.groups for stage in least.stages[1:] for block in stage.blocks} == {4}
    with pytest.raises(UserError, match="leave sandwich out"):
        extremes(load_any_space("binas"))
