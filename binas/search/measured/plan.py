"""How long a measured search takes, from a measured step, and which one fits into a budget of time."""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from binas.arch.genotype import AnyGenotype
from binas.errors import UserError
from binas.run.device import wait_for
from binas.run.progress import eta
from binas.search.measured.halving import epochs_of

if TYPE_CHECKING:
    from binas.search.strategies.binas import Binas

PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "supernet_epochs": 10,
        "candidates": 24,
        "rounds": 2,
        "offspring": 8,
        "finalists": 6,
        "random_finalists": 6,
        "rungs": [2, 4, 8],
    },
    "medium": {},
    "large": {
        "supernet_epochs": 60,
        "candidates": 160,
        "rounds": 6,
        "offspring": 40,
        "finalists": 24,
        "random_finalists": 24,
        "rungs": [6, 12, 24],
    },
}
"""Sizes of a search by name: options of the strategy that differ from its defaults."""

MARGIN = 0.8
"""Part of a budget that is planned; the rest is for what a measured step does not show."""
SHARES = {"supernet": 0.3, "ranking": 0.1, "training": 0.6}
"""Parts of a planned budget."""
RUNGS = ((4, 8, 16), (2, 4, 8), (1, 2, 4))
"""Rungs to plan with, the longest that leaves enough finalists first."""
ENOUGH, LEAST = 12, 4
"""Finalists for which long rungs are given up for shorter ones, and without which there is no search."""


def seconds_of(text: str) -> float:
    """A time like 90s, 20m, 1.5h or 2d in seconds.

    Raises:
        UserError: it is none, or not above 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text.strip())
    seconds = float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]] if found else 0.0
    if not seconds:
        raise UserError(f"budget '{text}': write a number and s, m, h or d: 90s, 20m, 1.5h")
    return seconds


@dataclass(frozen=True)
class StepTimes:
    """Measured seconds.

    Args:
        epoch: of training an average genotype's network for an epoch.
        image: of evaluating an image with it.
        batch_size: of its training.
    """

    epoch: float
    image: float
    batch_size: int


def measured_times(
    build: Callable[[AnyGenotype], nn.Module],
    draw: Callable[[random.Random], AnyGenotype],
    batch: tuple[Tensor, Tensor],
    steps_per_epoch: int,
    *,
    genotypes: int = 4,
    steps: int = 2,
) -> StepTimes:
    """Times a few training steps of a few random genotypes; takes seconds, and leaves nothing behind.

    Args:
        build: gives a genotype's network on the device.
        draw: a random genotype.
        batch: of the train split.
        steps_per_epoch: batches of it.
        genotypes, steps: how many are timed, and how often.
    """
    images, labels = batch
    generator = random.Random(0)
    trained = evaluated = 0.0
    with torch.random.fork_rng():
        for _ in range(genotypes):
            network = build(draw(generator))
            optimizer = torch.optim.Adam(network.parameters())
            for place in range(steps + 1):
                begun = _now(images)
                optimizer.zero_grad(set_to_none=True)
                nn.functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                trained += _now(images) - begun if place else 0.0
            network.eval()
            with torch.no_grad():
                begun = _now(images)
                network(images)
                evaluated += _now(images) - begun
    epoch = trained / genotypes / steps * steps_per_epoch
    return StepTimes(epoch, evaluated / genotypes / len(labels), len(labels))


def _now(images: Tensor) -> float:
    wait_for(images.device)
    return time.perf_counter()


def predicted(strategy: Binas, times: StepTimes, validation_images: int) -> dict[str, float]:
    """Seconds of each part of a search with a strategy's options."""
    ranked = strategy.candidates + strategy.random_finalists + strategy.rounds * strategy.offspring
    judged = min(strategy.judged_images or validation_images, validation_images)
    looks = strategy.finalists + strategy.random_finalists
    sizes = [looks / strategy.bins] * strategy.bins
    epochs = epochs_of([math.ceil(size) for size in sizes], strategy.rungs, strategy.keep)
    scored = strategy.calibration_batches * times.batch_size + judged
    return {
        "supernet": strategy.supernet_epochs * strategy.paths_per_step * times.epoch,
        "ranking": ranked * scored * times.image if strategy.supernet_epochs else 0.0,
        "training": epochs * times.epoch + 2 * looks * validation_images * times.image,
    }


def within(seconds: float, times: StepTimes, validation_images: int, bins: int = 4) -> dict[str, Any]:
    """Options of the largest search that fits into a time.

    Raises:
        UserError: not even the smallest one does; names the time that it needs.
    """
    planned = seconds * MARGIN
    look = 2 * validation_images * times.image
    for rungs in RUNGS:
        affordable = 0
        for looks in range(LEAST, 129, 2):
            used = min(bins, max(looks // 4, 1))
            epochs = epochs_of([math.ceil(looks / used)] * used, rungs, 0.5)
            if epochs * times.epoch + looks * look > SHARES["training"] * planned:
                break
            affordable = looks
        if affordable >= ENOUGH or (affordable >= LEAST and rungs == RUNGS[-1]):
            break
    else:
        least = (
            (epochs_of([LEAST], RUNGS[-1], 0.5) * times.epoch + LEAST * look) / SHARES["training"] / MARGIN
        )
        raise UserError(
            f"budget: {seconds:.0f} s is not enough for {LEAST} genotypes, which need {math.ceil(least)} s;"
            " give more time, fewer images (data.subset), or a space of smaller networks"
        )
    judged = min(2048, validation_images)
    rank = int(SHARES["ranking"] * planned / ((8 * times.batch_size + judged) * times.image))
    rank = min(max(rank - affordable // 2, 0), 600)
    supernet_epochs = min(int(SHARES["supernet"] * planned / times.epoch), 120)
    is_ranked = supernet_epochs >= 4 and rank >= affordable
    return {
        "supernet_epochs": supernet_epochs if is_ranked else 0,
        "candidates": int(0.4 * rank) if is_ranked else 0,
        "rounds": 4 if is_ranked else 0,
        "offspring": int(0.15 * rank) if is_ranked else 0,
        "judged_images": judged,
        "bins": min(bins, max(affordable // 4, 1)),
        "finalists": affordable // 2,
        "random_finalists": affordable - affordable // 2,
        "rungs": list(rungs),
    }


def format_plan(parts: Mapping[str, float], options: Mapping[str, Any]) -> str:
    """A plan in a line or two, for people."""
    times = ", ".join(f"{name} {eta(seconds)}" for name, seconds in parts.items())
    said = ", ".join(f"{key} {value}" for key, value in options.items())
    return f"predicted: {eta(sum(parts.values()))} ({times})" + (f"; plan: {said}" if said else "")
