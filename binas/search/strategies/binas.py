"""The strategy of binas: a supernet of single paths ranks, stand-alone training decides; gives a front."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import nn

from binas.arch.genotype import AnyGenotype
from binas.arch.path_supernet import proxy_network
from binas.arch.sample import random_genotype
from binas.errors import UserError
from binas.run.distributed import num_ranks
from binas.search.config import OF_EVERY_STRATEGY
from binas.search.decisions.base import Found, Front
from binas.search.measured.plan import PRESETS, StepTimes, measured_times, predicted, within
from binas.search.measured.search import PARAMETERS, MeasuredSearch
from binas.search.setting import SearchSetting
from binas.search.strategies.base import Strategy, register_strategy
from binas.search.work import Work


@register_strategy("binas")
class Binas(Strategy):
    """Ranks genotypes by inherited weights, trains the best and random ones alone, and halves them.

    1. A supernet of single paths is trained: each step the network of one random genotype, real weights and
       binary activations, all choices equally often.
    2. `random_finalists` genotypes are drawn at random, scored by the supernet and trained alone up to the
       first rung. Kendall's τ of the two says whether the supernet ranks at all on this task.
       The number of parameters, which costs nothing, is held beside it.
    3. Parameters, unless the random genotypes speak against them or for the supernet by two standard errors
       of τ, find `finalists` more by evolution, the best of each bin of cost. Where neither ranks, so many
       are drawn at random instead, and that is told.
    4. All finalists are trained alone along one schedule; at each rung the better part of each bin goes on.
    5. What is left is the front: accuracy on the search-validation images against cost.

    Args:
        setting: what the search is about.
        supernet_epochs: passes over the train split; 0: there is no supernet.
        paths: genotypes in a step of the supernet.
        sandwich: whether each step's largest network teaches the smallest one and the drawn ones (macro
            spaces).
        supernet_rate, rate: of Adam, for the supernet and for stand-alone training; both fall as a cosine.
        calibration_batches: of the train split, for batch-norm statistics of a scored genotype.
        judged_images: search-validation images that a score is taken on; 0: all.
        candidates: random genotypes that evolution begins with.
        rounds, offspring: of evolution.
        mutation_rate: probability with which each choice of a parent is drawn anew.
        bins: ranges of cost that each have an elite and a share of the front.
        cost: what bins and front go by: ops, bits, parameters, or a measure that `limits` names.
        finalists, random_finalists: genotypes that are trained alone, ranked ones and random ones.
        rungs: epochs of stand-alone training at which is decided; the last one ends it.
        keep: part of each bin that goes on.
        score: what chooses finalists: `supernet` (the loss with inherited weights), `parameters` (their
            number), `auto` (parameters, until random genotypes speak for the supernet), or `none`.
        least_tau: τ below which a ranking is not used.
    Reference: Guo et al., Single Path One-Shot, arXiv:1904.00420; Lin et al., NAS-BNN, arXiv:2408.15484
        (elites by cost); Jamieson and Talwalkar, arXiv:1502.07943 (halving).
    Deviation: the first stand-alone rung of the random half decides whether ranking is used.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    evaluation: ClassVar[str | None] = "alone"
    uses: ClassVar[frozenset[str]] = OF_EVERY_STRATEGY
    spaces: ClassVar[frozenset[str]] = frozenset({"cell", "macro"})

    def __init__(
        self,
        setting: SearchSetting,
        *,
        supernet_epochs: int = 24,
        paths: int = 1,
        sandwich: bool = False,
        supernet_rate: float = 5e-3,
        rate: float = 1e-2,
        calibration_batches: int = 8,
        judged_images: int = 2048,
        candidates: int = 64,
        rounds: int = 4,
        offspring: int = 24,
        mutation_rate: float = 0.15,
        bins: int = 4,
        cost: str = "ops",
        finalists: int = 12,
        random_finalists: int = 12,
        rungs: tuple[int, ...] = (4, 8, 16),
        keep: float = 0.5,
        score: Literal["auto", "supernet", "parameters", "none"] = "auto",
        least_tau: float = 0.1,
    ) -> None:
        super().__init__(setting)
        at_least = {
            "supernet_epochs": (supernet_epochs, 0),
            "paths": (paths, 1),
            "calibration_batches": (calibration_batches, 1),
            "judged_images": (judged_images, 0),
            "candidates": (candidates, 0),
            "rounds": (rounds, 0),
            "offspring": (offspring, 0),
            "bins": (bins, 1),
            "finalists": (finalists, 0),
            "random_finalists": (random_finalists, 1),
        }
        for key, (value, least) in at_least.items():
            if value < least:
                raise UserError(f"search.strategy.{key}: at least {least} is needed, not {value}")
        if score == "supernet" and not supernet_epochs:
            raise UserError("search.strategy.score: supernet: there is none; give supernet_epochs above 0")
        if not rungs or list(rungs) != sorted(set(rungs)) or rungs[0] < 1:
            raise UserError(
                f"search.strategy.rungs: ascending epochs from 1 on are needed, not {list(rungs)}"
            )
        for key, share in (("keep", keep), ("mutation_rate", mutation_rate)):
            if not 0 < share < 1:
                raise UserError(f"search.strategy.{key}: a part between 0 and 1 is needed, not {share}")
        for key, step in (("supernet_rate", supernet_rate), ("rate", rate)):
            if not 0 < step < math.inf:
                raise UserError(f"search.strategy.{key}: a learning rate above 0 is needed, not {step}")
        self.supernet_epochs, self.paths, self.sandwich = supernet_epochs, paths, sandwich
        self.supernet_rate, self.rate = supernet_rate, rate
        self.calibration_batches, self.judged_images = calibration_batches, judged_images
        self.candidates, self.rounds, self.offspring = candidates, rounds, offspring
        self.mutation_rate, self.bins, self.cost = mutation_rate, bins, cost
        self.finalists, self.random_finalists = finalists, random_finalists
        self.rungs, self.keep, self.least_tau = tuple(rungs), keep, least_tau
        self.score = PARAMETERS if score == "parameters" else score

    @property
    def paths_per_step(self) -> int:
        """Networks that a step of the supernet computes."""
        return self.paths + (2 if self.sandwich else 0)

    def built(self, genotype: AnyGenotype) -> nn.Module:
        """A genotype's network with fresh weights, of the size at which genotypes are compared."""
        setting = self.setting
        channels, classes = setting.image_shape[0], setting.num_classes
        return proxy_network(genotype, setting.space, channels, classes).to(setting.device)

    def predicted(self, work: Work) -> Mapping[str, float]:
        """See `Strategy`."""
        return predicted(self, self._times(work), work.validation.num_images)

    def planned(self, seconds: float, work: Work) -> Mapping[str, Any]:
        """See `Strategy`."""
        return within(seconds, self._times(work), work.validation.num_images)

    def _times(self, work: Work) -> StepTimes:
        setting = self.setting
        return measured_times(
            self.built,
            lambda generator: random_genotype(setting.space, generator, setting.plugins),
            next(work.train.epoch(0)),
            len(work.train),
        )

    def decide(self, found: Found) -> Front:
        """The whole search."""
        if num_ranks() > 1:
            raise UserError("search.strategy: 'binas' runs in one process; start it without a launcher")
        return MeasuredSearch(self, found.work).front()
