"""Each evolution against its random control at equal evaluations: hypervolume over seeds, a table, a figure.

Every run is the real `binas evolve`. A finished one is a row in a JSON-lines file and is not run again; one
that was stopped goes on by `--resume`. Table and figure are written anew after each run. Of a seed, evolution
and control share one network, and one predictor's samples.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from binas.recipe import Recipe, load_recipe
from binas.run.files import write_atomic
from binas.run.metrics import read_metrics
from tools.measuring.measured import (
    Rows,
    machine_name,
    machine_words,
    markdown_table,
    mean_std,
    settings_hash,
)

CHECKOUT = Path(__file__).resolve().parents[2]
STRATEGIES = ("evolution", "random")
COLORS = {"evolution": "#0072b2", "random": "#999999"}
PREDICTED = {"evolve.evaluations": 400, "evolve.population": 40}
"""A prediction costs nothing: more of them, after 100 short trainings for its samples."""
SEARCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "widths of VGG-small": ("evolve_digits", {}),
    "widths of ResNet-18, slices": (
        "evolve_width_resnet18",
        {
            "data.name": "digits",
            "data.augmentation": "{crop_padding: 1}",
            "model.width": 0.125,
            "evolve.shared.stage.epochs": 12,
            "evolve.shared.stage.optimizer.learning_rate": 3e-3,
            "evolve.shared.batch_size": 32,
        },
    ),
    "groups of MobileNet, shared": (
        "evolve_groups_mobilenet",
        {
            "data.name": "digits",
            "data.augmentation": "{crop_padding: 1}",
            "model.width": 0.5,
            "evolve.shared.stage.epochs": 20,
            "evolve.shared.stage.optimizer.learning_rate": 3e-3,
            "evolve.shared.batch_size": 32,
        },
    ),
    "joint policies, tuned parts": ("evolve_joint_digits", {"evolve.evaluation": "tuned"}),
    "joint policies, predicted": ("evolve_joint_digits", PREDICTED),
}
"""For each search a shipped recipe, and what makes it fit two cores."""


def main() -> int:
    """Runs what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=Path, default=Path("runs/evolution_benchmark"), help="run folders")
    parser.add_argument("--out", type=Path, default=None, help="the table; rows lie beside it")
    parser.add_argument("--machine", default=machine_name(), help="short word for this machine")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--evaluations", type=int, default=48)
    parser.add_argument("--searches", nargs="+", default=list(SEARCHES), choices=list(SEARCHES))
    parser.add_argument("--table-only", action="store_true", help="write the table from the rows there are")
    options = parser.parse_args()
    out = options.out or CHECKOUT / "benchmarks" / f"evolution_{options.machine}.md"
    rows = Rows(out.with_suffix(".jsonl"))
    for search in options.searches if not options.table_only else ():
        for seed in options.seeds:
            for strategy in STRATEGIES:
                _run(search, strategy, seed, options, rows)
                write_table(rows, out)
    write_table(rows, out)
    return 0


