"""`binas evolve`: from a recipe, or from one and a genotype, to a Pareto front and its winners."""

from __future__ import annotations

import os
import platform
import re
import shlex
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binas.arch.genotype import Genotype, read_cells
from binas.cli.arguments import Arguments, run_options
from binas.cli.session import (
    Overrides,
    begin_run,
    device_of,
    loaded_plugins,
    open_run,
    plugin_words,
)
from binas.config import build, dump, find_file
from binas.data.opening import Data, open_data
from binas.errors import UserError
from binas.evolve.problems.opening import open_problem
from binas.evolve.problems.problem import Problem, Variant, reference_cost
from binas.ops import OPS
from binas.plugins import PluginRecord, require_plugins
from binas.recipe import Recipe, with_limits
from binas.run.folder import RunFolder
from binas.run.metrics import MetricsLog
from binas.run.progress import say

if TYPE_CHECKING:
    import torch
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from binas.evolve.study.worker import Judge

JOURNAL = "study.journal"
IDENTITY = ("seed", "data", "model", "evolve", "limits", "retrain")
"""Keys of a recipe in which all workers of a study agree."""


DESCRIPTION = """\
Writes a Pareto front of accuracy and operations; its networks are files for retrain.
With --storage any number of workers, on any machines, share one population."""
KEYS = "recipe"


def add_arguments(arguments: Arguments) -> None:
    """What the command takes."""
    arguments.add("recipe", nargs="?", metavar="CONFIG", help="the same as --config")
    arguments.add(
        "--genotype", metavar="FILE", help="a genotype whose cells are widened, in place of a model"
    )
    arguments.add("--random", action="store_true", help="short for --evolve.strategy random: the control")
    arguments.add(
        "--storage",
        metavar="FILE|URL",
        help="what workers share: a file, or postgresql://user:…@host/database",
    )
    arguments.add("--study", metavar="NAME", help="which population of the storage")
    run_options(arguments)


def run(options: Namespace, overrides: Overrides) -> int:
    """binas evolve"""
    if options.random:
        overrides["evolve.strategy"] = "random"
    config = options.config or options.recipe
    if options.storage is not None and "name" not in overrides and options.resume is None:
        overrides["name"] = _worker_name(options, config)
    recipe, resumed = open_run("evolve", options, overrides, config)
    if options.print_config:
        print(dump(recipe), end="")
        return 0
    if resumed is not None and options.storage is not None:
        raise UserError(
            "--resume is for a run with a storage of its own; with --storage start another worker"
        )
    plugins = loaded_plugins(options, recipe, resumed)
    file = options.genotype if resumed is None else _own_genotype(resumed)
    genotype = None if file is None else read_known_genotype(file, plugins)
    what = topology_of(recipe, genotype)
    device, data = device_of(recipe), open_data(recipe.data)
    if recipe.evolve.search == "joint":
        for place, stage in enumerate(recipe.retrain.stages):
            if stage.layers is not None:
                raise UserError(f"retrain.stages.{place}.layers: would undo the winners' bits; leave it out")
    problem = open_problem(recipe.evolve, what, recipe.retrain.network, data, plugins)
    problem.measure(recipe.limits)
    with begin_run(
        "evolve", recipe, resumed, options, device, data.split_hashes, plugins, genotype
    ) as folder:
        _Evolution(recipe, problem, what, data, device, folder, options).run()
        words = plugin_words(options, recipe)
        winner = next(iter(sorted((folder.path / "winners").glob("1.*"))), None)
        if winner is not None:
            say(f"next: {shlex.join([*_retrain_words(winner), *words])}")
    return 0


