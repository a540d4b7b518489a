"""Several small trainings side by side on one device: each step's kernels run beside those of the others.

A small network leaves most of a GPU idle. Trainings take turns step by step in one process, each in a thread
and on a CUDA stream of its own: Python runs one at a time, so that seeds and recordings never meet, and the
device runs what it was given by all. On the CPU they take turns likewise, which is no faster.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from binas.data.batches import Batches

Work = Callable[[Callable[[Batches], Batches]], None]
"""A training: called with what makes its batches take turns."""


class Turns:
    """Who runs: one thread at a time, in a ring."""

    def __init__(self) -> None:
        self._waiting: deque[threading.Semaphore] = deque()

    def enter(self) -> threading.Semaphore:
        """A place at the end of the ring; called where nobody runs, or by the one that does."""
        place = threading.Semaphore(0)
        self._waiting.append(place)
        return place

    def hand_over(self) -> None:
        """Lets the next one run, and waits for the own turn."""
        if self._waiting:
            place = self.enter()
            self.leave()
            place.acquire()

    def leave(self) -> None:
        """Lets the next one run, for good."""
        if self._waiting:
            self._waiting.popleft().release()

    def batches(self, batches: Batches) -> Batches:
        """The same batches; asking for one lets the others run first."""
        return _InTurns(batches, self)


class _InTurns(Batches):
    def __init__(self, batches: Batches, turns: Turns) -> None:
        self.__dict__.update(batches.__dict__)
        self._turns = turns

    def epoch(
        self, seed: int, shuffle: bool = True, every: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Batches`."""
        for batch in super().epoch(seed, shuffle, every):
            yield batch
            self._turns.hand_over()


def side_by_side(works: Sequence[Work], together: int, device: torch.device) -> None:
    """Runs trainings to their ends, so many of them at a time.

    Args:
        works: each trains with the batches that it makes take turns.
        together: how many are under way at a time.
        device: where they train; on CUDA each gets a stream.
    Raises:
        Exception: the first that a training raised, after all others have ended.
    """
    turns, left = Turns(), deque(works)
    errors: list[Exception] = []
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # what they share is there before other streams read it

    def run(place: threading.Semaphore) -> None:
        place.acquire()
        try:
            with _stream(device):
                while left:
                    left.popleft()(turns.batches)
        except Exception as error:
            errors.append(error)
        finally:
            turns.leave()

    threads = [
        threading.Thread(target=run, args=(turns.enter(),), daemon=True)
        for _ in range(max(min(together, len(works)), 1))
    ]
    for thread in threads:
        thread.start()
    turns.leave()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _stream(device: torch.device) -> AbstractContextManager[object]:
    if device.type != "cuda":
        return nullcontext()
    return torch.cuda.stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
