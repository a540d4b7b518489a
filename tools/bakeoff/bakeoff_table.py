"""Table and bar chart of the bake-off, from its rows."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from binas.run.files import atomic_path, write_atomic
from tools.bakeoff.bakeoff_run import LAYOUT

Row = dict[str, Any]
Settings = dict[str, Any]
COLUMNS = (
    "entry",
    "family",
    "bits W/A",
    "{data} %",
    "above frozen",
    "step",
    "flips",
    "epochs",
    "n",
    "bars",
)


def write_table(settings: Settings, rows: Iterable[Row], path: Path, command: str) -> None:
    """Writes <path>.md and, once there is a row, <path>.png."""
    found = list(rows)
    write_atomic(path.with_suffix(".md"), table(settings, found, path.name, command))
    if found:
        draw_chart(settings, found, path.with_suffix(".png"))


def table(settings: Settings, rows: list[Row], name: str, command: str) -> str:
    """The whole page."""
    total = len(settings["entries"]) * len(settings["data"]) * 3
    machines = sorted({f"{row['machine']}, torch {row['torch']}" for row in rows})
    bars = settings["bars"]
    parts = [
        "# Binarizers, each trained",
        f"{len(rows)} runs of {total} so far (three seeds each). Made by `{command}` on"
        f" {' and '.join(machines) or 'no machine yet'}; {sum(row['cpu_seconds'] for row in rows) / 60:.0f}"
        " minutes of CPU time.",
        f"Network: {LAYOUT}. Batch {settings['batch_size']}. One fixed recipe for each family:\n\n"
        + "\n".join(f"- {family}: {recipe_words(recipe)}" for family, recipe in settings["families"].items()),
        "What a scheme lacks, weights or activations, is sign with the clipped straight-through gradient."
        " `frozen` is the same network with its binary layers left at their initialisation, one for each kind"
        " of levels; `above frozen` is the distance to the family's own. `step` is the CPU time of a training"
        " step over that of the real-valued network, measured in turns in the same process. `flips` is the"
        " share of weight codes that differ between start and end of an epoch, in the first and in the last"
        f" one. A step beyond {settings['slowest']:g}× gets fewer epochs. ± is the standard deviation over n"
        f" seeds. Bars: at least {bars['accuracy']:g} % on Fashion-MNIST, at least {bars['above_frozen']:g}"
        " points above frozen.",
        f"![bar chart]({name}.png)",
        *(section(settings, rows, data) for data in settings["data"]),
    ]
    return "\n\n".join(parts) + "\n"


def recipe_words(recipe: Mapping[str, Any]) -> str:
    """The stages of a family in a line."""
    words = []
    for stage in recipe["stages"]:
        optimizer = stage["optimizer"]
        more = "".join(f", {key} {optimizer[key]:g}" for key in ("gamma", "threshold") if key in optimizer)
        words.append(
            f"{stage['name']}, {stage['epochs']} epochs, {optimizer['name']}"
            f" {optimizer['learning_rate']:g}{more}, cosine"
        )
    return "; ".join(words)


def section(settings: Settings, rows: list[Row], data: str) -> str:
    """The table of a data set."""
    heads = [column.format(data=data) for column in COLUMNS]
    lines = [f"## {data}", settings["data"][data]["words"] + ".", ""]
    lines += [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    lines += [f"| {' | '.join(line)} |" for line in cells(settings, rows, data)]
    return "\n".join([lines[0], "", *lines[1:]])


def cells(settings: Settings, rows: list[Row], data: str) -> list[list[str]]:
    """A line for each entry that has a row."""
    lines = []
    for name, entry in settings["entries"].items():
        own = of(rows, name, data)
        if not own:
            continue
        above = above_frozen(settings, rows, name, data)
        first, last = (_mean(own, key) for key in ("first_flips", "last_flips"))
        lines.append(
            [
                f"`{name}`",
                entry["family"],
                own[0]["bits"],
                format_accuracy(own),
                "" if above is None else f"{above:+.1f}",
                f"{_mean(own, 'relative_time'):.1f}×",
                "" if first is None or last is None else f"{first:.3f} → {last:.3f}",
                str(own[0]["epochs"]),
                str(len(own)),
                verdict(settings, rows, name, data),
            ]
        )
    return lines


def of(rows: Iterable[Row], name: str, data: str) -> list[Row]:
    """The rows of an entry and a data set."""
    return [row for row in rows if (row["entry"], row["data"]) == (name, data)]


def format_accuracy(rows: list[Row]) -> str:
    """Mean and standard deviation in per cent."""
    values = [100 * row["accuracy"] for row in rows]
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def above_frozen(settings: Settings, rows: list[Row], name: str, data: str) -> float | None:
    """Points between an entry and the frozen network of its family; None where one is missing."""
    entry = settings["entries"][name]
    frozen = of(rows, settings["families"][entry["family"]]["frozen"], data)
    own = of(rows, name, data)
    if not frozen or not own or entry.get("frozen"):
        return None
    accuracy, other = (_mean(some, "accuracy") for some in (own, frozen))
    return None if accuracy is None or other is None else 100 * (accuracy - other)


def verdict(settings: Settings, rows: list[Row], name: str, data: str) -> str:
    """Whether an entry keeps the bars: `kept`, `below`, or nothing where none holds."""
    entry = settings["entries"][name]
    above = above_frozen(settings, rows, name, data)
    if entry.get("real") or above is None or data != "fashion":
        return ""
    accuracy = 100 * (_mean(of(rows, name, data), "accuracy") or 0.0)
    kept = accuracy >= settings["bars"]["accuracy"] and above >= settings["bars"]["above_frozen"]
    return "kept" if kept else "below"


def draw_chart(settings: Settings, rows: list[Row], path: Path) -> None:
    """A bar for each entry and data set, best on the first one first, with the spread over seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sets = [data for data in settings["data"] if any(row["data"] == data for row in rows)]
    names = [name for name in settings["entries"] if of(rows, name, sets[0])]
    names.sort(key=lambda name: _mean(of(rows, name, sets[0]), "accuracy") or 0.0)
    figure = Figure(figsize=(5 * len(sets), 1.2 + 0.2 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, data in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets, strict=True):
        for place, name in enumerate(names):
            values = [100 * row["accuracy"] for row in of(rows, name, data)]
            if not values:
                continue
            spread = statistics.stdev(values) if len(values) > 1 else None
            axes.barh(place, statistics.mean(values), xerr=spread, color=_colour(settings["entries"][name]))
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.set_xlim(left=50)
        axes.set_xlabel("test accuracy, %")
        axes.set_title(data)
        if data == "fashion":
            axes.axvline(settings["bars"]["accuracy"], color="black", linewidth=0.8, linestyle="dotted")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _colour(entry: Mapping[str, Any]) -> str:
    if entry.get("real"):
        return "#4c9f70"
    return "#9a9a9a" if entry.get("frozen") else "#3b6ea8"


def _mean(rows: Iterable[Row], key: str) -> float | None:
    values = [row[key] for row in rows if row[key] is not None]
    return statistics.mean(values) if values else None
