"""What a person sees of long work: a bar on a terminal, plain lines where there is none."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from binas.run.distributed import is_first_rank

T = TypeVar("T")


def on_terminal() -> bool:
    """Whether a bar can be shown: bars go to standard error."""
    return sys.stderr.isatty()


def progress(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """The items of `iterable`, with a bar while they are consumed if there is a terminal."""
    if not (on_terminal() and is_first_rank()):
        yield from iterable
        return
    from tqdm import tqdm

    with tqdm(iterable, desc=description, total=total, leave=False, dynamic_ncols=True) as bar:
        yield from bar


def say(text: str) -> None:
    """Prints a line on standard output at once, above a bar if one is being shown; rank 0 alone does."""
    if not is_first_rank():
        return
    if on_terminal():
        from tqdm import tqdm

        tqdm.write(text)
    else:
        print(text, flush=True)


def eta(seconds: float) -> str:
    """A duration in the two largest units that matter: `45 s`, `3 min 20 s`, `2 h 5 min`, `1 d 3 h`."""
    if not math.isfinite(seconds) or seconds < 0:
        return "unknown"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


class Stopwatch:
    """Counts what has been done since its creation, for a rate and for the time that is left."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.count = 0.0

    def add(self, count: float = 1) -> None:
        """Counts items that are done."""
        self.count += count

    @property
    def seconds(self) -> float:
        """Wall time since the creation."""
        return time.perf_counter() - self._start

    @property
    def rate(self) -> float:
        """Items a second, 0 before the first."""
        return self.count / max(self.seconds, 1e-9)

    def remaining(self, left: float) -> float:
        """Seconds that `left` more items will take at the rate so far; infinite while unknown."""
        return left / self.rate if self.count else math.inf
