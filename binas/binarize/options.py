"""Checks of the options that users give to a binarizer; mistakes are UserErrors that name both.

The first argument of each is the binarizer: its registered name, or a phrase ("weight binarizer 'bnn'")
where the kind has to be told.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeVar

from binas.errors import UserError
from binas.registry import nearest

V = TypeVar("V")


def _told(binarizer: str) -> str:
    return binarizer if "'" in binarizer else f"binarizer '{binarizer}'"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def whole(binarizer: str, option: str, value: object, low: int, high: int) -> int:
    """The value, if it is an integer between the bounds.

    Raises:
        UserError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"{_told(binarizer)}: {option} {value!r} is no integer from {low} to {high}")
    return value


def number(binarizer: str, option: str, value: object, low: float, high: float = math.inf) -> float:
    """The value, if it is a number above the lower bound and not above the upper one.

    Raises:
        UserError: it is not.
    """
    if not (_is_number(value) and low < value <= high):  # type: ignore[operator]
        limit = "" if high == math.inf else f" and at most {high:g}"
        raise UserError(f"{_told(binarizer)}: {option} {value!r} is no number above {low:g}{limit}")
    return float(value)  # type: ignore[arg-type]


def number_between(binarizer: str, option: str, value: object, low: float, high: float) -> float:
    """The value, if it is a number strictly between the bounds.

    Raises:
        UserError: it is not.
    """
    if not (_is_number(value) and low < value < high):  # type: ignore[operator]
        raise UserError(
            f"{_told(binarizer)}: {option} {value!r} is no number above {low:g} and below {high:g}"
        )
    return float(value)  # type: ignore[arg-type]


def positive(binarizer: str, option: str, value: object) -> float:
    """The value, if it is a number above 0.

    Raises:
        UserError: it is not.
    """
    return number(binarizer, option, value, 0)


def one_of(binarizer: str, option: str, value: object, known: Iterable[V]) -> V:
    """The entry of `known` that equals the value and is of its type.

    Raises:
        UserError: there is none.
    """
    choices = list(known)
    for choice in choices:
        if type(value) is type(choice) and value == choice:
            return choice
    hint = nearest(str(value), map(str, choices))
    raise UserError(f"{_told(binarizer)}: unknown {option} {value!r};{hint}")