class _Evolution:
    """One worker's part of an evolution, with its run folder."""

    def __init__(
        self,
        recipe: Recipe,
        problem: Problem,
        what: Variant,
        data: Data,
        device: torch.device,
        folder: RunFolder,
        options: Namespace,
    ) -> None:
        self.recipe, self.problem, self.what, self.data = recipe, problem, what, data
        self.device, self.folder = device, folder
        self.where = options.storage or folder.path / JOURNAL
        self.study_name = options.study or (recipe.name if options.storage is None else "")
        if not self.study_name:
            raise UserError("--storage: name the study that its workers share, by --study NAME")
        self.largest_cost = reference_cost(problem)

    def run(self) -> None:
        """Evaluates candidates until there are none left, then writes what was found."""
        from binas.evolve.evaluators.judging import open_judge
        from binas.evolve.study.storage import open_storage
        from binas.evolve.study.worker import Worker

        with open_storage(self.where, self.study_name) as shared:
            study = self._study(shared)
            self._say_what(shared.words)
            # after the study: a recipe that does not fit it is told before anything is trained
            judge = open_judge(
                self.problem, self.recipe.evolve, self.data, self.recipe.seed, self.device, self.folder.path
            )
            with MetricsLog(self.folder.path, 0, tensorboard=self.recipe.tensorboard) as log:
                worker = Worker(
                    study,
                    shared,
                    judge,
                    self._cost,
                    self._violations,
                    self.largest_cost,
                    self.recipe.evolve.lease_seconds,
                    _Log(log, self.problem, self.largest_cost),
                )
                own = worker.run()
            say(f"all candidates are evaluated, {own} of them here")
            self._write(study, judge)

    def _say_what(self, where: str) -> None:
        evolve = self.recipe.evolve
        say(
            f"{evolve.search} search, {evolve.strategy}: {evolve.evaluations} candidates out of"
            f" {self.problem.space.size:.3g}, {len(self.problem.space.genes)} genes; study"
            f" '{self.study_name}' in {where}"
        )
        for name, about in self.problem.limits.about().items():
            say(f"{name} by " + ", ".join(f"{key} {value}" for key, value in about.items()))

    def _study(self, shared: Any) -> Study:
        from binas.evolve.sampler import EvolutionSampler
        from binas.evolve.study.worker import join_study

        evolve = self.recipe.evolve

        def excess(genome: tuple[int, ...]) -> float:
            return sum(max(value, 0.0) for value in self._violations(genome).values())

        references = self.problem.references if evolve.references else {}
        sampler = EvolutionSampler(
            self.problem.space, evolve, self.recipe.seed, excess, references, self._budget
        )
        settings = _identity(self.recipe)
        settings["topology"] = self.what.hash() if isinstance(self.what, Genotype) else self.what.words()
        settings["images"] = self.data.split_hashes
        # a table is the same one wherever it lies
        for name, about in self.problem.limits.about().items():
            entry = settings["limits"][name]
            if isinstance(entry, dict) and "table" in entry and "hash" in about:
                settings["limits"][name] = {**entry, "table": about["hash"]}
        return join_study(shared, self.study_name, sampler, settings, _as_spelled_now)

    def _violations(self, genome: tuple[int, ...]) -> dict[str, float]:
        """By how much, as a part of the limit, a genome exceeds each limit; at most 0 where it keeps it."""
        return self.problem.limits.excess_of(self.problem.cost(genome).measured)

    @property
    def _budget(self) -> float | None:
        return self.problem.limits.at_most.get("ops")

    def _cost(self, genome: tuple[int, ...]) -> tuple[float, float]:
        cost = self.problem.cost(genome)
        return cost.ops, cost.bits

    def _write(self, study: Study, judge: Judge) -> None:
        import json

        from binas.evolve.plots import save_plots
        from binas.evolve.report import front_document, points_by_generation, write_winners
        from binas.run.files import write_atomic

        trials = study.get_trials(deepcopy=False)
        evolve = self.recipe.evolve
        limits = self.problem.limits
        about = {
            "study": self.study_name,
            "search": evolve.search,
            "strategy": evolve.strategy,
            "evaluation": evolve.evaluation,
            "seed": self.recipe.seed,
            "limits": limits.at_most,
            **({"measures": limits.about()} if limits.about() else {}),
        }
        document = front_document(trials, self.problem, self.largest_cost, about)
        report = self._check_predictions(document, judge)
        files = write_winners(document, self.problem, self.folder.path, _plain(self.recipe))
        for row, file in zip(document["front"], files, strict=True):
            row["file"] = str(file.relative_to(self.folder.path))
        front = self.folder.path / "front.json"
        write_atomic(front, json.dumps(document, indent=1) + "\n")
        self.folder.add_to_manifest(
            results={"hypervolume": document["hypervolume"], "front": len(document["front"])}
        )
        pictures = save_plots(document, points_by_generation(trials), self.folder.path, report)
        shown = ", ".join(str(path) for path in pictures)
        say(
            f"hypervolume {document['hypervolume']:.4f}, {len(files)} networks on the front: {front}\n"
            f"drawn: {shown}"
        )
        if not files:
            keys = ", ".join(f"limits.{name}" for name in limits.at_most)
            say(f"no candidate keeps the limits: raise {keys}, or add smaller choices")

    def _check_predictions(self, document: dict[str, Any], judge: Judge) -> dict[str, Any] | None:
        """Measures the first members of a predicted front; gives the predictor's report."""
        from binas.evolve.evaluators.judging import PredictedAccuracy

        if not isinstance(judge, PredictedAccuracy):
            return None
        rows = document["front"][: self.recipe.evolve.predictor.measured]
        genomes = [self.problem.space.genome_of(row["genome"]) for row in rows]
        for row, judgement in zip(rows, judge.measured(genomes), strict=True):
            row["measured_accuracy"] = judgement.accuracy
            note = f" ({judgement.note})" if judgement.note else ""
            say(
                f"candidate {row['candidate']}: predicted {row['accuracy']:.4f}, measured"
                f" {judgement.accuracy:.4f}{note}"
            )
        return judge.report


