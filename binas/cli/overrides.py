"""Keys of a recipe on the command line: `--key.subkey VALUE` and `--key=VALUE`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from binas.config import parse_override


def split_overrides(words: Sequence[str], known: Mapping[str, bool]) -> tuple[list[str], dict[str, Any]]:
    """The words that a parser knows, and all other flags as dotted keys with their values.

    Args:
        known: the parser's own flags, and whether each takes a value.
    """
    rest: list[str] = []
    overrides: dict[str, Any] = {}
    queue = list(words)
    while queue:
        word = queue.pop(0)
        flag = word.partition("=")[0]
        if not word.startswith("--") or flag in known:
            rest.append(word)
            if known.get(flag) and "=" not in word and queue:
                rest.append(queue.pop(0))
            continue
        text = word.removeprefix("--")
        if "=" not in text:
            has_value = bool(queue) and not queue[0].startswith("--")
            text += f"={queue.pop(0)}" if has_value else "=true"
        key, value = parse_override(text)
        overrides[key] = value
    return rest, overrides
