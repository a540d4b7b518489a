"""The optimisation study: the questions of Alizadeh et al. (ICLR 2019), trained, tabled and drawn.

Each file of `tools/studies/optimisation/` is a question; every variant is a recipe that the product's own
loop trains. Equal recipes of several questions are trained once. Interrupted, the same command goes on:
finished runs are rows of `benchmarks/optimisation_<machine>.jsonl`, and the one that was cut off is resumed
from its last epoch. The table beside it is written again after each run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from binas.binarize import BinaryConv2d
from binas.config import build
from binas.data.batches import Batches
from binas.data.config import DataConfig
from binas.engine.loop import evaluate, evaluation_batches
from binas.errors import UserError
from binas.recipe import Recipe
from binas.run.folder import RunFolder
from binas.run.metrics import read_metrics
from binas.run.seeds import set_deterministic
from binas.train.model_file import load_model
from binas.train.retrain import Retraining
from tools.measuring.measured import CHECKOUT, Rows, opened
from tools.studies.study import Planned, Study, load_study, study_parser
from tools.studies.study_report import write_report

FOLDER = CHECKOUT / "tools" / "studies" / "optimisation"
CPU = torch.device("cpu")


def main(words: Sequence[str] | None = None) -> int:
    """Trains what is missing, seed by seed, and writes the table."""
    description = __doc__.splitlines()[0] if __doc__ else None
    parser = study_parser(description, FOLDER, Path("runs/study_optimisation"))
    parser.add_argument("--networks", nargs="+", default=(), metavar="NAME", help="only these")
    options = parser.parse_args(words)
    try:
        study = load_study(options.study, options.size, tuple(options.questions))
        rows = Rows(options.benchmarks / f"optimisation_{options.machine}.jsonl")
        if not options.table:
            torch.set_num_threads(1)
            set_deterministic(CPU)
            run_missing(study, rows, options)
        print(f"written: {write_report(study, rows, options.benchmarks, options.machine)}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run_missing(study: Study, rows: Rows, options: argparse.Namespace) -> None:
    """Trains every variant and seed that has no row yet; the first seed of all comes first."""
    for seed in options.seeds:
        for planned in study.planned:
            if options.networks and planned.network not in options.networks:
                continue
            key, settings = planned.key(seed), planned.settings()
            if rows.find(key, settings) is not None:
                continue
            row = run(planned, seed, options.out / key.replace("/", "_"))
            rows.add(key, settings, row)
            print(f"{planned.question}, {planned.variant}, {key}: {json.dumps(summary(row))}", flush=True)
            write_report(study, rows, options.benchmarks, options.machine, pictures=False)


def run(planned: Planned, seed: int, folder: Path) -> dict[str, Any]:
    """Trains one recipe with one seed, or goes on with it; gives its row and removes its folder."""
    recipe = planned.recipe
    assert recipe.model is not None
    start = time.process_time()
    folder.parent.mkdir(parents=True, exist_ok=True)
    is_begun = (folder / "manifest.json").exists()
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(open(folder.with_name(f"{folder.name}.log"), "a", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(log))
        retraining = Retraining(
            recipe.model, recipe.retrain, opened(recipe.data), seed=seed, device=CPU, tensorboard=False
        )
        opening = RunFolder.resume(folder, "retrain") if is_begun else RunFolder.create(folder, "retrain")
        run_folder = stack.enter_context(opening)
        retraining.run(run_folder)
        row = {"network": planned.network, "seed": seed, **measure(run_folder, recipe)}
    shutil.rmtree(folder)
    return {**row, "cpu_seconds": round(time.process_time() - start, 1), "resumed": is_begun}


def measure(folder: RunFolder, recipe: Recipe) -> dict[str, Any]:
    """Curves by epoch, and test accuracy of the best validation epoch and of the last one."""
    lines = read_metrics(folder.path)
    last = [line for line in lines if line["stage"] == lines[-1]["stage"]]
    best = last[-1]
    if recipe.retrain.keep == "best":
        best = max(last, key=lambda line: float(line["validation_accuracy"]))
    network, structure, _ = load_model(folder.checkpoint, ())
    images = test_batches(recipe.data)
    at_last = at_best = evaluate(network, images, structure.stage.loss)["accuracy"]
    if best is not last[-1]:
        kept = load_model(folder.best, ())[0]
        at_best = evaluate(kept, images, structure.stage.loss)["accuracy"]
    shares = [last[-1].get(f"positive_share/{name}") for name in layers_after_pools(network)]
    known = [share for share in shares if share is not None]
    return {
        "epochs": len(lines),
        "best_epoch": best["step"] + 1,
        "best_validation": best["validation_accuracy"],
        "test_at_best": at_best,
        "test_at_last": at_last,
        "validation": [line["validation_accuracy"] for line in lines],
        "train": [line["train_accuracy"] for line in lines],
        "flips": [line.get("flip_ratio") for line in lines],
        "positive_share": sum(known) / len(known) if known else None,
    }


def test_batches(config: DataConfig) -> Batches:
    """The test images of a recipe, read once in a process."""
    return _test_batches(config.model_dump_json())


@cache
def _test_batches(config: str) -> Batches:
    data = opened(build(DataConfig, json.loads(config), "data"))
    return evaluation_batches(data.test(), data, CPU)


def layers_after_pools(network: nn.Module) -> list[str]:
    """The binary convolutions that read what a pool gives, in a network whose layers stand in a row."""
    found, is_pooled = [], False
    for name, module in network.named_modules():
        if isinstance(module, nn.MaxPool2d):
            is_pooled = True
        elif isinstance(module, BinaryConv2d):
            if is_pooled:
                found.append(name)
            is_pooled = False
    return found


def summary(row: dict[str, Any]) -> dict[str, Any]:
    """What is printed of a finished run."""
    return {name: row[name] for name in ("best_epoch", "test_at_best", "test_at_last", "cpu_seconds")}


if __name__ == "__main__":
    sys.exit(main())
