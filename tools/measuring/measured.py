"""What the measuring tools share: rows of finished runs in a file, a training by a recipe, figures in words.

A measurement that was stopped goes on where it stood: a run whose row is there, with the same settings, is
not run again. Its table is written anew from the rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from binas import __version__
from binas.arch.genotype import Genotype
from binas.config import build, read_text
from binas.data.config import DataConfig
from binas.data.open_data import Data, open_data
from binas.engine.loop import evaluate, evaluation_batches
from binas.errors import UserError
from binas.models import ModelChoice
from binas.recipe import Recipe
from binas.run.device import pick_device
from binas.run.files import AppendedFile
from binas.run.folder import RunFolder
from binas.run.machine import cpu_model
from binas.run.seeds import set_deterministic
from binas.train.model_file import load_model
from binas.train.retrain import Retraining

CHECKOUT = Path(__file__).resolve().parents[2]
SUBSET = 10_000
"""Training images of Fashion-MNIST in measurements, as many of each class; all 10,000 test images count."""
NOT_MEASURED = {"name", "runs", "device", "num_threads", "tensorboard", "expected"}
"""Keys of a recipe that change nothing that is measured."""


def fashion_subset(image_size: int = 28) -> dict[str, Any]:
    """The `data` section of a recipe: the fixed part of Fashion-MNIST, resized once at loading."""
    size = {} if image_size == 28 else {"image_size": image_size}
    return {"name": "fashion_mnist", "subset": SUBSET, **size}


class Rows:
    """Rows of finished runs in a JSON-lines file, in the order in which they came, of one process or several.

    A row has a `key`, the words that name its run, and a `settings` hash. A later row of a key takes the
    place of an earlier one.

    Raises:
        UserError: the file holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._read().values())

    def find(self, key: str, settings: str) -> dict[str, Any] | None:
        """The row of a run, unless it is missing or was made with other settings."""
        row = self._read().get(key)
        return row if row is not None and row.get("settings") == settings else None

    def add(self, key: str, settings: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Keeps a row; what other processes have added meanwhile stays."""
        row = {"key": key, "settings": settings, **values}
        file = AppendedFile(self.path)
        try:
            file.append((json.dumps(row) + "\n").encode())
            file.sync()
        finally:
            file.close()
        return row

    def _read(self) -> dict[str, dict[str, Any]]:
        rows: dict[str, dict[str, Any]] = {}
        lines = read_text(self.path).splitlines() if self.path.exists() else []
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                rows.pop(row["key"], None)
                rows[row["key"]] = row
            except (ValueError, KeyError, TypeError):
                raise UserError(
                    f"{self.path}: line {number} is no row of a measurement; remove it, and its run is run"
                    " again"
                ) from None
        return rows


def settings_hash(recipe: Recipe, genotype: Genotype | None = None) -> str:
    """A short hash of all that decides what a run gives."""
    # without defaults, so that a key that is new in recipes leaves finished rows what they are
    kept = recipe.model_dump(mode="json", exclude=NOT_MEASURED, exclude_defaults=True)
    return short_hash([kept, genotype.hash() if genotype else None])


def short_hash(settings: Any) -> str:
    """A short hash of plain values."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def train(recipe: Recipe, folder: Path, genotype: Genotype | None = None) -> dict[str, Any]:
    """Trains a model or a genotype in this process, by the product's own loop, and tests its last epoch.

    Args:
        folder: of the run; emptied first and removed when done. What is printed stays in a file beside it.
    Returns:
        test accuracy and loss, training accuracy of the last epoch, CPU seconds, epochs.
    """
    what: Genotype | ModelChoice | None = genotype or recipe.model
    if what is None:
        raise UserError("recipe: names no model, and no genotype is given; set model")
    device = pick_device(recipe.device)
    set_deterministic(device)
    if folder.exists():
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_name(f"{folder.name}.log")
    data, start = opened(recipe.data), time.process_time()
    with open(log, "w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        retraining = Retraining(
            what, recipe.retrain, data, seed=recipe.seed, device=device, tensorboard=False
        )
        with RunFolder.create(folder, "retrain") as run:
            reached = retraining.run(run)
            network, structure, _ = load_model(run.checkpoint, ())
    images = evaluation_batches(data.test(), data, device)
    tested = evaluate(network.to(device), images, structure.stage.loss)
    shutil.rmtree(folder)
    return {
        "test_accuracy": tested["accuracy"],
        "test_loss": tested["loss"],
        "stages": reached["stages"],
        "epochs": reached["epochs"],
        "cpu_seconds": round(time.process_time() - start, 2),
    }


def opened(config: DataConfig) -> Data:
    """The images of a recipe, opened once in a process."""
    return _opened(config.model_dump_json())


@cache
def _opened(config: str) -> Data:
    return open_data(build(DataConfig, json.loads(config), "data"))


def mean_std(values: Sequence[float], digits: int = 1, scale: float = 100.0) -> str:
    """`81.2 ± 0.4 (3)`: mean, standard deviation of the sample, n; percent unless told otherwise."""
    if not values:
        return "–"
    mean, n = statistics.fmean(values) * scale, len(values)
    if n == 1:
        return f"{mean:.{digits}f} (1)"
    return f"{mean:.{digits}f} ± {statistics.stdev(values) * scale:.{digits}f} ({n})"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table; words to the left, numbers to the right."""
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(str(value) for value in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def machine_name() -> str:
    """A short word for this machine, from its CPU's model: `epyc2` is an AMD EPYC with two cores."""
    words = re.findall(r"[a-z0-9]+", cpu_model().lower())
    skipped = {"amd", "intel", "r", "tm", "cpu", "core", "processor", "with", "at"}
    name = next((word for word in words if word not in skipped), "cpu")
    return f"{name}{os.cpu_count() or 1}"


def machine_words() -> str:
    """CPU, cores and versions, for the head of a table."""
    return f"{os.cpu_count()} cores of {cpu_model()}, no GPU, torch {torch.__version__}, binas {__version__}"
