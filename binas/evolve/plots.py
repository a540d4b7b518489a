"""Pictures of an evolution: fronts, the winners' genes as bars, and how well the predictor predicts."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from binas.evolve.report import format_accuracy
from binas.profile.pareto import Point, front
from binas.profile.table import short_count
from binas.run.files import write_atomic

MAX_WINNERS = 4
DPI = 150


def save_plots(
    document: Mapping[str, Any],
    generations: Mapping[int, Sequence[Point]],
    folder: Path,
    predictor: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Draws `front.png`, `genes.png` and, where there is a predictor, `predictor.png` into a folder.

    Args:
        document: see `binas.evolve.report.front_document`.
        generations: feasible candidates of each generation.
        predictor: see `binas.evolve.evaluators.predictor.transfer_report`, with predictions.
    """
    pictures = {"front.png": front_figure(document, generations), "genes.png": genes_figure(document)}
    if predictor is not None:
        pictures["predictor.png"] = predictor_figure(document, predictor)
    for name, figure in pictures.items():
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=DPI)
        write_atomic(folder / name, content.getvalue())
    return [folder / name for name in pictures]


def front_figure(document: Mapping[str, Any], generations: Mapping[int, Sequence[Point]]) -> Any:
    """Candidates as dots, coloured by generation, and the front that each generation had reached as steps."""
    from matplotlib import colormaps
    from matplotlib.ticker import FuncFormatter

    figure, (axes,) = _figure(7.0)
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
            drawstyle="steps-post",
            color=color,
            linewidth=1,
            label=f"after generation {generation}",
        )
    for row in document["references"]:
        axes.scatter([row["ops"]], [row["accuracy"]], marker="*", s=110, color="#d55e00", zorder=4)
        axes.annotate(
            f"{row['uniform']} everywhere",
            (row["ops"], row["accuracy"]),
            xytext=(6, -10),
            textcoords="offset points",
            fontsize=8,
        )
    axes.set_xscale("log")
    for formatted in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        formatted(FuncFormatter(lambda value, _: short_count(value)))
    axes.tick_params(which="minor", labelsize=7)
    axes.set_xlabel("OPs (FLOPs + BOPs/64)")
    axes.set_ylabel(format_accuracy(document))
    axes.set_title(f"hypervolume {document['hypervolume']:.4f}", fontsize=10)
    if generations:
        axes.legend(fontsize=7)
    return figure


def genes_figure(document: Mapping[str, Any]) -> Any:
    """What the winners have in each layer, block or cell, as bars; a panel for each kind of gene."""
    genes, winners = document["genes"], document["front"][:MAX_WINNERS]
    kinds: dict[str, list[int]] = {}
    for place, gene in enumerate(genes):
        kinds.setdefault(gene["name"].partition(".")[0], []).append(place)
    longest = max(map(len, kinds.values()))
    figure, axes = _figure(max(7.0, 0.5 * longest), 4.5 if len(kinds) == 1 else 1.9 * len(kinds), len(kinds))
    width = 0.8 / max(1, len(winners))
    for (kind, places), panel in zip(kinds.items(), axes, strict=True):
        choices = genes[places[0]]["choices"]
        numbers = all(
            isinstance(choice, int | float) for place in places for choice in genes[place]["choices"]
        )
        for rank, row in enumerate(winners):
            label = f"{row['accuracy']:.4f}, {short_count(row['ops'])} OPs"
            shift = (rank - (len(winners) - 1) / 2) * width
            silent = row.get("inactive", ())
            heights = [
                0 if genes[place]["name"] in silent else value if numbers else choices.index(value) + 1
                for place, value in ((place, row["genome"][place]) for place in places)
            ]
            panel.bar([i + shift for i in range(len(places))], heights, width, label=label)
        if not numbers:
            panel.set_yticks(range(1, len(choices) + 1), list(map(str, choices)))
            panel.set_ylim(0, len(choices) + 0.5)
        names = [genes[place]["name"].partition(".")[2] for place in places]
        panel.set_xticks(range(len(names)), names, fontsize=7)
        panel.set_ylabel(kind, fontsize=8)
    axes[0].set_title("the front's most accurate networks", fontsize=10)
    if winners:
        axes[0].legend(fontsize=7)
    return figure


def predictor_figure(document: Mapping[str, Any], predictor: Mapping[str, Any]) -> Any:
    """Predicted against measured accuracy, and the rank correlation by the number of samples."""
    figure, (scatter, ranks) = _figure(10.0, 4.5, 1, 2)
    found = predictor["predictions"]
    scatter.scatter(found["measured"], found["expected"], s=14, color="#0072b2", label="held-out samples")
    front = [row for row in document["front"] if "measured_accuracy" in row]
    if front:
        scatter.scatter(
            [row["measured_accuracy"] for row in front],
            [row["accuracy"] for row in front],
            s=40,
            marker="*",
            color="#d55e00",
            label="members of the front",
        )
    ends = [*found["measured"], *found["expected"]]
    scatter.plot([min(ends), max(ends)], [min(ends), max(ends)], color="#999999", linewidth=0.8)
    scatter.set_xlabel("measured search-validation accuracy")
    scatter.set_ylabel("predicted")
    scatter.legend(fontsize=7)
    for is_transferred, color in ((True, "#0072b2"), (False, "#999999")):
        rows = [row for row in predictor["rank_correlation"] if row["transferred"] == is_transferred]
        if rows:
            ranks.errorbar(
                [row["samples"] for row in rows],
                [row["spearman"]["mean"] for row in rows],
                [row["spearman"]["std"] for row in rows],
                color=color,
                marker="o",
                markersize=3,
                capsize=2,
                label="with transfer" if is_transferred else "without",
            )
    ranks.set_xlabel("quantized samples")
    ranks.set_ylabel("Spearman's rank correlation")
    ranks.legend(fontsize=7)
    return figure


def _figure(width: float, height: float = 4.5, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """A figure, and its panels in a row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False).ravel()
