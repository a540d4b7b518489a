"""Programs that stand in the documentation, for tests that run them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def program_of(page: str, word: str) -> str:
    """The one Python program of a page that holds a word.

    Args:
        page: below the checkout, docs/training.md say.
    """
    text = (ROOT / page).read_text(encoding="utf-8")
    (found,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if word in block]
    return found