def _run(search: str, strategy: str, seed: int, options: argparse.Namespace, rows: Rows) -> None:
    config, changes = SEARCHES[search]
    changes = {
        "evolve.evaluations": options.evaluations,
        "evolve.population": 8,
        **changes,
        "evolve.strategy": strategy,
        "seed": seed,
        "num_threads": 1,
        "tensorboard": False,
    }
    words = [word for key, value in changes.items() for word in (f"--{key}", str(value))]
    key = f"{search}, {strategy}, seed {seed}"
    recipe = _recipe(config, changes)
    hashed = settings_hash(recipe)
    if rows.find(key, hashed) is not None:
        return
    name = f"{config}_{strategy}_{seed}_{hashed}"
    folder = options.runs / name
    print(f"{key}: {folder}", flush=True)
    options.runs.mkdir(parents=True, exist_ok=True)
    shared = (options.runs / f"{config}_{seed}_{_judge_hash(recipe)}").resolve()
    files = ("--evolve.shared.checkpoint", f"{shared}.pt", "--evolve.predictor.samples", f"{shared}.jsonl")
    command = ["evolve", config, "--name", name, "--runs", str(options.runs), *words, *files]
    if (folder / "config.yaml").is_file():
        command = ["evolve", "--resume", str(folder)]
    log = options.runs / f"{name}.log"
    with log.open("a", encoding="utf-8") as file:
        subprocess.run(
            [sys.executable, "-m", "binas", *command],
            check=True,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    document = json.loads((folder / "front.json").read_text(encoding="utf-8"))
    kept = ("hypervolume", "hypervolume_box", "evaluations", "front", "references", "generations")
    found = {name: document[name] for name in kept}
    if (folder / "predictor.json").is_file():
        found["predictor"] = json.loads((folder / "predictor.json").read_text(encoding="utf-8"))
    seconds = [line["time/seconds"] for line in read_metrics(folder)]
    found["seconds_an_evaluation"] = round(statistics.fmean(seconds), 2)
    rows.add(key, hashed, {"search": search, "strategy": strategy, "seed": seed, **found})
    with contextlib.suppress(OSError):
        shutil.rmtree(folder)


def _judge_hash(recipe: Recipe) -> str:
    """Of all that a shared network and a predictor's samples depend on."""
    evolve = recipe.evolve
    parts = [
        recipe.data,
        recipe.model,
        evolve.shared,
        evolve.training,
        evolve.joint,
        evolve.width,
        evolve.groups,
    ]
    text = json.dumps([part.model_dump(mode="json") for part in parts if part is not None], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _recipe(config: str, changes: Mapping[str, Any]) -> Recipe:
    from binas.config import parse_override

    return load_recipe(config, dict(parse_override(f"{key}={value}") for key, value in changes.items()))


def write_table(rows: Rows, out: Path) -> None:
    """The table of all rows, and beside it the figure with a panel for each search."""
    found = list(rows)
    searches = [search for search in SEARCHES if any(row["search"] == search for row in found)]
    if not searches:
        return
    write_figure(found, searches, out.with_suffix(".png"))
    lines = []
    for search in searches:
        by = {
            strategy: [row for row in found if (row["search"], row["strategy"]) == (search, strategy)]
            for strategy in STRATEGIES
        }
        for strategy, some in by.items():
            if some:
                best = [best_measured(row["front"]) for row in some]
                lines.append(
                    (
                        search,
                        strategy,
                        some[-1]["evaluations"],
                        mean_std([row["hypervolume"] for row in some], 4, 1.0),
                        mean_std(best),
                        mean_std([row["seconds_an_evaluation"] for row in some], 2, 1.0),
                    )
                )
    columns = ("search", "strategy", "evaluations", "hypervolume", "best accuracy %", "s an evaluation")
    text = (
        "# Evolution against chance\n\n"
        "Hypervolume of search-validation accuracy and OPs, as a part of the box from no accuracy at the OPs"
        " of the costliest network to full accuracy for nothing; mean ± standard deviation (number of seeds)."
        " A seed changes everything that is drawn. The control draws as many genomes at random under the same"
        " rules: none twice. Accuracy is that of the short training, or of the part of a shared network, on"
        " search-validation images: no result of a network that is trained to its end. The hypervolume of the"
        " predicted search is that of predictions; its best accuracy is measured, on the four most accurate"
        " members of its front. Uniform networks (×1, ×2, the same groups, one precision) are stars.\n\n"
        f"Command: `python tools/studies/evolution_benchmark.py`. {machine_words()}.\n\n"
        f"![Fronts; stars: uniform networks]({out.with_suffix('.png').name})\n\n"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, f"{text}{markdown_table(columns, lines)}\n{predictor_words(found)}")


def best_measured(front: Sequence[Mapping[str, Any]]) -> float:
    """The best accuracy on a front; of a predicted one, the best of those that were measured."""
    measured = [row["measured_accuracy"] for row in front if "measured_accuracy" in row]
    return max(measured or [row["accuracy"] for row in front], default=0.0)


def predictor_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of the predictor's rank correlation by samples, with and without transfer."""
    reports = [row["predictor"] for row in rows if "predictor" in row and row["strategy"] == "evolution"]
    if not reports:
        return ""
    found: dict[tuple[int, bool], list[Mapping[str, Any]]] = {}
    for report in reports:
        for row in report["rank_correlation"]:
            found.setdefault((row["samples"], row["transferred"]), []).append(row)
    lines = []
    for count in sorted({count for count, _ in found}):
        cells = [
            mean_std([row[name]["mean"] for row in found.get((count, is_transferred), [])], 3, 1.0)
            for name in ("spearman", "kendall")
            for is_transferred in (True, False)
        ]
        lines.append((count, *cells))
    columns = ("quantized samples", "Spearman, transfer", "without", "Kendall, transfer", "without")
    first = reports[0]
    return (
        "\n## The predictor\n\n"
        f"Rank correlation of predicted with measured accuracy on {first['held_out']} held-out quantized"
        f" candidates, with transfer from {first['real_samples']} real-valued ones and without; mean ±"
        " standard deviation over seeds (their number), each a mean over draws of the samples.\n\n"
        f"{markdown_table(columns, lines)}\n"
    )


def write_figure(rows: Sequence[Mapping[str, Any]], searches: Sequence[str], path: Path) -> None:
    """The front of each run as steps, and the uniform networks as stars."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(searches), 4.2), layout="constrained")
    for panel, search in zip(figure.subplots(1, len(searches), squeeze=False)[0], searches, strict=True):
        for row in (row for row in rows if row["search"] == search):
            points = sorted((point["ops"], point["accuracy"]) for point in row["front"])
            end = (row["hypervolume_box"]["ops"], points[-1][1]) if points else None
            steps = [*points, *([end] if end else [])]
            label = row["strategy"] if row["seed"] == 0 else None
            color = COLORS[row["strategy"]]
            panel.plot(*zip(*steps, strict=True), drawstyle="steps-post", color=color, label=label)
            for mark in row["references"] if row["strategy"] == "evolution" else ():
                panel.plot(mark["ops"], mark["accuracy"], "*", color="#d55e00", markersize=8)
                if row["seed"] == 0:
                    panel.annotate(mark["uniform"], (mark["ops"], mark["accuracy"]), fontsize=8)
        words = "predicted " if "predictor" in row else ""
        panel.set(title=search, xlabel="OPs", xscale="log", ylabel=f"{words}search-validation accuracy")
        panel.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
