"""Stopping a search or a training in the middle, as a lost process would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from binas.run.progress import shown_by


class _Stop(Exception):
    """What a stop looks like from inside."""


@contextmanager
def stopped_after(calls: int | None) -> Iterator[None]:
    """Inside, work ends after so many signs of progress, amid an epoch perhaps; None: it is not stopped."""
    left = calls

    def told(*_: object) -> None:
        nonlocal left
        if left is not None:
            left -= 1
            if left < 0:
                raise _Stop

    with suppress(_Stop), shown_by(told):
        yield
