"""The tables and pictures of the optimisation study, from the rows of finished runs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from binas.config import read_mapping
from binas.run.files import write_atomic
from tools.measuring.measured import Rows, machine_words, markdown_table, mean_std
from tools.studies.study import Planned, Question, Study

Row = dict[str, Any]
THRESHOLDS = (0.75, 0.80)
"""Validation accuracies whose first epoch is told."""


def write_report(study: Study, rows: Rows, folder: Path, machine: str, pictures: bool = True) -> Path:
    """Writes `optimisation_<machine>.md` and pictures; gives the table's path.

    What a person reads from the figures stands in `optimisation_<machine>_readings.yaml` beside it, a
    paragraph by the name of each question.
    """
    readings_file = folder / f"optimisation_{machine}_readings.yaml"
    readings = read_mapping(readings_file) if readings_file.exists() else {}
    parts = [head(study, rows)]
    for name, question in study.questions.items():
        parts.append(f"## {question.title}\n\nPaper: {' '.join(question.source.split())}.")
        parts += [" ".join(question.notes.split())] if question.notes else []
        planned = [one for one in study.planned if one.question == name]
        for network in question.networks:
            parts.append(f"**{study.networks[network].title}**\n\n{table(question, network, planned, rows)}")
        picture = folder / f"optimisation_{machine}_{name}.png"
        if pictures and question.picture:
            draw(question, study, planned, rows, picture)
        parts += [f"![{question.title}]({picture.name})"] if question.picture and picture.exists() else []
        parts += [f"Reading: {' '.join(readings[name].split())}"] if name in readings else []
    path = folder / f"optimisation_{machine}.md"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "\n\n".join(parts) + "\n")
    return path


def head(study: Study, rows: Rows) -> str:
    """What was run, where, and how much of it is there."""
    keys = {one.key(seed) for one in study.planned for seed in _seeds(rows)}
    found = [row for row in rows if row["key"] in keys]
    command = "python tools/studies/study_optimisation.py" + (
        f" --size {study.size}" if study.size != "small" else ""
    )
    sizes = "\n".join(
        f"- {entry.title}: {' '.join(entry.sizes[study.size].words.split())}"
        for entry in study.networks.values()
    )
    seconds = sum(row["cpu_seconds"] for row in found)
    resumed = sum(bool(row["resumed"]) for row in found)
    cut = f" ({resumed} of them resumed, their seconds before that not counted)" if resumed else ""
    return (
        "# The optimisation study\n\n"
        "The questions of Alizadeh, Fernandez-Marques, Lane and Gal, *An Empirical Study of Binary"
        " Neural Networks' Optimisation*, ICLR 2019, at a size that runs here. Weights are binary (bare"
        " signs) in all layers and activations real (ReLU) unless a question says otherwise; Adam, both"
        " clippings, squared hinge loss, exponentially falling rate. The last tenth of the training"
        " images is for validation; the test error, on 10,000 images, is that of the best validation"
        " epoch (the paper's protocol), with the last epoch's beside it. Figures are mean ± standard"
        " deviation of the sample (n seeds). The paper's own column is of other sizes and other images,"
        " a mean of 5 runs: compare orders, not values.\n\n"
        f"{sizes}\n\n"
        f"Command: `{command}`. {machine_words()}, one thread; {len(found)} runs, {seconds / 60:.0f} minutes"
        f" of CPU{cut}. {len({one.key(0) for one in study.planned})} runs make one seed of everything; a row"
        " tells by its n how far it is."
    )


def table(question: Question, network: str, planned: list[Planned], rows: Rows) -> str:
    """A question's variants for one network, a line each."""
    mine = [one for one in planned if one.network == network]
    extra = [column for name in question.columns for column in COLUMNS[name]]
    has_paper = any(network in variant.paper for variant in question.variants.values())
    columns = ["", "test error, %", "last epoch's, %", "best epoch", *(name for name, _ in extra)]
    lines = []
    for one in mine:
        found, first = runs_of(one, rows), runs_of(mine[0], rows)
        variant = question.variants[one.variant]
        line = [
            variant.words,
            mean_std([1 - row["test_at_best"] for row in found]),
            mean_std([1 - row["test_at_last"] for row in found]),
            _mean([row["best_epoch"] for row in found]),
            *(column(found, first) for _, column in extra),
        ]
        paper = variant.paper.get(network)
        lines.append(line + ([f"{paper:.2f}" if paper is not None else "–"] if has_paper else []))
    return markdown_table(columns + (["the paper's own, %"] if has_paper else []), lines)


