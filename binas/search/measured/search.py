"""The run of a measured search: supernet, probe, ranking, halving, front; it goes on where it was stopped."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from binas.arch.extremes import extremes
from binas.arch.genotype import AnyGenotype
from binas.arch.path_supernet import path_supernet, proxy_settings
from binas.arch.vary import crossover, mutation
from binas.engine.optimizer import Curve, OptimizerConfig
from binas.errors import UserError
from binas.profile.count import count
from binas.profile.pareto import Point, front, knee
from binas.run.progress import Stopwatch, eta, say, warn
from binas.run.seeds import derive_seed, seed_everything
from binas.search.decisions.base import Candidate, Front
from binas.search.measured.bins import Bins, Ranked, evolved, varied
from binas.search.measured.draw import FairDraw
from binas.search.measured.halving import halved
from binas.search.measured.memo import Memo
from binas.search.measured.ranking import Ranking, better_score, kendall
from binas.search.measured.schedule import Schedule
from binas.search.measured.supernet_training import SupernetSettings, SupernetTraining
from binas.search.measured.trials import Trials
from binas.search.work import Work

if TYPE_CHECKING:
    from binas.search.strategies.binas import Binas

ENOUGH_TO_TELL = 6
"""Random genotypes below which a rank correlation is not taken for more than chance."""
SUPERNET, PARAMETERS = "supernet", "number of parameters"
"""What may rank genotypes before any of them is trained alone."""
Score = Callable[[AnyGenotype], Ranked]
MAX_DRAWS = 100
"""Draws for each random genotype that is wanted; a small space may not have so many."""


class MeasuredSearch:
    """One search from its supernet to its front; what its files hold is not measured again."""

    def __init__(self, strategy: Binas, work: Work) -> None:
        self.strategy, self.work, self.setting = strategy, work, strategy.setting
        setting, folder = self.setting, work.folder
        self.trials = Trials(
            strategy.built,
            self._schedule(strategy.rungs[-1], strategy.rate),
            work.train,
            work.validation,
            setting.seed,
            folder,
        )
        self.scores = Memo(None if folder is None else folder / "scores.jsonl")
        self.generator = random.Random(derive_seed(setting.seed, "measured search"))
        self.costs: dict[str, dict[str, float]] = {}

    def _schedule(self, epochs: int, rate: float) -> Schedule:
        config = self.setting.config
        optimizer = OptimizerConfig(name="adam", learning_rate=rate)
        return Schedule(epochs, optimizer, Curve(), config.loss, config.acceleration)

    def front(self) -> Front:
        """Trains, ranks, halves."""
        try:
            ranking = self._ranking()
            drawn = self._drawn(self.strategy.random_finalists, [])
            bins = Bins.over([self.cost(genotype) for genotype in drawn], self.strategy.bins)
            score, taus = self._probe(ranking, drawn)
            if score is None:
                chosen = self._drawn(self.strategy.finalists, drawn)
            else:
                chosen = self._evolved(score, drawn, bins)
            return self._halved(chosen, drawn, bins, taus)
        finally:
            self.scores.close()
            self.trials.close()

    def cost(self, genotype: AnyGenotype) -> float:
        """What bins and the front go by."""
        costs = self._costs(genotype)
        if self.strategy.cost not in costs:
            known = ", ".join(sorted(set(costs) - {"work"}))
            raise UserError(
                f"search.strategy.cost: '{self.strategy.cost}' is not measured ({known}); name one of these,"
                " or name the measure in limits"
            )
        return costs[self.strategy.cost]

    def _costs(self, genotype: AnyGenotype) -> dict[str, float]:
        name = genotype.hash()
        if name not in self.costs:
            channels, height, width = self.setting.image_shape
            settings = proxy_settings(self.setting.space)
            proxy = count(genotype, (height, width), self.setting.num_classes, channels, settings)
            self.costs[name] = {
                **self.setting.limits.costs(genotype),
                "parameters": proxy.parameters,
                "work": proxy.flops + proxy.bops,
            }
        return self.costs[name]

    def _ranking(self) -> Ranking | None:
        """The trained supernet as a judge."""
        strategy, setting = self.strategy, self.setting
        if not strategy.supernet_epochs:
            return None
        seed_everything(setting.seed, "path supernet weights")
        supernet = path_supernet(setting.space, setting.image_shape[0], setting.num_classes)
        training = SupernetTraining(
            supernet.to(setting.device),
            SupernetSettings(
                self._schedule(strategy.supernet_epochs, strategy.supernet_rate),
                strategy.paths,
                extremes(setting.space) if strategy.sandwich else None,
            ),
            lambda generator: FairDraw(setting.space, generator, setting.plugins),
            self.work.train,
            setting.seed,
            {"space": setting.space.model_dump(mode="json"), "seed": setting.seed},
            file=None if self.work.folder is None else self.work.folder / "supernet.pt",
        )
        self._trained(training)
        return Ranking(
            supernet,
            self.work.train,
            strategy.calibration_batches,
            self.work.judged(strategy.judged_images),
            setting.config.loss,
            setting.seed,
        )

    def _trained(self, training: SupernetTraining) -> None:
        epochs = training.settings.schedule.epochs
        if training.epoch:
            say(f"resumed the search after epoch {training.epoch}/{epochs} of the supernet")
        log, watch = self.work.log(training.epoch), Stopwatch()
        try:
            while training.epoch < epochs:
                result = training.train_epoch()
                watch.add()
                left = watch.remaining(epochs - training.epoch)
                times = {"images_per_second": result.images_per_second, "seconds_left": left}
                log.log(training.epoch - 1, phase="supernet", **result.means, time=times)
                log.flush()
                shown = " ".join(f"{name} {value:.4f}" for name, value in result.means.items())
                say(
                    f"supernet epoch {training.epoch}/{epochs}: {shown},"
                    f" {result.images_per_second:.0f} images/s, {eta(left)} left"
                )
        finally:
            log.close()

    def _drawn(self, number: int, others: Sequence[AnyGenotype]) -> list[AnyGenotype]:
        """So many random genotypes within the limits, different from each other and from others."""
        known = {genotype.hash() for genotype in others}
        found: dict[str, AnyGenotype] = {}
        for _ in range(MAX_DRAWS * number):
            if len(found) == number:
                break
            genotype = self.setting.limits.draw(self.setting.space, self.generator, self.setting.plugins)
            if genotype.hash() not in known:
                found.setdefault(genotype.hash(), genotype)
        return list(found.values())

    def _score(self, ranking: Ranking, genotype: AnyGenotype) -> Ranked:
        name = genotype.hash()
        if name not in self.scores:
            score = ranking(genotype)
            self.scores.put(name, {"loss": score.loss, "accuracy": score.accuracy})
        return Ranked(genotype, self.scores[name]["loss"], self.cost(genotype))

    def _judged(self, genotype: AnyGenotype, rung: int) -> float:
        """The sum of training losses up to a rung of stand-alone training, the lower the better.

        Reference: Ru et al., Speedy Performance Estimation for NAS, arXiv:2006.04492.
        """
        return sum(self.trials.trained(genotype, rung).losses[:rung])

    def _probe(
        self, ranking: Ranking | None, drawn: Sequence[AnyGenotype]
    ) -> tuple[Score | None, dict[str, float]]:
        """What chooses finalists, and Kendall's τ of each score with what random genotypes reach at first.

        The score that `better_score` finds among those that are allowed; None where none ranks them.
        """
        rung = self.strategy.rungs[0]
        reached, watch = [], Stopwatch()
        for place, genotype in enumerate(drawn, start=1):
            reached.append(self._judged(genotype, rung))
            watch.add()
            if place in (1, len(drawn)):
                say(
                    f"random genotype {place}/{len(drawn)}: {rung} epochs alone, training losses"
                    f" {reached[-1]:.4f} in all, {eta(watch.remaining(len(drawn) - place))} left of these"
                )
        scores: dict[str, Score] = {PARAMETERS: self._by_parameters}
        if ranking is not None:
            scores = {SUPERNET: lambda genotype: self._score(ranking, genotype), **scores}
        wanted = self.strategy.score
        allowed = [name for name in scores if wanted in ("auto", name)]
        if len(drawn) < ENOUGH_TO_TELL:
            name = PARAMETERS if PARAMETERS in allowed else next(iter(allowed), None)
            return (None if name is None else scores[name]), {}
        taus = {
            name: kendall([score(genotype).loss for genotype in drawn], reached)
            for name, score in scores.items()
        }
        told = ", ".join(f"{name} {tau:.2f}" for name, tau in taus.items())
        text = f"Kendall's τ with {rung} epochs alone of {len(drawn)} random genotypes: {told}"
        least = self.strategy.least_tau
        best = better_score({name: taus[name] for name in allowed}, len(drawn), least, PARAMETERS)
        if not allowed:
            say(f"{text}; finalists are drawn at random")
        elif best is None:
            warn(f"{text}: the ranking means nothing here; random genotypes stand in for ranked ones")
        else:
            say(f"{text}; finalists are chosen by the {best}")
        return (None if best is None else scores[best]), taus

    def _by_parameters(self, genotype: AnyGenotype) -> Ranked:
        return Ranked(genotype, -self._costs(genotype)["parameters"], self.cost(genotype))

    def _evolved(self, score: Score, drawn: Sequence[AnyGenotype], bins: Bins) -> list[AnyGenotype]:
        """The best of each bin by a score."""
        strategy, setting, generator = self.strategy, self.setting, self.generator
        begun = [*drawn, *self._drawn(strategy.candidates, drawn)]
        watch = Stopwatch()
        ranked = [score(genotype) for genotype in begun]

        def told(number: int, pool: Sequence[Ranked]) -> None:
            watch.add()
            best = min(pool, key=lambda one: one.loss)
            shown = f"loss {best.loss:.4f}" if best.loss > 0 else f"{-best.loss:,.0f} parameters"
            say(
                f"round {number}/{strategy.rounds}: {len(pool)} genotypes ranked, the best has {shown}"
                f" at {best.cost:.4g} {strategy.cost}, {eta(watch.remaining(strategy.rounds - number))} left"
            )

        vary = varied(
            lambda one: mutation(
                one, setting.space, generator, strategy.mutation_rate, plugins=setting.plugins
            ),
            lambda one, two: crossover(one, two, setting.space, generator, plugins=setting.plugins),
            lambda one: not setting.limits.largest_excess(one),
            generator,
        )
        pool = evolved(
            ranked,
            bins,
            strategy.rounds,
            strategy.offspring,
            vary,
            score,
            told,
        )
        known = {genotype.hash() for genotype in drawn}
        new = [one for one in pool if one.genotype.hash() not in known]
        return [one.genotype for one in bins.best(new, strategy.finalists)]

    def _halved(
        self,
        chosen: Sequence[AnyGenotype],
        drawn: Sequence[AnyGenotype],
        bins: Bins,
        taus: Mapping[str, float],
    ) -> Front:
        """What stand-alone training leaves of all finalists, as a front."""
        strategy = self.strategy
        finalists = {genotype.hash(): genotype for genotype in (*chosen, *drawn)}
        groups: list[list[str]] = [[] for _ in range(len(bins))]
        for name, genotype in finalists.items():
            groups[bins.of(self.cost(genotype))].append(name)
        left, reached = halved(
            groups,
            strategy.rungs,
            strategy.keep,
            lambda name, rung: self._judged(finalists[name], rung),
            lambda name: self.trials.drop(finalists[name]),
        )
        self._tell_tau(reached)
        epochs = {name: max(at) for name, at in reached.items()}
        measured = {**self._measured(taus, epochs), "trained": self._told_of(finalists, drawn, epochs)}
        return self._front([finalists[name] for group in left for name in group], measured)

    def _told_of(
        self,
        finalists: Mapping[str, AnyGenotype],
        drawn: Sequence[AnyGenotype],
        epochs: Mapping[str, int],
    ) -> list[dict[str, Any]]:
        """A row for each genotype that was trained alone: how long, and what it reached."""
        at_random = {genotype.hash() for genotype in drawn}
        return [
            {
                "genotype": name,
                self.strategy.cost: self.cost(genotype),
                "epochs": epochs[name],
                "accuracy": self.trials.trained(genotype, epochs[name]).validation[epochs[name]][1],
                "chosen_by": "random" if name in at_random else "ranking",
            }
            for name, genotype in finalists.items()
        ]

    def _tell_tau(self, reached: Mapping[str, Mapping[int, float]]) -> None:
        """How well the supernet has ranked what was trained alone, at the first rung."""
        rung = self.strategy.rungs[0]
        both = [(self.scores[name]["loss"], at[rung]) for name, at in reached.items() if name in self.scores]
        if len(both) > 2:
            tau = kendall([score for score, _ in both], [loss for _, loss in both])
            say(f"the supernet's Kendall's τ over all {len(both)} finalists, {rung} epochs alone: {tau:.2f}")

    def _front(self, survivors: Sequence[AnyGenotype], measured: Mapping[str, Any]) -> Front:
        last = self.strategy.rungs[-1]
        found = {}
        for number, genotype in enumerate(survivors):
            loss, accuracy = self.trials.trained(genotype, last).validation[last]
            figures = {"validation_loss": loss}
            if genotype.hash() in self.scores:
                figures["supernet_loss"] = self.scores[genotype.hash()]["loss"]
            excess = self.setting.limits.largest_excess(genotype)
            point = Point(accuracy, self.cost(genotype), number)
            found[point] = Candidate(genotype, 0, accuracy, excess, figures)
        points = front(found)
        limited = bool(self.setting.limits.limits.at_most)
        best = points[-1] if limited else knee(points)
        candidates = [found[best], *(found[point] for point in points if point != best)]
        rule = "most accurate within the limits" if limited else "knee of the front"
        return Front(tuple(candidates), rule, measured)

    def _measured(self, taus: Mapping[str, float], trained: Mapping[str, int]) -> dict[str, Any]:
        """What the search has seen and spent, in multiply-accumulates of either precision."""
        strategy = self.strategy
        works = [self.costs[name]["work"] for name in trained]
        mean = sum(works) / len(works)
        images, judged = self.work.train.num_images, self.work.judged(strategy.judged_images).num_images
        calibration = strategy.calibration_batches * self.work.train.batch_size
        return {
            "kendall_tau": taus.get(SUPERNET),
            "kendall_tau_of_parameters": taus.get(PARAMETERS),
            "ranked": len(self.scores.values),
            "trained_alone": len(trained),
            "multiply_accumulates": {
                # a step costs about three forward passes; a path is taken to cost a finalist's mean
                "supernet": 3 * mean * images * strategy.supernet_epochs * strategy.paths_per_step,
                "ranking": mean * (calibration + judged) * len(self.scores.values),
                "training": sum(
                    3 * self.costs[name]["work"] * images * epochs for name, epochs in trained.items()
                ),
            },
        }
