"""The machine in words, for figures that depend on it."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path


def cpu_model() -> str:
    """The processor's name, as its maker says it."""
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return "cpu"


def machine_words() -> str:
    """Cores and processor."""
    return f"{os.cpu_count()} cores of {cpu_model()}"
