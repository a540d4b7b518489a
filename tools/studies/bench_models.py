"""Published families under one recipe, beside their full-precision twins and a searched cell of equal OPs.

The families, the cells and the recipe stand in `tools/studies/models.yaml`. Finished runs are rows of
`benchmarks/models_<machine>.jsonl`, and the table beside it is written again after each; interrupted, the
same command goes on with what has no row yet.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, model_validator

from binas.arch.genotype import Genotype, read_cells
from binas.arch.network import genotype_space
from binas.arch.space import NetworkSettings
from binas.config import Config, build, find_file, merged, read_mapping
from binas.errors import UserError
from binas.models import ModelChoice, Task, build_model
from binas.ops import OPS
from binas.profile import Profile, profile_genotype, profile_module
from binas.recipe import Recipe
from binas.run.files import write_atomic
from tools.measuring.measured import (
    CHECKOUT,
    Rows,
    machine_name,
    machine_words,
    markdown_table,
    mean_std,
    opened,
    settings_hash,
    train,
)

STUDY = CHECKOUT / "tools/studies/models.yaml"


class CellNetwork(Config):
    """A network of searched cells."""

    genotype: str
    """Name or file of the genotype."""
    network: dict[str, Any] = {}
    """Changes to the `network` settings of its space."""


class Family(Config):
    """A published network, and the cells that it is compared with."""

    model: ModelChoice
    cell: str
    """Which of `cells`."""


class Study(Config):
    """What is compared, under which recipe."""

    recipe: Recipe
    """Everything but the model, which each run puts in."""
    tolerance: float = Field(0.1, gt=0, lt=1)
    """How far the OPs of a family and of its cell may lie apart, as a part of the cell's."""
    cells: dict[str, CellNetwork]
    families: dict[str, Family] = Field(min_length=1)

    @model_validator(mode="after")
    def _cells_are_there(self) -> Study:
        for name, family in self.families.items():
            if family.cell not in self.cells:
                raise ValueError(
                    f"families.{name}.cell: '{family.cell}' is not among cells: {', '.join(self.cells)}"
                )
        return self


@dataclass(frozen=True)
class Run:
    """A training of the study.

    Args:
        name: of the family or the cell.
        kind: `binary`, `real` or `cell`.
        recipe: with model and seed.
        genotype: of a cell.
    """

    name: str
    kind: str
    recipe: Recipe
    genotype: Genotype | None = None

    @property
    def key(self) -> str:
        """The words that name the row."""
        return f"{self.kind}/{self.name}/{self.recipe.seed}"

    @cached_property
    def profile(self) -> Profile:
        """What the network costs on the study's images."""
        data = opened(self.recipe.data)
        if self.genotype is not None:
            space = genotype_space(self.genotype)
            settings = build(
                NetworkSettings, merged(space.network.model_dump(), self.recipe.retrain.network), "cells"
            )
            return profile_genotype(self.genotype, data.channels, data.image_size, data.num_classes, settings)
        assert self.recipe.model is not None
        task = Task(data.channels, data.image_size, data.num_classes, ())
        return profile_module(build_model(self.recipe.model, task), data.channels, data.image_size)


def runs_of(study: Study, families: Sequence[str], seeds: Sequence[int]) -> Iterator[Run]:
    """All trainings: the first seed of everything first, and the twins of the other seeds last."""
    for seed in seeds:
        yield from _cells(study, families, seed)
        yield from _networks(study, families, seed, ("binary", "real") if seed == seeds[0] else ("binary",))
    for seed in seeds[1:]:
        yield from _networks(study, families, seed, ("real",))


def _cells(study: Study, families: Sequence[str], seed: int) -> Iterator[Run]:
    for name in dict.fromkeys(study.families[name].cell for name in families):
        cell = study.cells[name]
        genotype = read_cells(find_file(cell.genotype, "genotypes"), OPS)
        retrain = study.recipe.retrain.model_copy(update={"network": cell.network})
        changes = {"seed": seed, "model": None, "retrain": retrain}
        yield Run(name, "cell", study.recipe.model_copy(update=changes), genotype)


