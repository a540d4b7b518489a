"""What papers print about the cost of networks, from published_figures.yaml, and ways to count as they do.

Used by published_counts.py. Figures are kept as words, since their digits say how they were rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from binas.config import Config, build, read_mapping
from binas.models import MODELS, ModelChoice
from binas.profile import Profile, count

FIGURES = Path(__file__).with_name("published_figures.yaml")


class Task(Config):
    """Images and classes."""

    image_size: int
    in_channels: int
    num_classes: int


class Row(Config):
    """A network: the model, its task, and options that differ from the paper's."""

    model_config = ConfigDict(extra="allow")

    model: str
    task: str | None = None


class Reason(Config):
    """Why a figure differs, and how to count as its source did, where that is known."""

    why: str = Field(min_length=20)
    count: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class Printed(Config):
    """What one source says of a network, each figure in the words in which it is printed."""

    source: str
    read: Literal["printed", "computed", "secondary", "memory"]
    size: str | None = None
    parameters: str | None = None
    flops: str | None = None
    bops: str | None = None
    ops: str | None = None
    why: dict[str, str] = Field(default_factory=dict)


class Figures(Config):
    """The whole file."""

    papers: dict[str, str]
    tasks: dict[str, Task]
    default_task: str
    other_tasks: dict[str, tuple[str, ...]]
    rows: dict[str, Row]
    reasons: dict[str, Reason]
    figures: dict[str, tuple[Printed, ...]]

    def networks(self) -> dict[str, Row]:
        """Every registered network, its further versions behind it."""
        found: dict[str, Row] = {}
        for name in MODELS:
            found[name] = Row(model=name)
            found |= {title: row for title, row in self.rows.items() if row.model == name}
        return found

    def task_of(self, row: Row) -> str:
        """The name of the task that a row is counted for."""
        tasks = [task for task, names in self.other_tasks.items() if row.model in names]
        return row.task or (tasks[0] if tasks else self.default_task)

    def profile(self, row: Row, options: Mapping[str, Any] | None = None) -> Profile:
        """The count of a network, with further options."""
        value = {"name": row.model, **(row.model_extra or {}), **(options or {})}
        choice = build(ModelChoice, value, f"{FIGURES}: {row.model}")
        return _counted(choice.model_dump_json(), self.tasks[self.task_of(row)])


@cache
def _counted(choice: str, task: Task) -> Profile:
    network = ModelChoice.model_validate_json(choice)
    return count(network, (task.image_size,) * 2, task.num_classes, task.in_channels)


# ---- other ways to count


def with_scales(profile: Profile) -> dict[str, float]:
    """Multiplications by the scales of binary convolutions are FLOPs."""
    scaled = [layer for layer in profile.layers if layer.binary_parameters]
    # what a binary convolution adds to "everything" besides one sign for each of its inputs
    extra = sum(layer.extra_operations - math.prod(layer.input_shape) for layer in scaled)
    return _with_flops(profile, profile.flops + extra)


def everything(profile: Profile) -> dict[str, float]:
    """The column "everything"."""
    return _with_flops(profile, profile.flops_of_everything)


def with_norms_and_pools(profile: Profile) -> dict[str, float]:
    """Batch-norms and pools are FLOPs too."""
    extra = sum(layer.extra_operations for layer in profile.layers if layer.kind in ("batch_norm", "pool"))
    return _with_flops(profile, profile.flops + extra)


def one_bit_each(profile: Profile) -> dict[str, float]:
    """All parameters take one bit."""
    return {"size": profile.parameters}


def with_running_statistics(profile: Profile) -> dict[str, float]:
    """Two numbers more for each channel of a batch-norm."""
    numbers = 2 * sum(layer.input_shape[0] for layer in profile.layers if layer.kind == "batch_norm")
    return {"size": profile.bits + 32 * numbers, "parameters": profile.parameters + numbers}


def without_reduction_skips(profile: Profile) -> dict[str, float]:
    """Skips of reduction cells are free; layers that nothing reads run."""
    skips = sum(layer.flops for layer in profile.layers if layer.name.endswith(".skip.reduce"))
    bops = profile.bops + sum(layer.bops for layer in profile.unread)
    flops = profile.flops - skips
    return {"flops": flops, "bops": bops, "ops": flops + bops / 64}


def _with_flops(profile: Profile, flops: int) -> dict[str, float]:
    return {"flops": flops, "bops": profile.bops, "ops": flops + profile.bops / 64}


def ours(profile: Profile) -> dict[str, float]:
    """Our rules, as under every table of `binas profile`."""
    totals = profile.totals()
    return {**totals, "parameters": totals["parameters_as_published"], "size": totals["bits"]}


COUNTS: dict[str, Callable[[Profile], dict[str, float]]] = {
    rule.__name__: rule
    for rule in (
        with_scales,
        everything,
        with_norms_and_pools,
        one_bit_each,
        with_running_statistics,
        without_reduction_skips,
    )
}


def read_figures(path: Path = FIGURES) -> Figures:
    """The figures, checked."""
    return build(Figures, read_mapping(path), str(path))
