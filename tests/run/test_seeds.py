"""Every purpose has its own numbers, the same in every process."""

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from binas.run.seeds import derive_seed, generator, seed_everything, set_deterministic

PURPOSES = [(), ("a",), ("a", 1), ("a", "1"), ("a", "b"), ("ab",), ("b", "a"), ("a", "b", 0), (1,), ("1",)]


def test_purposes_differ() -> None:
    seeds = [derive_seed(seed, *purpose) for seed in (0, 1, -1, 2**70) for purpose in PURPOSES]
    assert len(set(seeds)) == len(seeds)


def test_same_in_every_process_and_version() -> None:
    assert derive_seed(0, "shuffle", 3) == 5927337533234738210


@given(st.integers(), st.lists(st.text() | st.integers(), max_size=3))
def test_fits_every_generator(seed: int, purpose: list[str | int]) -> None:
    derived = derive_seed(seed, *purpose)
    assert 0 <= derived < 2**63
    torch.Generator().manual_seed(derived)


def test_generator_is_independent_of_the_global_one() -> None:
    first = torch.rand(4, generator=generator("cpu", 0, "crop", 2))
    torch.manual_seed(5)
    assert torch.equal(first, torch.rand(4, generator=generator(torch.device("cpu"), 0, "crop", 2)))
    assert not torch.equal(first, torch.rand(4, generator=generator("cpu", 0, "crop", 3)))


def draw() -> tuple[list[float], list[float], list[float]]:
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), [random.random() for _ in range(3)]


def test_seed_everything() -> None:
    seed_everything(0, "epoch", 4)
    first = draw()
    draw()
    seed_everything(0, "epoch", 4)
    assert draw() == first
    seed_everything(0, "epoch", 5)
    second = draw()
    assert all(a != b for a, b in zip(first, second, strict=True))


@pytest.fixture
def torch_settings() -> Iterator[None]:
    deterministic = torch.utils.deterministic
    before = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    yield
    torch.use_deterministic_algorithms(False)
    deterministic.fill_uninitialized_memory = before  # type: ignore[attr-defined]


def test_deterministic_on_the_cpu(torch_settings: None) -> None:
    set_deterministic(torch.device("cpu"))
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
