"""The shipped search spaces by kind."""

from __future__ import annotations

from binas.arch.kinds import load_any_space
from binas.arch.macro_space import MacroSpace
from binas.config import shipped_names


def spaces_of(kind: str) -> list[str]:
    """Names of those that are `cell`, or `macro`."""
    names = shipped_names("search_spaces")
    return [name for name in names if isinstance(load_any_space(name), MacroSpace) == (kind == "macro")]
