"""Checks of the options that users give to a binarizer; a mistake is told when it is built."""

from __future__ import annotations

import math
from typing import Any

from binas.errors import UserError


def whole(binarizer: str, option: str, value: Any, low: int, high: int) -> int:
    """The value, if it is an integer between the bounds.

    Raises:
        UserError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"binarizer '{binarizer}': {option} {value!r} is no integer from {low} to {high}")
    return value


def number(binarizer: str, option: str, value: Any, low: float, high: float = math.inf) -> float:
    """The value, if it is a number above the lower bound and not above the upper one.

    Raises:
        UserError: it is not.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not low < value <= high:
        limit = "" if high == math.inf else f" and at most {high}"
        raise UserError(f"binarizer '{binarizer}': {option} {value!r} is no number above {low}{limit}")
    return float(value)


def one_of(binarizer: str, option: str, value: Any, known: tuple[Any, ...]) -> Any:
    """The value, if it is one of those known.

    Raises:
        UserError: it is not.
    """
    if not any(value is choice or (type(value) is type(choice) and value == choice) for choice in known):
        raise UserError(
            f"binarizer '{binarizer}': {option} {value!r} is none of {', '.join(map(str, known))}"
        )
    return value


def number_between(owner: str, option: str, value: object, low: float, high: float) -> float:
    """`value` as a number strictly between two others.

    Args:
        owner: kind and name of the binarizer, e.g. "activation binarizer 'ede'".
    Raises:
        UserError: it is no number or lies outside.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < high:
        upper = "" if high == float("inf") else f" and below {high:g}"
        raise UserError(f"{owner}: {option} must be a number above {low:g}{upper}, not {value!r}")
    return float(value)


def positive(owner: str, option: str, value: object) -> float:
    """`value` as a finite number above 0.

    Raises:
        UserError: it is not.
    """
    return number_between(owner, option, value, 0, float("inf"))


def width_in_bits(owner: str, value: object, most: int = 8) -> int:
    """`value` as a number of bits from 1 to `most`.

    Raises:
        UserError: it is no integer or lies outside.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise UserError(f"{owner}: bits must be an integer from 1 to {most}, not {value!r}")
    return value