def _networks(study: Study, families: Sequence[str], seed: int, kinds: Sequence[str]) -> Iterator[Run]:
    for name in families:
        for kind in kinds:
            model = _choice(study.families[name].model, kind == "real")
            yield Run(name, kind, study.recipe.model_copy(update={"seed": seed, "model": model}))


def _choice(model: ModelChoice, real: bool) -> ModelChoice:
    return build(ModelChoice, {**model.model_dump(), "real": real}, "families") if real else model


def check_operations(study: Study, families: Sequence[str]) -> None:
    """Refuses a comparison that is not one: a family whose OPs are not about those of its cell.

    Raises:
        UserError: names the family and both numbers.
    """
    first = {(run.kind, run.name): run for run in runs_of(study, families, [0]) if run.kind != "real"}
    for name in families:
        cell = study.families[name].cell
        ours, theirs = first["binary", name].profile.ops, first["cell", cell].profile.ops
        if abs(ours / theirs - 1) > study.tolerance:
            raise UserError(
                f"families.{name}: {ours:,.0f} OPs, and the cell '{cell}' has {theirs:,.0f}; change width or"
                f" cell until they are within {study.tolerance:.0%}"
            )


def measure(study: Study, families: Sequence[str], seeds: Sequence[int], out: Path, table: Path) -> Rows:
    """Runs what has no row yet, and writes the table after each run."""
    rows = Rows(table.with_suffix(".jsonl"))
    for run in runs_of(study, families, seeds):
        settings = settings_hash(run.recipe, run.genotype)
        if rows.find(run.key, settings) is not None:
            continue
        result = train(run.recipe, out / run.key.replace("/", "-").replace(" ", "_"), run.genotype)
        row = rows.add(run.key, settings, {**identity(run), **result})
        print(f"{run.key}: {row['test_accuracy']:.4f}, {row['cpu_seconds']:.0f} s of CPU", flush=True)
        write_atomic(table, report(study, rows, table))
    return rows


def identity(run: Run) -> dict[str, Any]:
    """What a row says about its network."""
    totals = run.profile.to_json()
    costs = {key: totals[key] for key in ("ops", "flops", "bops", "parameters", "binary_parameters")}
    found = run.genotype.hash() if run.genotype else ""
    what = run.recipe.model.summary() if run.recipe.model else found
    return {"name": run.name, "kind": run.kind, "seed": run.recipe.seed, "what": what, **costs}


def report(study: Study, rows: Rows, table: Path) -> str:
    """The text of `benchmarks/models_<machine>.md`.

    What a person reads from it stands in `models_<machine>_readings.yaml` beside it, under `reading`.
    """
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["kind"], row["name"]), []).append(row)
    lines = [_family_row(name, family, found) for name, family in study.families.items()]
    body = markdown_table(COLUMNS, [line for line in lines if line])
    cells = markdown_table(
        ("cell", "network", "accuracy %", "OPs M", "FLOPs M", "binary parameters k", "CPU s a run"),
        [
            _cell_row(name, study.cells[name], found["cell", name])
            for name in study.cells
            if ("cell", name) in found
        ],
    )
    readings_file = table.with_name(f"{table.stem}_readings.yaml")
    reading = read_mapping(readings_file).get("reading", "") if readings_file.exists() else ""
    words = f"\nReading: {' '.join(reading.split())}\n" if reading else ""
    return f"{_head(study, table)}\n{body}\n\nThe cells:\n\n{cells}\n\n{NOTES}{words}"


SPLITS = ("train", "search_validation", "test")
COLUMNS = (
    "family",
    "model",
    "accuracy %",
    "full-precision twin %",
    "searched cell, equal OPs %",
    "OPs M",
    "cell's OPs M",
    "FLOPs M",
    "binary parameters k",
    "CPU s a run",
)
NOTES = """\
Accuracy is that of the last epoch on the test images, mean ± standard deviation (number of seeds); a seed
changes weights and order of the images, not the images. OPs = FLOPs + BOPs/64, a multiply-accumulate is
one, convolutions and linear layers only (`binas profile`). The twin is the same network with real-valued
convolutions (`real: true`), under the same recipe; it has as many parameters and about 64 times the OPs of
the binary layers.
"""