def runs_of(planned: Planned, rows: Rows) -> list[Row]:
    """The finished runs of a variant, by seed."""
    found = (rows.find(planned.key(seed), planned.settings()) for seed in _seeds(rows))
    return [row for row in found if row is not None]


def _seeds(rows: Rows) -> list[int]:
    return sorted({row["seed"] for row in rows})


def _flips(runs: list[Row], first: list[Row]) -> str:
    known = [row["flips"][-1] for row in runs if row["flips"][-1] is not None]
    return f"{100 * statistics.fmean(known):.2f}" if known else "–"


def _epochs_to(threshold: float) -> Callable[[list[Row], list[Row]], str]:
    def column(runs: list[Row], first: list[Row]) -> str:
        reached = [_first_epoch(row["validation"], threshold) for row in runs]
        if None in reached or not reached:
            return (
                "–" if not any(reached) else f"{sum(r is not None for r in reached)} of {len(reached)} runs"
            )
        return _mean([epoch for epoch in reached if epoch is not None])

    return column


def _first_epoch(curve: list[float], threshold: float) -> int | None:
    return next((epoch for epoch, value in enumerate(curve, start=1) if value >= threshold), None)


def _positive_share(runs: list[Row], first: list[Row]) -> str:
    return mean_std([row["positive_share"] for row in runs if row["positive_share"] is not None])


def _plateau(runs: list[Row], first: list[Row]) -> str:
    return _mean([row["epochs"] for row in runs])


def _gap(runs: list[Row], first: list[Row]) -> str:
    trained_on = {row["seed"]: row["test_at_best"] for row in first}
    return mean_std(
        [trained_on[row["seed"]] - row["test_at_best"] for row in runs if row["seed"] in trained_on]
    )


COLUMNS: dict[str, list[tuple[str, Callable[[list[Row], list[Row]], str]]]] = {
    "flips": [("signs that change in the last epoch, %", _flips)],
    "epochs_to": [(f"epochs to {100 * one:.0f} % in validation", _epochs_to(one)) for one in THRESHOLDS],
    "positive_share": [("+1 after pools, %", _positive_share)],
    "gap": [("epochs trained", _plateau), ("last-mile gap, points", _gap)],
}


def _mean(values: list[float]) -> str:
    return f"{statistics.fmean(values):.1f}" if values else "–"


def draw(question: Question, study: Study, planned: list[Planned], rows: Rows, path: Path) -> None:
    """Validation accuracy by epoch, mean over seeds, a panel for each network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(question.networks), 3.9), layout="constrained")
    panels = figure.subplots(1, len(question.networks), squeeze=False)[0]
    for panel, network in zip(panels, question.networks, strict=True):
        for position, (words, curve) in enumerate(curves(question, network, planned, rows)):
            style = ("-", "--", ":", "-.")[position % 4]
            panel.plot(range(1, len(curve) + 1), [100 * v for v in curve], style, label=words, marker=".")
        panel.set(title=study.networks[network].title, xlabel="epoch", ylabel="validation accuracy, %")
        panel.grid(alpha=0.3)
    if panels[0].get_legend_handles_labels()[1]:
        panels[0].legend(fontsize=7, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def curves(
    question: Question, network: str, planned: list[Planned], rows: Rows
) -> Iterator[tuple[str, list[float]]]:
    """Each variant's words and mean curve, as far as all its seeds have trained."""
    for one in planned:
        found = runs_of(one, rows) if one.network == network else []
        if found:
            columns = zip(*(row["validation"] for row in found), strict=False)
            yield question.variants[one.variant].words, [statistics.fmean(values) for values in columns]
