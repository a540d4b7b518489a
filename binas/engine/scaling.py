"""How fast ranks are together, and how that compares with one of them alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from binas.engine.micro_batch import Batch
from binas.engine.sync_batch_norm import each_rank_alone
from binas.run.device import wait_for
from binas.run.distributed import broadcast_from_first, is_first_rank, num_ranks, wait_for_all
from binas.run.module_state import buffers_unchanged
from binas.run.seeds import generator

TRIALS = 3
"""Passes that are timed, after one that is not."""


def rate_alone(
    backward: Callable[[Batch], object],
    module: nn.Module,
    image_shape: Sequence[int],
    num_classes: int,
    device: torch.device,
    num_images: int,
) -> float | None:
    """Images a second of rank 0 while the others wait; None where there is a single rank.

    Forward and backward passes of random images are timed, without data, optimizer and communication.

    Args:
        backward: runs a batch forward and backward.
        module: what it trains; buffers are put back, gradients are left empty.
        image_shape: channels, height, width.
        num_images: of a batch.
    """
    if num_ranks() == 1:
        return None
    wait_for_all()
    rate = 0.0
    if is_first_rank():
        draws = generator("cpu", 0, "rate_alone")
        images = torch.randn(num_images, *image_shape, generator=draws).to(device)
        labels = torch.arange(num_images, device=device) % num_classes
        with each_rank_alone(module), buffers_unchanged(module):
            backward((images, labels))
            wait_for(device)
            start = time.perf_counter()
            for _ in range(TRIALS):
                backward((images, labels))
            wait_for(device)
            rate = TRIALS * num_images / max(time.perf_counter() - start, 1e-9)
        module.zero_grad(set_to_none=True)
    return broadcast_from_first(rate)


def rate_values(images_per_second: float, alone: float | None) -> dict[str, float]:
    """What the log says of an epoch's rate.

    scaling = rate of all / (ranks · rate of one alone); 1 is perfect.

    Args:
        images_per_second: of all ranks together.
        alone: from `rate_alone`.
    """
    values = {"images_per_second": images_per_second}
    if num_ranks() > 1:
        values["images_per_second_per_rank"] = images_per_second / num_ranks()
        if alone:
            values["scaling"] = values["images_per_second_per_rank"] / alone
    return values


def format_rates(values: Mapping[str, float]) -> str:
    """The same for a person."""
    words = f"{values['images_per_second']:.0f} images/s"
    if "images_per_second_per_rank" in values:
        each = f"{num_ranks()} ranks, {values['images_per_second_per_rank']:.0f} each"
        words += f" ({each}, scaling {values['scaling']:.2f})" if "scaling" in values else f" ({each})"
    return words