class _Log:
    """Writes a line for each complete candidate, in the order of their numbers."""

    def __init__(self, log: MetricsLog, problem: Problem, largest_cost: float) -> None:
        self.log, self.problem, self.largest_cost = log, problem, largest_cost
        self.points: list[Any] = []

    def __call__(self, trial: FrozenTrial) -> None:
        from binas.evolve.pareto import hypervolume
        from binas.evolve.report import measured_of
        from binas.evolve.study.worker import generation_of, is_feasible, point_of

        point = point_of(trial)
        if is_feasible(trial):
            self.points.append(point)
        self.log.log(
            trial.number,
            generation=generation_of(trial),
            accuracy=point.accuracy,
            ops=point.cost,
            bits=trial.user_attrs.get("bits"),
            **measured_of(trial, self.problem),
            feasible=is_feasible(trial),
            best_accuracy=max((p.accuracy for p in self.points), default=None),
            hypervolume=hypervolume(self.points, self.largest_cost),
            genome=list(trial.params.values()),
            time={"seconds": trial.user_attrs.get("seconds")},
        )


def _identity(recipe: Recipe) -> dict[str, Any]:
    """What all workers of a study agree in; where a file lies and how long a lease is may differ."""
    settings = {key: value for key, value in _plain(recipe).items() if key in IDENTITY}
    settings["evolve"] = {k: v for k, v in settings["evolve"].items() if k != "lease_seconds"}
    for section, key in (("shared", "checkpoint"), ("predictor", "samples")):
        settings["evolve"][section] = {k: v for k, v in settings["evolve"][section].items() if k != key}
    return settings


def _as_spelled_now(begun: Mapping[str, Any]) -> dict[str, Any]:
    """What a study has kept, which an earlier version may have begun: newer keys have their defaults."""
    data = with_limits(begun, "study")
    recipe = build(Recipe, {key: data[key] for key in IDENTITY if key in data}, "study")
    return {**data, **_identity(recipe)}


def _plain(recipe: Recipe) -> dict[str, Any]:
    plain: dict[str, Any] = recipe.model_dump(mode="json")
    return plain


def topology_of(recipe: Recipe, genotype: Genotype | None) -> Variant:
    """What is evolved: the genotype, or the network that the recipe names."""
    if genotype is not None and recipe.model is not None:
        raise UserError(f"evolve: --genotype and model: {recipe.model.name} are two networks; leave one out")
    found = genotype or recipe.model
    if found is None:
        raise UserError(
            "evolve: which network? Set model: NAME in the recipe (binas models lists them), or give"
            " --genotype FILE or the name of a shipped one"
        )
    return found


def read_known_genotype(file: str | Path, plugins: tuple[PluginRecord, ...]) -> Genotype:
    """A genotype by file or shipped name, whose plug-ins are loaded."""
    path = find_file(file, "genotypes")
    genotype = read_cells(path, OPS)
    require_plugins(genotype.plugins, plugins, str(path))
    return genotype


def _own_genotype(folder: RunFolder) -> Path | None:
    file = folder.path / "genotype.json"
    return file if file.is_file() else None


def _worker_name(options: Namespace, config: str | None) -> str:
    """A run folder of its own for each worker of a shared study."""
    study = options.study or (Path(config).stem if config else "evolve")
    words = f"{study}_{platform.node() or 'host'}_{os.getpid()}"
    return re.sub(r"[^\w.-]", "_", words)


def _retrain_words(winner: Path) -> list[str]:
    flag = ["--config"] if winner.suffix == ".yaml" else []
    return ["binas", "retrain", *flag, str(winner)]