def _family_row(
    name: str, family: Family, found: Mapping[tuple[str, str], list[dict[str, Any]]]
) -> list[str] | None:
    binary = found.get(("binary", name))
    if not binary:
        return None
    cell, last = found.get(("cell", family.cell), []), binary[-1]
    return [
        name,
        last["what"],
        accuracy(binary),
        accuracy(found.get(("real", name), [])),
        accuracy(cell),
        _millions(last["ops"]),
        _millions(cell[-1]["ops"]) if cell else "–",
        _millions(last["flops"]),
        f"{last['binary_parameters'] / 1e3:.0f}",
        _seconds(binary),
    ]


def _cell_row(name: str, cell: CellNetwork, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    last = rows[-1]
    changes = ", ".join(f"{key} {value}" for key, value in cell.network.items())
    return [
        name,
        f"`{cell.genotype}` ({last['what']}), {changes}",
        accuracy(rows),
        _millions(last["ops"]),
        _millions(last["flops"]),
        f"{last['binary_parameters'] / 1e3:.0f}",
        _seconds(rows),
    ]


def accuracy(rows: Sequence[Mapping[str, Any]]) -> str:
    """Test accuracy of some runs in percent, mean ± deviation (n)."""
    return mean_std([row["test_accuracy"] for row in rows])


def _seconds(rows: Sequence[Mapping[str, Any]]) -> str:
    return f"{statistics.fmean(row['cpu_seconds'] for row in rows):.0f}"


def _millions(count: float) -> str:
    return f"{count / 1e6:.3f}"


def _head(study: Study, table: Path) -> str:
    stage, retrain, data = study.recipe.retrain.stages[-1], study.recipe.retrain, study.recipe.data
    size = " × ".join(str(length) for length in opened(data).image_size)
    train, validation, test = (sum(opened(data).counts[split]) for split in SPLITS)
    images = f"{train + validation:,} images of {data.name}"
    optimizer = stage.optimizer
    words = (
        f"`python tools/studies/bench_models.py`, {machine_words()}. Trained on {images}, {size} pixels,"
        f" tested on {test:,}: {stage.epochs} epochs, batch {retrain.batch_size}, {optimizer.name}"
        f" {optimizer.learning_rate:g} with {stage.learning_rate.shape} decay, weight decay"
        f" {optimizer.weight_decay:g}, one stage, no augmentation, no teacher. Each family with the"
        " binarization of its paper, at a width that makes its OPs those of a searched cell within"
        f" {study.tolerance:.0%}: `tools/studies/models.yaml`. Nothing here is a paper's figure, and"
        " nothing repeats a paper's training."
    )
    return f"# Families of published networks under one recipe\n\n{textwrap.fill(words, 110)}\n"


def main() -> int:
    """Reads the command line; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--study", type=Path, default=STUDY, help=f"what to compare (default: {STUDY.name})")
    parser.add_argument("--families", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench_models"), help="folders of runs")
    parser.add_argument(
        "--machine", default=machine_name(), help=f"word for the table (default: {machine_name()})"
    )
    parser.add_argument("--table", type=Path, help="default: benchmarks/models_<machine>.md")
    parser.add_argument("--only-table", action="store_true", help="write it from the rows, train nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        study = build(Study, read_mapping(options.study), str(options.study))
        families = options.families or list(study.families)
        for name in families:
            if name not in study.families:
                raise UserError(f"--families: '{name}' is none of {', '.join(study.families)}")
        table = options.table or CHECKOUT / f"benchmarks/models_{options.machine}.md"
        check_operations(study, families)
        if options.only_table:
            write_atomic(table, report(study, Rows(table.with_suffix(".jsonl")), table))
            return 0
        measure(study, families, options.seeds, options.out, table)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
