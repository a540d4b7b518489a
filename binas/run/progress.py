"""What is told of long work: log lines, a logger for each room, and how far a loop has come.

The library prints nothing. Who wants to see its lines sets up `logging` (a room's logger is `binas.ROOM`,
what is done stands at level INFO); who wants to see its loops gives a `Progress` to `shown_by`.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from binas.run.distributed import is_first_rank

T = TypeVar("T")
Progress = Callable[[str, int, int | None, Mapping[str, float]], object]
"""Called with a description, how much is done, of how much (None: not known), and the latest figures."""
_SHOWN_BY: ContextVar[Progress | None] = ContextVar("progress", default=None)


def room_logger(module: str) -> logging.Logger:
    """The logger of a module's room: that of `binas.search.step` is `binas.search`, of a script `binas`."""
    package, *room = module.split(".")[:2]
    return logging.getLogger(".".join(["binas", *(room if package == "binas" else ())]))


def say(text: str) -> None:
    """Logs a line with the logger of the caller's room; rank 0 alone does."""
    if is_first_rank():
        room_logger(sys._getframe(1).f_globals["__name__"]).info(text, stacklevel=2)


def warn(text: str) -> None:
    """Logs a warning with the logger of the caller's room; rank 0 alone does."""
    if is_first_rank():
        room_logger(sys._getframe(1).f_globals["__name__"]).warning(text, stacklevel=2)


@contextmanager
def shown_by(show: Progress | None) -> Iterator[None]:
    """Inside, `show` is told how far each loop has come; None leaves it to whoever was told before."""
    if show is None:
        yield
        return
    token = _SHOWN_BY.set(show)
    try:
        yield
    finally:
        _SHOWN_BY.reset(token)


def report(description: str, done: int, total: int | None, figures: Mapping[str, float]) -> None:
    """Tells how far a loop has come, with its latest figures, where somebody wants to know."""
    show = _SHOWN_BY.get()
    if show is not None and is_first_rank():
        show(description, done, total, figures)


def progress(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """The items of `iterable`; before each and after the last it is told how many are done."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    done = 0
    for item in iterable:
        report(description, done, total, {})
        yield item
        done += 1
    report(description, done, total, {})


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
