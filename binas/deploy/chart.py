"""The time of a program's steps as a picture: a bar for each, in the order in which they run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from binas.draw.saving import save
from binas.run.files import picture_ending

if TYPE_CHECKING:
    from binas.deploy.bench import Step

ENDINGS = ("png", "svg", "pdf")
COLORS = {"1-bit": "#0072b2", "real": "#d55e00", "glue": "#999999"}


def draw_steps(steps: Sequence[Step], path: Path | str) -> Path:
    """Draws the picture into a file and returns its path.

    Args:
        steps: of a program, in their order.
        path: png, svg or pdf.
    Raises:
        UserError: the ending is another one, or the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(path)
    ending = picture_ending(path, ENDINGS)
    figure = Figure(figsize=(8, max(2.5, 0.16 * len(steps) + 1)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for kind, color in COLORS.items():
        own = [(place, step) for place, step in enumerate(steps) if step.kind == kind]
        total = sum(step.milliseconds for _, step in own)
        axes.barh(
            [place for place, _ in own],
            [step.milliseconds for _, step in own],
            color=color,
            label=f"{kind}: {total:.3f} ms",
        )
    axes.set_yticks(range(len(steps)), [step.source[-48:] for step in steps], fontsize=6)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xlabel("milliseconds for one image, one thread")
    axes.legend(fontsize=8)
    return save(figure, path, ending)
