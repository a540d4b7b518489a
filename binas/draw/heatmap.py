"""Probabilities of operations on edges as a picture for a log: one row per edge, one column per operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from binas.draw.figure import FONT, POINTS_PER_INCH, image, text_width
from binas.draw.graph import operation_label

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from matplotlib.axes import Axes

CELL_WIDTH = 38.0
CELL_HEIGHT = 18.0
TEXT_SIZE = 8.0
MARGIN = 10.0
SLANT = 45  # degrees, of the operations' names above their columns
LIGHT_ON_DARK = 0.55  # above this share of the scale the colour is dark and the number white


def alpha_heatmap(
    probabilities: npt.ArrayLike,
    edges: Sequence[str],
    operations: Sequence[str],
    *,
    title: str = "",
    numbers: bool = True,
) -> npt.NDArray[np.uint8]:
    """The probabilities as an RGB image, each number written in its square, the largest of a row in bold.

    Args:
        probabilities: (E, O), each row adding up to one.
        edges: a label for each row, such as "0 → 2".
        operations: registered name of each column.
        title: stands above it all.
        numbers: False leaves the squares empty, which takes half the time.

    Shape: (H, W, 3), uint8.
    """
    import numpy as np

    values = np.asarray(probabilities, dtype=np.float64)
    if values.shape != (len(edges), len(operations)):
        raise ValueError(
            f"{values.shape} probabilities for {len(edges)} edges and {len(operations)} operations"
        )
    names = [operation_label(operation) for operation in operations]
    left = MARGIN + max(text_width(edge, TEXT_SIZE) for edge in edges) + 6
    slanted = max(text_width(name, TEXT_SIZE) for name in names) * np.sin(np.radians(SLANT))
    top = MARGIN + (18.0 if title else 0.0) + slanted + 10
    width = left + CELL_WIDTH * len(names) + slanted + MARGIN
    height = top + CELL_HEIGHT * len(edges) + MARGIN
    drawing = Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH), facecolor="white")
    FigureCanvasAgg(drawing)
    axes = drawing.add_axes(
        (left / width, MARGIN / height, CELL_WIDTH * len(names) / width, CELL_HEIGHT * len(edges) / height)
    )
    axes.imshow(values, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto", interpolation="nearest")
    style: dict[str, Any] = {"fontsize": TEXT_SIZE, "family": FONT, "parse_math": False}
    slant: dict[str, Any] = {"rotation": SLANT, "ha": "left", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(names)), names, **slant, **style)
    axes.set_yticks(range(len(edges)), edges, **style)
    axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(0.5, len(names) - 1), minor=True)
    axes.set_yticks(np.arange(0.5, len(edges) - 1), minor=True)
    axes.grid(which="minor", color="white", linewidth=1.0)
    axes.tick_params(which="minor", length=0)
    if numbers:
        _write_numbers(axes, values)
    if title:
        drawing.text(
            MARGIN / width, 1 - MARGIN / height, title, fontsize=11, fontweight="bold", va="top", family=FONT
        )
    return image(drawing)


def _write_numbers(axes: Axes, values: npt.NDArray[np.float64]) -> None:
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            axes.text(
                column,
                row,
                f"{value:.2f}",
                ha="center",
                va="center",
                fontsize=7,
                family=FONT,
                color="white" if value > LIGHT_ON_DARK else "#1a1a1a",
                fontweight="bold" if value == line.max() else "normal",
            )
