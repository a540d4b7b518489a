"""What runs with every change of a long list, and what waits for `make ci-extra`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def few_of(names: Iterable[Any], quick: Iterable[Any]) -> list[Any]:
    """All names as parameters of a test; those that are not in `quick` are marked slow.

    Raises ValueError for a quick one that is not in the list, so that a renamed one is told.
    """
    known, quick = list(names), list(quick)
    if missing := sorted(set(quick) - set(known)):
        raise ValueError(f"not in the list: {', '.join(map(str, missing))}")
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in known]
