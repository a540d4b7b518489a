"""Whether loops can be compiled here; without numba, torch's own operations give the same numbers."""

from __future__ import annotations

from functools import cache


@cache
def is_available() -> bool:
    """Whether numba is installed."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True
