"""Pictures of an evolution: the front of every generation, and the winners' genes as bars."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from binas.evolve.pareto import Point, front
from binas.profile.table import short_count
from binas.run.files import write_atomic

MAX_WINNERS = 4
DPI = 150


def save_plots(
    document: Mapping[str, Any], generations: Mapping[int, Sequence[Point]], folder: Path
) -> list[Path]:
    """Draws `front.png` and `genes.png` into a folder.

    Args:
        document: see `binas.evolve.report.front_document`.
        generations: feasible candidates of each generation.
    """
    pictures = {"front.png": front_figure(document, generations), "genes.png": genes_figure(document)}
    for name, figure in pictures.items():
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=DPI)
        write_atomic(folder / name, content.getvalue())
    return [folder / name for name in pictures]


def front_figure(document: Mapping[str, Any], generations: Mapping[int, Sequence[Point]]) -> Any:
    """Candidates as dots, coloured by generation, and the front that each generation had reached as steps."""
    from matplotlib import colormaps
    from matplotlib.ticker import FuncFormatter

    figure, axes = _figure(7.0)
    seen: list[Point] = []
    shades = colormaps["viridis"]
    for place, (generation, points) in enumerate(generations.items()):
        color = shades(1 - place / max(1, len(generations) - 1))
        seen += points
        reached = front(seen)
        axes.scatter([p.cost for p in points], [p.accuracy for p in points], color=color, s=14, zorder=3)
        axes.plot(
            [p.cost for p in reached] + [max(p.cost for p in seen)],
            [p.accuracy for p in reached] + [reached[-1].accuracy],
            drawstyle="steps-post", color=color, linewidth=1, label=f"after generation {generation}",
        )  # fmt: skip
    for row in document["references"]:
        axes.scatter([row["ops"]], [row["accuracy"]], marker="*", s=110, color="#d55e00", zorder=4)
        axes.annotate(
            f"{row['uniform']} everywhere", (row["ops"], row["accuracy"]), xytext=(6, -10),
            textcoords="offset points", fontsize=8,
        )  # fmt: skip
    axes.set_xscale("log")
    for formatted in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        formatted(FuncFormatter(lambda value, _: short_count(value)))
    axes.tick_params(which="minor", labelsize=7)
    axes.set_xlabel("OPs (FLOPs + BOPs/64)")
    axes.set_ylabel("search-validation accuracy")
    axes.set_title(f"hypervolume {document['hypervolume']:.4f}", fontsize=10)
    if generations:
        axes.legend(fontsize=7)
    return figure


def genes_figure(document: Mapping[str, Any]) -> Any:
    """What the winners have in each layer, block or cell, as bars side by side."""
    names = [gene["name"] for gene in document["genes"]]
    winners = document["front"][:MAX_WINNERS]
    figure, axes = _figure(max(7.0, 0.5 * len(names)))
    width = 0.8 / max(1, len(winners))
    for place, row in enumerate(winners):
        label = f"{row['accuracy']:.4f}, {short_count(row['ops'])} OPs"
        at = [position + (place - (len(winners) - 1) / 2) * width for position in range(len(names))]
        numbers = all(isinstance(value, int | float) for value in row["genome"])
        heights = row["genome"] if numbers else _places(document, row["genome"])
        axes.bar(at, heights, width, label=label)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
    axes.set_ylabel(names[0].partition(".")[0])
    axes.set_title("the front's most accurate networks", fontsize=10)
    if winners:
        axes.legend(fontsize=7)
    return figure


def _places(document: Mapping[str, Any], genome: Sequence[Any]) -> list[int]:
    pairs = zip(document["genes"], genome, strict=True)
    return [gene["choices"].index(value) for gene, value in pairs]


def _figure(width: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()
