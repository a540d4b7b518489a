"""What an evolution leaves behind: the Pareto front as JSON, and its members ready for `binas retrain`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from binas.arch.genotype import Genotype
from binas.config import dump_mapping
from binas.evolve.problems.problem import Problem, Variant
from binas.evolve.sampler import GENOME_KEY, REFERENCE_KEY
from binas.evolve.study.worker import BITS_KEY, generation_of, is_feasible, point_of
from binas.profile.pareto import Point, front, hypervolume
from binas.run.files import write_atomic

FORMAT = "binas-front"
WINNERS = "winners"


def front_document(
    trials: Sequence[FrozenTrial], problem: Problem, largest_cost: float, about: Mapping[str, Any]
) -> dict[str, Any]:
    """The front of complete trials and how it came about, in plain types and without times.

    Args:
        trials: complete ones.
        problem: what genomes stand for.
        largest_cost: OPs where the hypervolume ends.
        about: what else stands in it.
    """
    feasible = {trial.number: trial for trial in trials if is_feasible(trial)}
    points = [point_of(trial) for trial in feasible.values()]
    best = sorted(front(points), key=lambda point: -point.accuracy)
    return {
        "format": FORMAT,
        "version": 1,
        **about,
        "objectives": [f"{format_accuracy(about)}, maximised", "OPs (FLOPs + BOPs/64), minimised"],
        "hypervolume_box": {"accuracy": 1.0, "ops": largest_cost},
        "hypervolume": hypervolume(points, largest_cost),
        "evaluations": sum(REFERENCE_KEY not in trial.system_attrs for trial in trials),
        "infeasible": sum(not is_feasible(t) and REFERENCE_KEY not in t.system_attrs for t in trials),
        "genes": [{"name": gene.name, "choices": list(gene.choices)} for gene in problem.space.genes],
        "generations": _generations(list(feasible.values()), largest_cost),
        "front": [_row(feasible[point.number], problem) for point in best],
        "references": [
            {"uniform": t.system_attrs[REFERENCE_KEY], **_row(t, problem)}
            for t in trials
            if REFERENCE_KEY in t.system_attrs
        ],
    }


def format_accuracy(about: Mapping[str, Any]) -> str:
    """What a front's accuracies are: of an evaluation, or what a predictor expects of it."""
    predicted = "predicted " if about["evaluation"] == "predicted" else ""
    return f"{predicted}search-validation accuracy"


def _row(trial: FrozenTrial, problem: Problem) -> dict[str, Any]:
    point, genome = point_of(trial), tuple(trial.system_attrs[GENOME_KEY])
    active = problem.space.active(genome)
    inactive = [gene.name for gene, says in zip(problem.space.genes, active, strict=True) if not says]
    return {
        "candidate": trial.number,
        "generation": generation_of(trial),
        "accuracy": point.accuracy,
        "ops": point.cost,
        "bits": trial.user_attrs.get(BITS_KEY),
        **measured_of(trial, problem),
        "genome": list(problem.space.values(genome)),
        **({"inactive": inactive} if inactive else {}),
    }


def measured_of(trial: FrozenTrial, problem: Problem) -> dict[str, float]:
    """What a row says of a candidate besides OPs and bits: whatever else the limits measure."""
    measured = problem.cost(tuple(trial.system_attrs[GENOME_KEY])).measured
    return {name: value for name, value in measured.items() if name not in ("ops", "bits")}


def _generations(trials: Sequence[FrozenTrial], largest_cost: float) -> list[dict[str, Any]]:
    """What each generation had reached, all before it included."""
    rows = []
    for generation in sorted({generation_of(trial) for trial in trials}):
        points = [point_of(trial) for trial in trials if generation_of(trial) <= generation]
        rows.append(
            {
                "generation": generation,
                "candidates": len(points),
                "best_accuracy": max(point.accuracy for point in points),
                "hypervolume": hypervolume(points, largest_cost),
            }
        )
    return rows


def write_winners(
    document: Mapping[str, Any], problem: Problem, folder: Path, recipe: Mapping[str, Any]
) -> list[Path]:
    """One file for each member of the front, the most accurate first, in place of those that were there.

    A published network becomes a recipe to retrain it with, a genotype a genotype file.

    Args:
        recipe: that of the run, in plain types; its data, seed and `retrain` section are handed on.
    """
    shutil.rmtree(folder / WINNERS, ignore_errors=True)
    files = []
    data = problem.data
    images = {
        "in_channels": data.channels,
        "image_size": list(data.image_size),
        "num_classes": data.num_classes,
    }
    origin = {"split_hashes": data.split_hashes, "images": images}
    for place, row in enumerate(document["front"], start=1):
        genome = problem.space.genome_of(row["genome"])
        name = f"{recipe['name']}_winner_{place}"
        left_out = ("generation", "inactive", "file")
        found = {key: value for key, value in row.items() if key not in left_out}
        files.append(
            _write(
                problem.variant(genome),
                folder / WINNERS / str(place),
                name,
                recipe,
                found,
                origin,
                format_accuracy(document),
            )
        )
    return files


def _write(
    variant: Variant,
    stem: Path,
    name: str,
    recipe: Mapping[str, Any],
    found: Mapping[str, Any],
    origin: Mapping[str, Any],
    accuracy: str,
) -> Path:
    keys = ("runs", "seed", "device", "num_threads", "tensorboard", "plugins", "data", "retrain")
    settings = {"name": name, **{key: recipe[key] for key in keys}}
    if isinstance(variant, Genotype):
        # the settings of its network stand in its own space by now
        settings["retrain"] = {**settings["retrain"], "network": {}}
        provenance = {**variant.provenance, **origin, "recipe": settings, "evolution": dict(found)}
        file = stem.with_suffix(".json")
        write_atomic(file, variant.model_copy(update={"provenance": provenance}).to_json())
        return file
    settings["model"] = {"name": variant.name, **(variant.model_extra or {})}
    told = json.dumps(found)
    head = f"# Found by binas evolve; its candidate, {accuracy} and cost: {told}\n"
    file = stem.with_suffix(".yaml")
    write_atomic(file, head + dump_mapping(settings))
    return file


def points_by_generation(trials: Sequence[FrozenTrial]) -> dict[int, list[Point]]:
    """Feasible candidates, for the plot."""
    found: dict[int, list[Point]] = {}
    for trial in trials:
        if is_feasible(trial):
            found.setdefault(generation_of(trial), []).append(point_of(trial))
    return dict(sorted(found.items()))
