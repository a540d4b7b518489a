"""A worker: takes candidates from a study, judges them, hands the results in, until all are evaluated."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from binas.errors import UserError
from binas.evolve.evaluators.candidate import Judgement
from binas.evolve.problems.genome import Genome
from binas.evolve.sampler import GENOME_KEY, REFERENCE_KEY, EvolutionSampler
from binas.evolve.study.leases import Leases
from binas.evolve.study.storage import SharedStorage
from binas.profile.pareto import Point, hypervolume
from binas.run.progress import Stopwatch, eta, say

DIRECTIONS: tuple[Literal["maximize", "minimize"], ...] = ("maximize", "minimize")
"""Accuracy, then OPs."""
SETTINGS_KEY = "settings"
NOTE_KEY, SECONDS_KEY, BITS_KEY, LOSS_KEY = "note", "seconds", "bits", "loss"
WAIT = 0.5
"""Seconds between two looks at candidates that other workers still have."""
Judge = Callable[[Genome, int], Judgement]


def join_study(
    shared: SharedStorage,
    name: str,
    sampler: EvolutionSampler,
    settings: Mapping[str, Any],
    *,
    read: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
) -> Study:
    """The study of that name: made anew, or joined where other workers have begun it with the same settings.

    Args:
        shared: the storage.
        name: of the study.
        sampler: proposes candidates.
        settings: what all its workers agree in.
        read: takes settings that an earlier version has kept, and gives them as they are spelled now.
    Raises:
        UserError: it was begun with other settings.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with shared.lock():
        study = optuna.create_study(
            storage=shared.storage,
            sampler=sampler,
            study_name=name,
            directions=DIRECTIONS,
            load_if_exists=True,
        )
        begun = study.user_attrs.get(SETTINGS_KEY)
        if begun is None:
            study.set_user_attr(SETTINGS_KEY, dict(settings))
    begun = None if begun is None else read(begun)
    if begun is not None and begun != dict(settings):
        key = first_difference(begun, settings)
        raise UserError(
            f"study '{name}' in {shared.words} was begun with other settings: {key} differs; give the same"
            " recipe, or name another study",
            hint="study",
        )
    return study


def first_difference(first: Any, second: Any, key: str = "") -> str:
    """The dotted key of the first place where two nested values differ."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for name in dict.fromkeys([*first, *second]):
            if name not in first or name not in second or first[name] != second[name]:
                below = f"{key}.{name}" if key else str(name)
                return first_difference(first.get(name), second.get(name), below)
    return key


class Worker:
    """Evaluates candidates of a study until there are none left.

    Args:
        study: with an `EvolutionSampler`.
        shared: where the study lies.
        judge: gives the accuracy of a genome; called with the trial's number.
        costs: OPs and bits of a genome.
        violations: of each limit, at most 0 where it is kept.
        largest_cost: OPs where the hypervolume ends.
        lease_seconds: see `Leases`.
        seen: called with every complete trial once, in the order of their numbers.
    """

    def __init__(
        self,
        study: Study,
        shared: SharedStorage,
        judge: Judge,
        costs: Callable[[Genome], tuple[float, float]],
        violations: Callable[[Genome], Mapping[str, float]],
        largest_cost: float,
        lease_seconds: float,
        *,
        seen: Callable[[FrozenTrial], None] = lambda trial: None,
    ) -> None:
        assert isinstance(study.sampler, EvolutionSampler)
        self.study, self.sampler, self.judge = study, study.sampler, judge
        self.costs, self.violations, self.largest_cost = costs, violations, largest_cost
        self.leases = Leases(study, shared.lock, lease_seconds)
        self.seen, self.num_seen = seen, 0
        self.watch = Stopwatch()

    def run(self) -> int:
        """Works until every candidate has been evaluated, by whomever; gives how many were by this one."""
        own = 0
        self._report()
        while True:
            trial = self.leases.take()
            if trial is not None:
                own += self._evaluate(trial)
            elif self.leases.is_done():
                self._report()
                return own
            else:
                time.sleep(WAIT)  # others are at work on the last ones; they may die and leave them to us
            self._report()

    def _evaluate(self, trial: Trial) -> int:
        system = self.study._storage.get_trial_system_attrs(trial._trial_id)
        genome: Genome = tuple(system[GENOME_KEY])
        ops, bits = self.costs(genome)
        fits = True
        if REFERENCE_KEY not in system:  # what is there to compare with keeps no limits
            for name, excess in self.violations(genome).items():
                fits &= excess <= 0
                if name not in trial.constraints:
                    trial.set_constraint(name, excess)
        start = time.perf_counter()
        judgement = Judgement(0.0, None, "exceeds a limit, so it was not trained")
        if fits:
            with self.leases.kept(trial):
                judgement = self.judge(genome, trial.number)
        seconds = time.perf_counter() - start
        attributes = {
            BITS_KEY: bits,
            LOSS_KEY: judgement.loss,
            NOTE_KEY: judgement.note,
            SECONDS_KEY: seconds,
        }
        for key, value in attributes.items():
            trial.set_user_attr(key, value)
        told = self.leases.tell(trial, (judgement.accuracy, ops))
        if told is None:
            say(f"candidate {trial.number}: was given to another worker meanwhile; its result is left out")
            return 0
        self.watch.add()
        self._say(told, judgement)
        return 1

    def _say(self, trial: FrozenTrial, judgement: Judgement) -> None:
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        points = [point_of(t) for t in complete if is_feasible(t)]
        best = max((p.accuracy for p in points), default=float("nan"))
        reference = trial.system_attrs.get(REFERENCE_KEY)
        what = f"generation {generation_of(trial)}" if reference is None else f"{reference} everywhere"
        note = f" ({judgement.note})" if judgement.note else ""
        left = self.sampler.num_trials - len(complete)
        rate = self.watch.rate * 60
        accuracy, ops = trial.values
        say(
            f"candidate {trial.number + 1}/{self.sampler.num_trials}, {what}: accuracy {accuracy:.4f},"
            f" {ops:.4g} OPs{note}; best feasible {best:.4f}, hypervolume"
            f" {hypervolume(points, self.largest_cost):.4f}, {rate:.1f} evaluations/min,"
            f" {eta(self.watch.remaining(left))} left"
        )

    def _report(self) -> None:
        """Hands on the complete trials whose predecessors are complete too."""
        for trial in self.study.get_trials(deepcopy=False)[self.num_seen :]:
            if trial.state != TrialState.COMPLETE:
                return
            self.num_seen += 1
            self.seen(trial)


def generation_of(trial: FrozenTrial) -> int:
    """The generation that a candidate belongs to, from 0; −1 for a reference."""
    return int(trial.system_attrs.get(EvolutionSampler._get_generation_key(), -1))


def point_of(trial: FrozenTrial) -> Point:
    """A complete trial by accuracy and OPs."""
    accuracy, ops = trial.values
    return Point(accuracy, ops, trial.number)


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether it is a candidate, not a reference, and keeps all limits."""
    if REFERENCE_KEY in trial.system_attrs:
        return False
    return all(excess <= 0 for excess in trial.constraints.values())
