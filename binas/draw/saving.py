"""A matplotlib figure to a picture file: the same figure gives the same bytes, and no window opens."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from binas.run.files import write_atomic


def rendered(figure: Any, ending: str, dpi: int) -> bytes:
    """The bytes of a picture, without date and random names.

    Args:
        figure: of matplotlib.
        ending: svg, png or pdf.
        dpi: of a png.
    """
    import matplotlib

    metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(ending, {})
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "binas"}):
        figure.savefig(buffer, format=ending, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def save(figure: Any, path: Path, ending: str, dpi: int = 150) -> Path:
    """Writes the picture, whole or not at all, and returns its path."""
    write_atomic(path, rendered(figure, ending, dpi))
    return path
