"""How commands show what the library tells: log lines on standard output, bars where there is a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def shown() -> Iterator[None]:
    """Inside, lines of the library are printed, and loops have bars if standard error is a terminal."""
    logger = logging.getLogger("binas")
    bars = Bars() if sys.stderr.isatty() else None
    lines, level = _Lines(bars), logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    try:
        if bars is None:
            yield
        else:
            from binas.run.progress import shown_by

            with shown_by(bars):
                yield
    finally:
        if bars is not None:
            bars.close()
        logger.removeHandler(lines)
        logger.setLevel(level)


class Bars:
    """A bar for the loop that is running, on standard error, gone when the loop ends."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._shown: tuple[str, int | None] | None = None

    def __call__(self, description: str, done: int, total: int | None, figures: Mapping[str, float]) -> None:
        """Moves the bar; another loop takes its place."""
        if figures:  # of a whole epoch, which has a line of its own
            return
        if self._shown != (description, total) or self._bar is None or done < self._bar.n:
            from tqdm import tqdm

            self.close()
            self._bar = tqdm(desc=description, total=total, leave=False, dynamic_ncols=True)
            self._shown = (description, total)
        self._bar.update(done - self._bar.n)
        if done == total:
            self.close()

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _Lines(logging.Handler):
    """Prints each record as a line on standard output at once, above a bar if there may be one."""

    def __init__(self, bars: Bars | None) -> None:
        super().__init__(logging.INFO)
        self.bars = bars

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            text = f"{record.levelname.lower()}: {text}"
        if self.bars is None:
            print(text, flush=True)
            return
        from tqdm import tqdm

        tqdm.write(text)
