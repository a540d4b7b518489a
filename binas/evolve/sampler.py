"""The sampler: an Optuna genetic-algorithm sampler with the operators of the papers.

What it proposes for a trial depends on the seed, the trial's number, and the candidates that are complete
when it is asked; no random state is carried along. No genome is proposed twice.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseGASampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from binas.errors import UserError
from binas.evolve.config import EvolveConfig, Operators
from binas.evolve.operators import (
    Values,
    crossover,
    mutation,
    rank_and_crowding,
    roulette,
    survivors,
    tournament,
)
from binas.evolve.problems.genome import GeneChoice, Genome, GenomeSpace
from binas.run.seeds import derive_seed

GENOME_KEY = "genome"
REFERENCE_KEY = "reference"
Violation = Callable[[Genome], float]


class EvolutionSampler(BaseGASampler):
    """Proposes genomes: at random in the first generation, children of the best ones afterwards.

    A generation is complete after `population` candidates; workers that ask meanwhile add to it rather than
    wait. Parents are chosen once for each generation and kept in the study, so all workers share them. A
    child that is not new, or breaks a limit, is drawn again; see `Operators.draws`.

    Args:
        space: the genes.
        config: operators, population and number of evaluations.
        seed: of all draws.
        violation: how far a genome exceeds the limits, at most 0 where it keeps them; told before training.
        references: genomes that are evaluated after all others, whatever has been drawn before, by name.
        budget: OPs for which roulette takes the whole penalty; None: those of the costliest parent.
    """

    def __init__(
        self,
        space: GenomeSpace,
        config: EvolveConfig,
        seed: int,
        *,
        violation: Violation | None = None,
        references: Mapping[str, Genome] | None = None,
        budget: float | None = None,
    ) -> None:
        super().__init__(population_size=config.population)
        if space.size < config.evaluations:
            raise UserError(
                f"evolve.evaluations: {config.evaluations} different candidates are wanted, but there are"
                f" only {space.size}; lower it to {space.size}, or give more choices"
            )
        self.space, self.config, self.seed = space, config, seed
        self.violation = violation or (lambda genome: 0.0)
        self.references = dict(references or {})
        self.budget = budget

    @property
    def num_trials(self) -> int:
        """Evaluations and references together."""
        return self.config.evaluations + len(self.references)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All genes, whatever has been tried."""
        return self.space.distributions()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The genome of a trial; one that was put back keeps its own."""
        kept = trial.system_attrs.get(GENOME_KEY)
        genome = tuple(kept) if kept is not None else self._propose(study, trial)
        if kept is None:
            # as a whole, before single genes are written: a worker may die in between
            study._storage.set_trial_system_attr(trial._trial_id, GENOME_KEY, list(genome))
        return self.space.params(genome)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Genes are never drawn alone."""
        raise AssertionError(f"gene '{param_name}' was asked for by itself")

    def select_parent(self, study: Study, generation: int) -> list[FrozenTrial]:
        """The parents of a generation, out of the one before and its own parents."""
        pool = {trial.number: trial for trial in self.get_population(study, generation - 1)}
        pool |= {trial.number: trial for trial in self.get_parent_population(study, generation - 1)}
        trials = [pool[number] for number in sorted(pool)]
        operators = self.config.operators
        count = operators.parents or self.config.population
        values, penalties = minimised(study, trials), penalties_of(trials)
        if operators.selection == "accuracy":
            order = sorted(range(len(trials)), key=lambda i: (penalties[i], values[i, 0], i))[:count]
        else:
            order = survivors(values, penalties, count)
        return [trials[position] for position in order]

    def _propose(self, study: Study, trial: FrozenTrial) -> Genome:
        if trial.number >= self.config.evaluations:
            name = list(self.references)[trial.number - self.config.evaluations]
            study._storage.set_trial_system_attr(trial._trial_id, REFERENCE_KEY, name)
            return self.references[name]
        generation = self.get_trial_generation(study, trial)
        trials = study.get_trials(deepcopy=False)
        taken = {
            tuple(other.system_attrs[GENOME_KEY])
            for other in trials
            if GENOME_KEY in other.system_attrs and REFERENCE_KEY not in other.system_attrs
        }
        generator = random.Random(derive_seed(self.seed, "genome", trial.number))
        parents: list[FrozenTrial] = []
        if self.config.strategy == "evolution":
            parents = self.get_parent_population(study, generation)
        family = Family(self.space, self.config, study, parents, self.budget)
        return self._new(family, taken, generator)

    def _new(self, family: Family, taken: set[Genome], generator: random.Random) -> Genome:
        """A genome that is not taken, and keeps the limits if any is found that does."""
        least, best = float("inf"), None
        draws = self.config.operators.draws
        for draw in range(2 * draws):
            raw = family.child(generator) if draw < draws else self.space.random(generator)
            genome = self.space.canonical(raw)
            if genome in taken:
                continue
            violation = self.violation(genome)
            if violation <= 0:
                return genome
            if violation < least:
                least, best = violation, genome
        if best is not None:
            return best
        first = generator.randrange(self.space.size)
        numbers = ((first + step) % self.space.size for step in range(self.space.size))
        for number in numbers:
            genome = self.space.canonical(self.space.nth(number))
            if genome not in taken:
                return genome
        raise UserError(
            f"evolve.evaluations: {self.config.evaluations} different candidates are wanted, but there are"
            f" only {len(taken)}: other genomes stand for the same networks; lower it, or give more choices"
        )


