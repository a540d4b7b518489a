"""An evolution from its settings to a Pareto front and its winners; what `binas evolve` runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from binas.arch.genotype import Genotype
from binas.data.open_data import Data
from binas.errors import UserError
from binas.evolve.config import EvolveConfig
from binas.evolve.problems.problem import Problem, Variant, reference_cost
from binas.run.metrics import MetricsLog
from binas.run.progress import say

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from binas.evolve.study.worker import Judge

JOURNAL = "study.journal"


class Evolution:
    """One worker's part of an evolution: candidates are proposed, judged, and the front is written.

    Args:
        config: the `evolve` section of a recipe.
        problem: what genomes stand for; its limits are measured already.
        what: the topology.
        data: the images; the test split is not touched.
        device: where to train.
        folder: where front, winners, pictures and metrics go.
        seed: of everything random.
        recipe: the settings in plain types; winners become recipes with its name, data, seed and `retrain`.
        identity: what all workers of the study agree in.
        storage: a file or an address that workers share; None: a journal in the folder.
        study: which population of the storage; the recipe's name where the storage is the folder's own.
        read: takes the identity of a study that an earlier version began, and spells it as it is now.
        tensorboard: whether to write TensorBoard data too.
    Raises:
        UserError: workers share a storage, and the study has no name.
    """

    def __init__(
        self,
        config: EvolveConfig,
        problem: Problem,
        what: Variant,
        data: Data,
        device: torch.device,
        folder: Path,
        *,
        seed: int,
        recipe: Mapping[str, Any],
        identity: Mapping[str, Any],
        storage: str | None = None,
        study: str | None = None,
        read: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
        tensorboard: bool = True,
    ) -> None:
        self.config, self.problem, self.what, self.data = config, problem, what, data
        self.device, self.folder, self.seed, self.tensorboard = device, folder, seed, tensorboard
        self.recipe, self.identity, self.read = recipe, identity, read
        self.where = storage or folder / JOURNAL
        self.study_name = study or (str(recipe["name"]) if storage is None else "")
        if not self.study_name:
            raise UserError("storage: its workers share a study, which needs a name", hint="study")
        self.largest_cost = reference_cost(problem)

    def run(self) -> dict[str, Any]:
        """Evaluates candidates until there are none left, writes what was found, and gives the front."""
        from binas.evolve.evaluators.judges import open_judge
        from binas.evolve.study.storage import open_storage
        from binas.evolve.study.worker import Worker

        with open_storage(self.where, self.study_name) as shared:
            study = self._study(shared)
            self._say_what(shared.words)
            # after the study: a recipe that does not fit it is told before anything is trained
            judge = open_judge(self.problem, self.config, self.data, self.seed, self.device, self.folder)
            with MetricsLog(self.folder, 0, tensorboard=self.tensorboard) as log:
                worker = Worker(
                    study,
                    shared,
                    judge,
                    self._cost,
                    self._violations,
                    self.largest_cost,
                    self.config.lease_seconds,
                    seen=_Log(log, self.problem, self.largest_cost),
                )
                own = worker.run()
            say(f"all candidates are evaluated, {own} of them here")
            return self._write(study, judge)

    def _say_what(self, where: str) -> None:
        evolve = self.config
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

        evolve = self.config

        def excess(genome: tuple[int, ...]) -> float:
            return sum(max(value, 0.0) for value in self._violations(genome).values())

        references = self.problem.references if evolve.references else {}
        sampler = EvolutionSampler(
            self.problem.space,
            evolve,
            self.seed,
            violation=excess,
            references=references,
            budget=self._budget,
        )
        settings = {**self.identity, "limits": dict(self.identity["limits"])}
        settings["topology"] = self.what.hash() if isinstance(self.what, Genotype) else self.what.summary()
        settings["images"] = self.data.split_hashes
        # a table is the same one wherever it lies
        for name, about in self.problem.limits.about().items():
            entry = settings["limits"][name]
            if isinstance(entry, dict) and "table" in entry and "hash" in about:
                settings["limits"][name] = {**entry, "table": about["hash"]}
        return join_study(shared, self.study_name, sampler, settings, read=self.read)

    def _violations(self, genome: tuple[int, ...]) -> dict[str, float]:
        """By how much, as a part of the limit, a genome exceeds each limit; at most 0 where it keeps it."""
        return self.problem.limits.excess_of(self.problem.cost(genome).measured)

    @property
    def _budget(self) -> float | None:
        return self.problem.limits.at_most.get("ops")

    def _cost(self, genome: tuple[int, ...]) -> tuple[float, float]:
        cost = self.problem.cost(genome)
        return cost.ops, cost.bits

    def _write(self, study: Study, judge: Judge) -> dict[str, Any]:
        from binas.evolve.plots import save_plots
        from binas.evolve.report import front_document, points_by_generation, write_winners
        from binas.run.files import write_atomic

        trials = study.get_trials(deepcopy=False)
        evolve = self.config
        limits = self.problem.limits
        about = {
            "study": self.study_name,
            "search": evolve.search,
            "strategy": evolve.strategy,
            "evaluation": evolve.evaluation,
            "seed": self.seed,
            "limits": limits.at_most,
            **({"measures": limits.about()} if limits.about() else {}),
        }
        document = front_document(trials, self.problem, self.largest_cost, about)
        report = self._check_predictions(document, judge)
        files = write_winners(document, self.problem, self.folder, self.recipe)
        for row, file in zip(document["front"], files, strict=True):
            row["file"] = str(file.relative_to(self.folder))
        front = self.folder / "front.json"
        write_atomic(front, json.dumps(document, indent=1) + "\n")
        pictures = save_plots(document, points_by_generation(trials), self.folder, report)
        shown = ", ".join(str(path) for path in pictures)
        say(
            f"hypervolume {document['hypervolume']:.4f}, {len(files)} networks on the front: {front}\n"
            f"drawn: {shown}"
        )
        if not files:
            keys = ", ".join(f"limits.{name}" for name in limits.at_most)
            say(f"no candidate keeps the limits: raise {keys}, or add smaller choices")
        return document

    def _check_predictions(self, document: dict[str, Any], judge: Judge) -> dict[str, Any] | None:
        """Measures the first members of a predicted front; gives the predictor's report."""
        from binas.evolve.evaluators.judges import PredictedAccuracy

        if not isinstance(judge, PredictedAccuracy):
            return None
        rows = document["front"][: self.config.predictor.measured]
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
        from binas.evolve.report import measured_of
        from binas.evolve.study.worker import generation_of, is_feasible, point_of
        from binas.profile.pareto import hypervolume

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
