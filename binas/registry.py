"""Names in data files and what they stand for: one small class, one instance per kind of thing."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from binas.errors import UserError

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """The sentence that helps after an unknown name: what was probably meant, and what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    meant = f" did you mean '{close[0]}'?" if close else ""
    return f"{meant} known: {', '.join(known) if known else 'none'}"


class Registry(Generic[T]):
    """A mapping from names to entries that refuses another's name and explains unknown ones.

    Args:
        kind: what the names stand for, used in messages ("operation", "dataset").
        written_by: gives the function or class that tells entries apart where they are values made of one.
    """

    def __init__(self, kind: str, written_by: Callable[[T], Any] = lambda entry: entry) -> None:
        self.kind = kind
        self._written_by = written_by
        self._entries: dict[str, T] = {}
        self._origins: dict[str, str] = {}
        self._replaced: dict[str, tuple[T, str]] = {}
        self._origin = ""

    def register(self, name: str, *, replace: bool = False) -> Callable[[T], T]:
        """Decorator that registers what it decorates under `name`.

        A function or class of the same module and qualified name takes its own place again, so a cell of a
        notebook can be run twice.

        Args:
            replace: whether to take the place of another's entry.
        Raises:
            UserError: the name is taken by another's entry.
        """

        def decorate(entry: T) -> T:
            if name in self._entries and not replace and not self._is_same(self._entries[name], entry):
                by = f" by {self._origins[name]}" if self._origins[name] else ""
                raise UserError(
                    f"{self.kind} '{name}' is registered already{by}; choose another name, or register it"
                    " with replace=True to take that one's place"
                )
            if name in self._entries and self._origins[name] != self._origin:
                self._replaced.setdefault(name, (self._entries[name], self._origins[name]))
            self._entries[name] = entry
            self._origins[name] = self._origin
            return entry

        return decorate

    def _is_same(self, one: T, other: T) -> bool:
        """Whether both are the same function or class by name, written in the same module."""
        name = _qualified_name(self._written_by(one))
        return name is not None and name == _qualified_name(self._written_by(other))

    @contextmanager
    def loading_from(self, origin: str) -> Iterator[None]:
        """While a plug-in is loaded: its earlier entries are forgotten, its new ones carry its origin."""
        for name in self.names_from(origin):
            del self._entries[name], self._origins[name]
            if name in self._replaced:
                self._entries[name], self._origins[name] = self._replaced.pop(name)
        before, self._origin = self._origin, origin
        try:
            yield
        finally:
            self._origin = before

    def names_from(self, origin: str) -> list[str]:
        """The names that the plug-in `origin` registered."""
        return [name for name, known in self._origins.items() if known == origin]

    def origin(self, name: str) -> str:
        """The plug-in that registered `name`, or an empty string for one of the package's own."""
        return self._origins[name]

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except KeyError:
            raise UserError(f"unknown {self.kind} '{name}';{nearest(name, self)}") from None

    def resolve(self, entry: str | T) -> T:
        """The entry of that name, or `entry` itself where it is not a name."""
        return self[entry] if isinstance(entry, str) else entry

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _qualified_name(entry: Any) -> tuple[str, str] | None:
    """Module and qualified name of a function or class; None for what has none of its own."""
    name = getattr(entry, "__qualname__", None)
    return None if name is None or name.endswith("<lambda>") else (entry.__module__, name)