class Family:
    """The parents of a generation and how they have children.

    Args:
        space: the genes.
        config: see `EvolutionSampler`.
        study: tells which objectives are maximised.
        parents: none means that children are drawn at random.
        budget: OPs for which roulette takes the whole penalty; None: those of the costliest parent.
    """

    def __init__(
        self,
        space: GenomeSpace,
        config: EvolveConfig,
        study: Study,
        parents: Sequence[FrozenTrial],
        budget: float | None = None,
    ) -> None:
        self.space, self.operators = space, config.operators
        # the storage hands cached parents out in another order than select_parent gave them in
        trials = sorted(parents, key=lambda trial: trial.number)
        self.genomes: list[Genome] = [tuple(trial.system_attrs[GENOME_KEY]) for trial in trials]
        if trials:
            values = minimised(study, trials)
            self.fronts, self.distances = rank_and_crowding(values, penalties_of(trials))
            self.fitness = fitness(values, self.operators, budget)

    def child(self, generator: random.Random) -> Genome:
        """A genome made of one or two parents."""
        operators = self.operators
        if not self.genomes:
            return self.space.random(generator)
        if generator.random() >= operators.crossover:
            return mutation(self._parent(generator), self.space, generator, operators.mutation)
        child = crossover(self._parent(generator), self._parent(generator), generator, operators.swap)
        rate = operators.mutation if operators.mutate_crossed else 0.0
        return mutation(child, self.space, generator, rate)

    def _parent(self, generator: random.Random) -> Genome:
        return self.space.filled(self._chosen(generator), generator)

    def _chosen(self, generator: random.Random) -> Genome:
        match self.operators.choice:
            case "tournament":
                return self.genomes[tournament(self.fronts, self.distances, generator)]
            case "roulette":
                return self.genomes[roulette(self.fitness, generator)]
            case "uniform":
                return generator.choice(self.genomes)


def fitness(values: Values, operators: Operators, budget: float | None) -> list[float]:
    """Accuracy less the penalty for OPs. Shape: (N, 2) minimised objectives -> N numbers."""
    costs = values[:, 1]
    whole = max(budget or float(costs.max()), 1e-9)
    found: list[float] = (-values[:, 0] - operators.penalty * costs / whole).tolist()
    return found


def minimised(study: Study, trials: Sequence[FrozenTrial]) -> Values:
    """The objectives of complete trials, all to be minimised. Shape: (N, M)."""
    signs = [-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in study.directions]
    return np.array([trial.values for trial in trials], dtype=np.float64) * signs


def penalties_of(trials: Sequence[FrozenTrial]) -> Values:
    """The sum of the limits' violations of every trial. Shape: (N,)."""
    return np.array([sum(max(v, 0.0) for v in trial.constraints.values()) for trial in trials], dtype=float)


def values_of(trial: FrozenTrial, space: GenomeSpace) -> tuple[GeneChoice, ...]:
    """What stands in a trial's genome."""
    return space.values(trial.system_attrs[GENOME_KEY])
