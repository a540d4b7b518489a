"""Trainings that take turns give what each gives alone; errors of one do not stop the others."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from binas.data.batches import Batches
from binas.data.image_set import ImageSet
from binas.engine.loss import LossConfig
from binas.engine.optimizer import Curve, OptimizerConfig
from binas.engine.side_by_side import side_by_side
from binas.search.measured.schedule import Schedule
from binas.search.measured.trial import Trial

CPU = torch.device("cpu")


def batches(device: torch.device = CPU) -> Batches:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (24, 1, 4, 4), dtype=torch.uint8, generator=generator)
    return Batches(ImageSet(images, torch.arange(24) % 3), 4, device, [0.5], [0.25])


def trained(seed: int, device: torch.device, taking_turns: Callable[[Batches], Batches]) -> Any:
    trial = Trial(
        "network",
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)
        ).to(device),
        Schedule(3, OptimizerConfig(learning_rate=1e-2), Curve(), LossConfig()),
        taking_turns(batches(device)),
        taking_turns(batches(device)),
        seed,
    )
    return trial.train(3).to_plain()


@pytest.mark.parametrize("together", [1, 2, 3, 9])
def test_each_gives_what_it_gives_alone(together: int) -> None:
    found: dict[int, Any] = {}

    def work(seed: int) -> Callable[[Any], None]:
        return lambda turns: found.__setitem__(seed, trained(seed, CPU, turns))

    side_by_side([work(seed) for seed in range(5)], together, CPU)
    for seed in range(5):
        assert found[seed] == trained(seed, CPU, lambda given: given)
    assert found[0] != found[1]


def test_they_take_turns_step_by_step() -> None:
    seen: list[int] = []

    def stepping(number: int) -> Callable[[Any], None]:
        def run(turns: Any) -> None:
            for _ in turns(batches()).epoch(0):
                seen.append(number)

        return run

    side_by_side([stepping(0), stepping(1)], 2, CPU)
    assert seen == [0, 1] * 6


def test_an_error_comes_after_all_others_have_ended() -> None:
    done: list[int] = []

    def fails(turns: Any) -> None:
        next(iter(turns(batches()).epoch(0)))
        raise ValueError("of one")

    def works(turns: Any) -> None:
        done.append(len(list(turns(batches()).epoch(0))))

    with pytest.raises(ValueError, match="of one"):
        side_by_side([works, fails, works, works], 2, CPU)
    assert done == [6, 6, 6]
    side_by_side([], 3, CPU)


@pytest.mark.gpu
def test_on_a_gpu_recorded_steps_side_by_side_give_what_each_gives_alone() -> None:
    device, found = torch.device("cuda"), {}
    works = [
        (lambda turns, seed=seed: found.__setitem__(seed, trained(seed, device, turns))) for seed in range(4)
    ]
    random.shuffle(works)
    side_by_side(works, 3, device)
    for seed in range(4):
        alone = trained(seed, device, lambda given: given)
        assert found[seed]["losses"] == pytest.approx(alone["losses"], rel=1e-4)
