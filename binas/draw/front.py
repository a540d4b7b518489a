"""Accuracy against cost: all candidates of one or several searches, and the front of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from binas.draw.saving import save
from binas.profile.pareto import Point, front
from binas.profile.table import short_count
from binas.run.files import picture_ending

ENDINGS = ("png", "svg", "pdf")
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#999999")
"""Told apart by people with any colour vision (Okabe and Ito)."""
MARKERS = ("o", "^", "s", "D", "x")


@dataclass(frozen=True)
class Series:
    """Candidates that are shown in one colour.

    Args:
        label: in the legend.
        points: of those that were trained to the end; their front is drawn as steps.
        early: of those that were given up before; shown small.
        chosen: what is recommended, marked; None: nothing.
    """

    label: str
    points: Sequence[Point]
    early: Sequence[Point] = ()
    chosen: Point | None = None


def draw_front(series: Sequence[Series], path: Path | str, *, cost: str = "OPs", accuracy: str) -> Path:
    """Draws the picture into a file and returns its path.

    Args:
        series: at least one point in all.
        path: png, svg or pdf.
        cost, accuracy: what the axes say.
    Raises:
        UserError: the ending is another one, or the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    path = Path(path)
    ending = picture_ending(path, ENDINGS)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    widest = max(point.cost for one in series for point in (*one.points, *one.early))
    for one, color, marker in zip(series, COLORS, MARKERS, strict=False):
        axes.scatter(*_places(one.early), color=color, marker=marker, s=12, alpha=0.35, linewidths=0)
        axes.scatter(*_places(one.points), color=color, marker=marker, s=28, zorder=3)
        reached = front(one.points)
        if reached:
            costs, heights = _places([*reached, Point(reached[-1].accuracy, widest)])
            axes.plot(costs, heights, drawstyle="steps-post", color=color, label=one.label)
        if one.chosen is not None:
            axes.scatter(*_places([one.chosen]), marker="*", s=170, color=color, edgecolor="white", zorder=4)
    axes.set_xscale("log")
    for formatted in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        formatted(FuncFormatter(lambda value, _: short_count(value)))
    axes.tick_params(which="minor", labelsize=7)
    axes.set_xlabel(cost)
    axes.set_ylabel(accuracy)
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.legend(fontsize=8, loc="lower right")
    return save(figure, path, ending)


def _places(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point.cost for point in points], [point.accuracy for point in points]
