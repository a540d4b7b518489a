"""Operators of evolution against slow definitions and against pymoo's NSGA-II on the same toy objective."""

from __future__ import annotations

import random
import warnings
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.study import Study

from binas.errors import UserError
from binas.evolve.config import EvolveConfig, Operators
from binas.evolve.operators import (
    crossover,
    crowding,
    mutation,
    rank_and_crowding,
    ranks,
    roulette,
    survivors,
    tournament,
)
from binas.evolve.problems.genome import Gene, Genome, GenomeSpace
from binas.evolve.sampler import GENOME_KEY, EvolutionSampler
from binas.profile.pareto import Point, front, hypervolume

SPACE = GenomeSpace(tuple(Gene(f"ratios.{place}", (0.25, 0.5, 1.0, 2.0, 3.0, 4.0)) for place in range(6)))
COSTS = (1, 5, 2, 4, 3, 6)
GAINS = (3, 1, 4, 1, 5, 2)


def toy(genome: Genome) -> tuple[float, float]:
    """An accuracy that saturates in each gene, and a cost that does not."""
    accuracy = sum(gain * (1 - 0.45**place) for gain, place in zip(GAINS, genome, strict=True)) / sum(GAINS)
    return accuracy, float(sum(cost * place for cost, place in zip(COSTS, genome, strict=True)))


def study_of(sampler: EvolutionSampler) -> Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(sampler=sampler, directions=("maximize", "minimize"))


def evolved(config: EvolveConfig, seed: int, **more: Any) -> list[Any]:
    """All trials of an evolution of the toy."""
    study = study_of(EvolutionSampler(SPACE, config, seed, **more))
    for _ in range(config.evaluations):
        trial = study.ask(SPACE.distributions())
        study.tell(trial, list(toy(SPACE.genome_of(list(trial.params.values())))))
    return study.get_trials(deepcopy=False)


def pymoo_values(seed: int, count: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 2))


def pymoo_parts() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of its own imports
        module = pytest.importorskip("pymoo.operators.survival.rank_and_crowding")
        metrics = pytest.importorskip("pymoo.operators.survival.rank_and_crowding.metrics")
        sorting = pytest.importorskip("pymoo.util.nds.non_dominated_sorting")
    return module.RankAndCrowding, metrics.calc_crowding_distance, sorting.NonDominatedSorting


