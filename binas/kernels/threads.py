"""Parts of one job side by side: for compiled loops that do not hold Python's lock."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import torch


class Team:
    """As many threads as torch uses, the calling one among them; they end with the `with` block."""

    def __init__(self) -> None:
        self.size = torch.get_num_threads()
        self._others = ThreadPoolExecutor(self.size - 1) if self.size > 1 else None

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._others:
            self._others.shutdown()

    def run(self, work: Callable[[int], object], parts: int) -> None:
        """work(0) … work(parts − 1), in any order; the caller takes the last ones."""
        waiting = [self._others.submit(work, part) for part in range(parts - 1)] if self._others else []
        started = len(waiting)
        for part in range(parts - 1, started - 1, -1):
            work(part)
        for part in reversed(range(started)):
            if waiting[part].cancel():
                work(part)
        for future in waiting:
            if not future.cancelled():
                future.result()

    def run_shares(self, work: Callable[[int, int], object], count: int) -> None:
        """work(begin, end) for shares of 0..count, one for each thread."""
        ends = [count * part // self.size for part in range(self.size + 1)]
        self.run(lambda part: work(ends[part], ends[part + 1]), self.size)

    def run_in_turn(self, work: Callable[[int], object], parts: int) -> None:
        """As `run`, for parts that use all threads themselves."""
        for part in range(parts):
            work(part)

    def run_alone(self, work: Callable[[int], object], parts: int) -> None:
        """As `run`, for parts that call torch: each on one thread, without gradients."""

        def alone(part: int) -> None:
            with torch.no_grad():
                work(part)

        # a thread takes the number of threads that is set when it first calls torch
        torch.set_num_threads(1)
        try:
            self.run(alone, parts)
        finally:
            torch.set_num_threads(self.size)
