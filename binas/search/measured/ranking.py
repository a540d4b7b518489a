"""Scores of genotypes by inherited weights: nothing is trained, batch-norm statistics are taken anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from binas.arch.genotype import AnyGenotype
from binas.arch.path_supernet import PathSupernet
from binas.binarize import set_precision, set_progress
from binas.data.batches import Batches
from binas.engine.batch_norm import take_statistics
from binas.engine.loop import evaluate
from binas.run.seeds import derive_seed


@dataclass(frozen=True)
class Score:
    """What a genotype reaches with inherited weights.

    Args:
        loss, accuracy: on the search-validation images.
    """

    loss: float
    accuracy: float


class Ranking:
    """Scores genotypes by the weights of a supernet.

    A genotype's own network gets a copy of its weights; its batch-norms see some batches of the train split;
    then it is evaluated. So a score costs the forward passes of that network over those images, and no more.

    Args:
        supernet: trained.
        calibration: batches of the train split.
        calibration_batches: how many of them each genotype sees.
        judged: the images that are judged by.
        loss: of logits and labels.
        seed: of the order in which training images come.
        binarize_activations, binarize_weights: what is binary while it is scored.
    Reference: Guo et al., Single Path One-Shot, arXiv:1904.00420, sec. 3.4 (statistics taken anew).
    """

    def __init__(
        self,
        supernet: PathSupernet,
        calibration: Batches,
        calibration_batches: int,
        judged: Batches,
        loss: Callable[[Tensor, Tensor], Tensor],
        seed: int,
        *,
        binarize_activations: bool = True,
        binarize_weights: bool = False,
    ) -> None:
        self.supernet, self.judged, self.loss = supernet, judged, loss
        self.binarized = (binarize_activations, binarize_weights)
        order = calibration.epoch(derive_seed(seed, "calibration"))
        # the same images for all, drawn once: scores are compared with each other
        self.images = [images for images, _ in islice(order, calibration_batches)]

    @torch.no_grad()
    def network(self, genotype: AnyGenotype) -> nn.Module:
        """A genotype's network with inherited weights and statistics of its own."""
        network = self.supernet.network(genotype).to(self.images[0].device)
        set_precision(network, *self.binarized)
        set_progress(network, 1.0)
        take_statistics(network, self.images)
        return network

    def __call__(self, genotype: AnyGenotype) -> Score:
        """The score of a genotype."""
        found = evaluate(self.network(genotype), self.judged, self.loss)
        return Score(found["loss"], found["accuracy"])


def kendall(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's τ_b of two rankings of the same things, in [−1, 1]; 0 where either is all ties.

    Reference: Kendall, A New Measure of Rank Correlation, Biometrika 30, 1938; τ_b as in SciPy.
    """
    from scipy.stats import kendalltau

    if len(set(first)) < 2 or len(set(second)) < 2:
        return 0.0
    return float(kendalltau(first, second).statistic)


def tau_error(number: int) -> float:
    """Standard error of Kendall's τ over so many things that are ranked by chance; infinite below two.

    √(2(2n + 5) / (9n(n − 1)))
    Reference: Kendall, A New Measure of Rank Correlation, Biometrika 30, 1938.
    """
    if number < 2:
        return math.inf
    return math.sqrt(2 * (2 * number + 5) / (9 * number * (number - 1)))


def better_score(taus: Mapping[str, float], number: int, least: float, prior: str) -> str | None:
    """Which of several scores is to choose genotypes, by what a few random ones say; None: none of them.

    One score is believed beforehand, since it costs nothing and nothing of it is fitted: it stays unless the
    random genotypes speak against it by two standard errors, or for another one by as much.

    Args:
        taus: of each score, over the random genotypes.
        number: how many these are.
        least: τ below which a score is not used.
        prior: the score that is believed; it need not be among them.
    """
    doubt = 2 * tau_error(number)
    others = {name: tau for name, tau in taus.items() if name != prior and tau >= least}
    best = max(others, key=lambda name: others[name], default=None)
    if prior not in taus or taus[prior] + doubt < least:
        return best
    return best if best is not None and others[best] > taus[prior] + doubt else prior
