"""What a training step will need, before it is run, and what to change where that is too much.

A step of a few images is run and measured; what grows with images grows in proportion.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from binas.engine.micro_batch import Batch
from binas.engine.sync_batch_norm import each_rank_alone
from binas.errors import UserError
from binas.run.distributed import num_local_ranks
from binas.run.memory import available_bytes, format_bytes, is_out_of_memory, peak_bytes, used_bytes
from binas.run.memory_meter import peak_of
from binas.run.module_state import buffers_unchanged
from binas.run.progress import say, warn

PROBES = ((32, 64), (24, 32), (4, 8))
"""Images of the two steps that are measured: as many as make fast paths pay, or else few."""
USABLE = 0.8
"""Part of what is available that `auto` fills: libraries take workspaces that no count sees."""


@dataclass(frozen=True)
class Footprint:
    """Bytes that a step holds at its peak: gradients and kernels, and so much for each image."""

    constant: float
    per_image: float

    def at(self, num_images: int) -> float:
        """Bytes with so many images at a time."""
        return self.constant + self.per_image * num_images


def footprint(
    backward: Callable[[Batch], object],
    module: nn.Module,
    image_shape: Sequence[int],
    num_classes: int,
    device: torch.device,
    batch_size: int,
) -> Footprint:
    """Measures steps of a few random images; buffers are put back, gradients are left empty.

    Args:
        backward: runs a batch forward and backward.
        module: what it trains.
        image_shape: channels, height, width.
        batch_size: of the steps to come.
    """

    def peak(count: int) -> int:
        images = torch.zeros(count, *image_shape, device=device)
        labels = torch.arange(count, device=device) % num_classes
        try:
            with each_rank_alone(module), buffers_unchanged(module):
                return peak_of(lambda: backward((images, labels)), device)
        finally:
            module.zero_grad(set_to_none=True)

    for few, more in PROBES:
        if batch_size < more and (few, more) != PROBES[-1]:
            continue
        try:
            first, second = peak(few), peak(more)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or (few, more) == PROBES[-1]:
                raise
            traceback.clear_frames(error.__traceback__)
            continue
        per_image = max(second - first, 0) / (more - few)
        return Footprint(max(first - per_image * few, 0), per_image)
    raise AssertionError("the last probe returns or raises")


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """What an optimizer that has not made a step yet will keep; 0 for one that has."""
    if optimizer.state:
        return 0
    trial = nn.Parameter(torch.zeros(64))
    trial.grad = torch.ones(64)
    try:
        copy = type(optimizer)([trial], **optimizer.defaults)
        copy.step()
    except TypeError:  # an optimizer of another form: one average and one average of squares
        share = 2.0
    else:
        kept = [value for value in copy.state[trial].values() if isinstance(value, torch.Tensor)]
        share = sum(value.numel() for value in kept if value.numel() > 1) / trial.numel()
    sizes = [p.numel() * p.element_size() for group in optimizer.param_groups for p in group["params"]]
    return int(share * sum(sizes))


@dataclass(frozen=True)
class Forecast:
    """The memory of a run, predicted.

    Args:
        footprint: of a step.
        images: that are computed at a time.
        optimizers: bytes of optimizer state that do not exist yet.
        in_use: bytes in use now.
        available: bytes that can be had beside these; None: not known.
    """

    footprint: Footprint
    images: int
    optimizers: int
    in_use: int
    available: int | None

    @property
    def peak(self) -> float:
        """Bytes at the peak."""
        return self.in_use + self.needed(self.images)

    def needed(self, images: int) -> float:
        """Bytes beside those in use."""
        return self.footprint.at(images) + self.optimizers

    @property
    def fits(self) -> bool:
        """Whether there is enough, as far as is known."""
        return self.available is None or self.needed(self.images) <= self.available

    def largest_micro_batch(self, batch_size: int) -> int | None:
        """The size of the fewest equal parts of a batch that fit; None where all of it does."""
        if self.available is None or self.needed(batch_size) <= USABLE * self.available:
            return None
        for count in range(2, batch_size // 2 + 1):
            size = -(-batch_size // count)
            if self.needed(size) <= USABLE * self.available:
                return size
        return min(2, batch_size)

    def summary(self) -> str:
        """The forecast in one line."""
        rest = (
            "" if self.available is None else f"; {format_bytes(self.available)} are available beside these"
        )
        held = format_bytes(self.footprint.at(self.images))
        return (
            f"memory: predicted peak {format_bytes(self.peak)}: {held} for {self.images} images at a time,"
            f" {format_bytes(self.optimizers)} for optimizers to come,"
            f" {format_bytes(self.in_use)} in use now{rest}"
        )


@dataclass(frozen=True)
class Remedy:
    """A setting that needs less memory.

    Args:
        setting: as it is written on the command line.
        peak: bytes that the step would hold with it, beside what is in use; None where not known.
        note: what else changes.
    """

    setting: str
    peak: float | None
    note: str = ""

    def summary(self, now: float) -> str:
        """The setting and its effect in one line."""
        effect = "effect not predicted" if self.peak is None else f"predicted {format_bytes(self.peak - now)}"
        return f"{self.setting} ({effect}{', ' if self.note else ''}{self.note})"


def remedies_text(forecast: Forecast, remedies: Sequence[Remedy]) -> str:
    """What to change, most effective first, as a list."""
    now = forecast.needed(forecast.images)
    known = sorted(remedies, key=lambda remedy: now if remedy.peak is None else remedy.peak)
    useful = [remedy for remedy in known if remedy.peak is None or remedy.peak < now]
    return "".join(f"\n  - {remedy.summary(now)}" for remedy in useful)


def announce(forecast: Forecast, remedies: Callable[[], Sequence[Remedy]]) -> None:
    """Prints the forecast, and what to change where there is not enough."""
    say(forecast.summary())
    if not forecast.fits:
        warn(f"memory may run out; what needs less:{remedies_text(forecast, remedies())}")


def report_peak(forecast: Forecast, device: torch.device) -> None:
    """Prints what was really needed."""
    say(f"memory: measured peak {format_bytes(peak_bytes(device))}, predicted {format_bytes(forecast.peak)}")


def forecast_of(
    step: Footprint, images: int, optimizers: Sequence[torch.optim.Optimizer], device: torch.device
) -> Forecast:
    """The forecast at this moment."""
    kept = sum(optimizer_bytes(optimizer) for optimizer in optimizers)
    available = available_bytes(device)
    if available is not None and device.type == "cpu":
        available //= num_local_ranks()
    return Forecast(step, images, kept, used_bytes(device), available)


@contextmanager
def memory_guard(
    where: str, forecast: Callable[[], Forecast], remedies: Callable[[], Sequence[Remedy]]
) -> Iterator[None]:
    """Inside, running out of memory ends in a `UserError` that names what to change, and its effect.

    Args:
        where: what was being done, in words.
        forecast, remedies: asked only when memory has run out, after what the work held is given back.
    """
    failure = ""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        failure = (str(error).strip().splitlines() or ["out of memory"])[0]
        # the frames of the traceback hold tensors, and the predictions need some memory themselves
        traceback.clear_frames(error.__traceback__)
    if failure:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise UserError(f"{where}: out of memory ({failure}). {_advice(forecast, remedies)}", hint="settings")


def _advice(forecast: Callable[[], Forecast], remedies: Callable[[], Sequence[Remedy]]) -> str:
    try:
        expected = forecast()
        text = remedies_text(expected, remedies())
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return "Not even a step of a few images fits: use fewer channels, or smaller images"
    return (
        f"A step needs about {format_bytes(expected.needed(expected.images))}. What needs less, in a new"
        f" run:{text}"
    )
