"""How cases tell what is broken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from binas.errors import UserError


@contextmanager
def told_of(what: str) -> Iterator[None]:
    """Inside, an error for users becomes a failed assertion that names what is checked."""
    try:
        yield
    except UserError as error:
        raise AssertionError(f"{what}: {error}") from error


def promise(holds: bool, what: str, broken: str) -> None:
    """Raises an `AssertionError` where a promise does not hold."""
    if not holds:
        raise AssertionError(f"{what}: {broken}")