@pytest.mark.parametrize("seed", range(5))
def test_ranks_and_crowding_are_those_of_pymoo(seed: int) -> None:
    _, distance, sorting = pymoo_parts()
    values = pymoo_values(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, theirs = sorting().do(values, return_rank=True)
        first = values[theirs == 0]
        expected = distance(first)
    assert ranks(values).tolist() == theirs.tolist()
    np.testing.assert_allclose(crowding(first), expected, rtol=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_survivors_are_those_of_pymoo(seed: int, share: float) -> None:
    survival, _, _ = pymoo_parts()
    from pymoo.core.population import Population
    from pymoo.core.problem import Problem

    generator = np.random.default_rng(seed)
    values = pymoo_values(seed)
    excess = np.where(generator.random(len(values)) < share, generator.random(len(values)), -0.5)
    population = Population.new("F", values, "G", excess[:, None], "position", np.arange(len(values)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        problem = Problem(n_var=1, n_obj=2, n_ieq_constr=1)
        kept = survival().do(problem, population, n_survive=12, random_state=np.random.default_rng(0))
    penalties = np.maximum(excess, 0)
    fronts, distances = rank_and_crowding(values, penalties)

    def standing(positions: list[int]) -> list[tuple[int, float]]:
        return sorted((fronts[position], distances[position]) for position in positions)

    # both ends of a front stand equal, and pymoo draws one
    theirs = [int(one.get("position")) for one in kept]
    assert standing(survivors(values, penalties, 12)) == standing(theirs)


def test_ranks_are_what_the_definition_says() -> None:
    generator = np.random.default_rng(0)
    values = generator.integers(0, 5, (30, 2)).astype(float)
    penalties = np.maximum(generator.integers(-3, 3, 30), 0).astype(float)

    def dominates(a: int, b: int) -> bool:
        if penalties[a] or penalties[b]:
            return bool(penalties[a] < penalties[b])
        return bool((values[a] <= values[b]).all() and (values[a] < values[b]).any())

    left, expected, level = set(range(30)), [0] * 30, 0
    while left:
        best = {b for b in left if not any(dominates(a, b) for a in left)}
        for one in best:
            expected[one] = level
        left, level = left - best, level + 1
    assert ranks(values, penalties).tolist() == expected


def test_evolution_is_as_good_as_pymoos_nsga_ii_and_better_than_chance() -> None:
    """160 evaluations, ten seeds each; the standard deviation of one mean is about 0.006."""
    pymoo_parts()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = [best_of_pymoo(seed) for seed in range(10)]
    operators = Operators(crossover=0.9, mutate_crossed=True)
    config = EvolveConfig(evaluations=160, population=20, operators=operators)
    ours = [volume(evolved(config, seed)) for seed in range(10)]
    chance = [volume(evolved(config.model_copy(update={"strategy": "random"}), seed)) for seed in range(10)]
    assert np.mean(ours) > np.mean(theirs) - 0.01
    assert np.mean(ours) > np.mean(chance) + 0.02


def volume(trials: list[Any]) -> float:
    return hypervolume([Point(*trial.values) for trial in trials], toy((5,) * 6)[1])


def best_of_pymoo(seed: int) -> float:
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import ElementwiseProblem
    from pymoo.operators.crossover.ux import UniformCrossover
    from pymoo.operators.mutation.rm import ChoiceRandomMutation
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    seen: list[Point] = []

    class Toy(ElementwiseProblem):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(n_var=6, n_obj=2, xl=0, xu=5, vtype=int)
            self.vars = None

        def _evaluate(self, x: Any, out: Any, *args: Any, **kwargs: Any) -> None:
            accuracy, cost = toy(tuple(int(place) for place in x))
            seen.append(Point(accuracy, cost))
            out["F"] = [-accuracy, cost]

    class Mutation(ChoiceRandomMutation):  # type: ignore[misc]
        def _do(self, problem: Any, X: Any, random_state: Any = None, **kwargs: Any) -> Any:
            drawn = random_state.integers(0, 6, X.shape)
            return np.where(random_state.random(X.shape) < 0.1, drawn, X)

    algorithm = NSGA2(
        pop_size=20, sampling=IntegerRandomSampling(), crossover=UniformCrossover(), mutation=Mutation()
    )
    minimize(Toy(), algorithm, ("n_eval", 160), seed=seed)
    assert len(seen) == 160
    return hypervolume(seen, toy((5,) * 6)[1])


def test_front_and_hypervolume() -> None:
    points = [Point(0.5, 2, 0), Point(0.8, 4, 1), Point(0.4, 3, 2), Point(0.5, 2, 3), Point(0.9, 20, 4)]
    assert [p.number for p in front(points)] == [0, 1, 4]
    # by hand: 0.5 from cost 2 to 4, 0.8 from 4 to the end at 10; what costs 20 is outside
    assert hypervolume(points, 10) == pytest.approx((0.5 * 2 + 0.8 * 6) / 10)
    grid = np.linspace(0, 10, 20_001)[:-1]
    reached = [max((p.accuracy for p in points if p.cost <= cost), default=0.0) for cost in grid]
    assert hypervolume(points, 10) == pytest.approx(np.mean(reached), abs=1e-3)
    assert hypervolume([], 10) == 0


def test_crossover_takes_each_gene_from_a_parent() -> None:
    generator = random.Random(0)
    children = [crossover((0,) * 6, (1,) * 6, generator, 0.3) for _ in range(2000)]
    assert np.mean(children) == pytest.approx(0.3, abs=0.02)
    assert crossover((0,) * 6, (1,) * 6, generator, 0.0) == (0,) * 6


def test_mutation_changes_genes_to_other_choices_at_its_rate() -> None:
    generator = random.Random(0)
    children = [mutation((2,) * 6, SPACE, generator, 0.25) for _ in range(2000)]
    changed = [place for child in children for place in child if place != 2]
    assert len(changed) / 12_000 == pytest.approx(0.25, abs=0.02)
    shares = np.bincount(changed, minlength=6) / len(changed)
    assert shares[[0, 1, 3, 4, 5]] == pytest.approx([0.2] * 5, abs=0.03) and shares[2] == 0
    single = GenomeSpace((Gene("a", (1,)),))
    assert mutation((0,), single, generator, 1.0) == (0,)


def test_tournament_and_roulette_prefer_the_better() -> None:
    generator = random.Random(0)
    drawn = [tournament([0, 1, 1], [1.0, 5.0, 2.0], generator) for _ in range(3000)]
    # the best wins unless it is not drawn: 1 − (2/3)², the worst only against itself: 1/9
    assert np.bincount(drawn) / 3000 == pytest.approx([5 / 9, 3 / 9, 1 / 9], abs=0.03)
    drawn = [roulette([0.5, 0.6, 0.8], generator) for _ in range(3000)]
    assert np.bincount(drawn, minlength=3) / 3000 == pytest.approx([0, 0.25, 0.75], abs=0.03)
    assert roulette([0.5, 0.5], random.Random(1)) in (0, 1)


def test_nth_counts_all_genomes() -> None:
    space = GenomeSpace((Gene("a", (1, 2)), Gene("b", (1, 2, 3)), Gene("c", (5,))))
    assert space.size == 6
    assert len({space.nth(number) for number in range(6)}) == 6
    assert space.nth(1) == (0, 1, 0)
    assert space.uniform(2) is None and SPACE.uniform(2.0) == (3,) * 6


@pytest.mark.parametrize(
    "operators",
    [
        Operators(),
        Operators(selection="accuracy", parents=2, choice="uniform"),
        Operators(choice="roulette", penalty=0.5),
        Operators(crossover=1.0, swap=0.0, mutation=0.0, draws=3),
    ],
    ids=["nsga", "apq", "roulette", "copies"],
)
@pytest.mark.parametrize("strategy", ["evolution", "random"])
def test_no_genome_comes_twice(operators: Operators, strategy: Any) -> None:
    config = EvolveConfig(evaluations=60, population=6, operators=operators, strategy=strategy)
    trials = evolved(config, 3)
    assert len({tuple(trial.system_attrs[GENOME_KEY]) for trial in trials}) == 60


def test_a_whole_space_is_evaluated_once() -> None:
    space = GenomeSpace((Gene("a", (1, 2, 3)), Gene("b", (1, 2, 3, 4))))
    config = EvolveConfig(evaluations=12, population=3, operators=Operators(draws=2))
    study = study_of(EvolutionSampler(space, config, 0))
    for _ in range(12):
        trial = study.ask(space.distributions())
        study.tell(trial, [float(trial.params["a"]), float(trial.params["b"])])
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 12


def test_more_candidates_than_genomes_are_refused() -> None:
    space = GenomeSpace((Gene("a", (1, 2, 3)),))
    with pytest.raises(UserError, match=r"evolve.evaluations: 4 .* only 3; lower it to 3"):
        EvolutionSampler(space, EvolveConfig(evaluations=4), 0)


def test_limits_are_kept_where_they_can_be() -> None:
    def excess(genome: Genome) -> float:
        return toy(genome)[1] / 30 - 1

    for strategy in ("evolution", "random"):
        config = EvolveConfig(evaluations=60, population=6, strategy=strategy)
        trials = evolved(config, 0, violation=excess)
        assert max(trial.values[1] for trial in trials) <= 30
    impossible = evolved(EvolveConfig(evaluations=8, population=4), 0, violation=lambda g: 1 + toy(g)[1])
    cheap = [trial.values[1] for trial in impossible]
    assert np.mean(cheap) < 45, "the least violations are taken where none is possible"


def test_draws_depend_on_the_seed_and_the_number_only() -> None:
    config = EvolveConfig(evaluations=20, population=5)
    first, second, other = (
        [trial.system_attrs[GENOME_KEY] for trial in evolved(config, seed)] for seed in (1, 1, 2)
    )
    assert first == second != other


def test_infeasible_parents_lose_against_feasible_ones() -> None:
    sampler = EvolutionSampler(SPACE, EvolveConfig(evaluations=8, population=4), 0)
    study = study_of(sampler)
    for number in range(8):
        trial = study.ask(SPACE.distributions())
        trial.set_constraint("ops", 1.0 if number % 2 else -0.1)
        study.tell(trial, [0.9 if number % 2 else 0.1, 1.0])
        sampler.get_trial_generation(study, study.trials[-1])
    chosen = sampler.select_parent(study, 2)
    assert len(chosen) == 4
    assert all(trial.number % 2 == 0 for trial in chosen)
