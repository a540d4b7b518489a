"""The accuracy predictor: a small network from a genome, one-hot, to the accuracy of its candidate.

Wang et al., APQ, arXiv:2006.08509, sec. 3.2-3.3, and its released code. Deviations: depths are encoded too;
accuracies are brought to mean 0 and variance 1, anew for quantized samples.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binas.evolve.config import PredictorConfig
from binas.evolve.problems.genome import Genome
from binas.evolve.problems.joint import BITS, JointProblem
from binas.run.seeds import derive_seed, seed_everything


@dataclass(frozen=True)
class Samples:
    """Genomes and what was measured of them.

    Args:
        genomes: different ones.
        accuracies: of each, in [0, 1].
    """

    genomes: tuple[Genome, ...]
    accuracies: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.genomes)

    def at(self, places: Sequence[int]) -> Samples:
        """Those at some places."""
        return Samples(tuple(self.genomes[i] for i in places), tuple(self.accuracies[i] for i in places))


class Encoding:
    """Genomes as numbers: 1 for every choice that is taken, 0 for others and where a gene says nothing.

    Args:
        problem: tells which genes are.
        kinds: kinds of genes that are encoded.
    """

    def __init__(self, problem: JointProblem, kinds: Collection[str]) -> None:
        self.problem = problem
        self.places = [i for i, kind in enumerate(problem.space.kinds) if kind in kinds]
        self.size = sum(len(problem.genes[place].choices) for place in self.places)

    def __call__(self, genomes: Sequence[Genome]) -> Tensor:
        """Shape: N genomes -> (N, size)."""
        rows = []
        for genome in genomes:
            heard = self.problem.is_active(genome)
            row: list[float] = []
            for place in self.places:
                choices = range(len(self.problem.genes[place].choices))
                row += [float(heard[place] and choice == genome[place]) for choice in choices]
            rows.append(row)
        return torch.tensor(rows).reshape(len(genomes), self.size)


class AccuracyPredictor(nn.Module):
    """Linear layers with ReLU between them; what the bits say is added to the output of the first.

    Shape: (N, architecture), (N, bits) or None -> (N,).
    Reference: APQ's released code: three layers of 400, bits by a layer of their own beside the first.
    Deviation: that layer starts at zero, so that the transferred network begins with what it has learned.
    """

    def __init__(self, architecture: int, bits: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.first = nn.Linear(architecture, hidden[0])
        self.bits = nn.Linear(bits, hidden[0], bias=False)
        nn.init.zeros_(self.bits.weight)
        self.middle = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(hidden))
        self.last = nn.Linear(hidden[-1], 1)

    def forward(self, architecture: Tensor, bits: Tensor | None) -> Tensor:
        """See the class."""
        x = self.first(architecture)
        if bits is not None:
            x = x + self.bits(bits)
        for layer in self.middle:
            x = layer(F.relu(x))
        y: Tensor = self.last(F.relu(x)).squeeze(1)
        return y


class Prediction:
    """A predictor that has learned.

    Args:
        problem: what genomes stand for.
        config: its size and training.
        seed: of weights and order.
    """

    def __init__(self, problem: JointProblem, config: PredictorConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.bits = Encoding(problem, BITS)
        self.architecture = Encoding(problem, set(problem.space.kinds) - set(BITS))
        seed_everything(seed, "predictor")
        self.network = AccuracyPredictor(self.architecture.size, self.bits.size, config.hidden)
        self.mean, self.spread = 0.0, 1.0

    def learn(self, samples: Samples, with_bits: bool) -> None:
        """Trains on samples by the mean squared error of accuracies, brought to mean 0 and variance 1."""
        targets = torch.tensor(samples.accuracies)
        self.mean = float(targets.mean())
        self.spread = max(float(targets.std(correction=0)), 1e-6)
        targets = (targets - self.mean) / self.spread
        architecture = self.architecture(samples.genomes)
        bits = self.bits(samples.genomes) if with_bits else None
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.config.learning_rate)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "predictor order", with_bits))
        for _ in range(self.config.epochs):
            order = torch.randperm(len(samples), generator=generator)
            for some in torch.split(order, self.config.batch_size):
                optimizer.zero_grad(set_to_none=True)
                found = self.network(architecture[some], None if bits is None else bits[some])
                F.mse_loss(found, targets[some]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()

    @torch.no_grad()
    def __call__(self, genomes: Sequence[Genome], with_bits: bool = True) -> list[float]:
        """The accuracies that it expects; they may lie beyond [0, 1]."""
        bits = self.bits(genomes) if with_bits else None
        found = self.network(self.architecture(genomes), bits) * self.spread + self.mean
        accuracies: list[float] = found.tolist()
        return accuracies


def learned(
    problem: JointProblem, config: PredictorConfig, seed: int, real: Samples, quantized: Samples
) -> Prediction:
    """A predictor trained on real-valued candidates, where there are any, then on quantized ones."""
    prediction = Prediction(problem, config, seed)
    if len(real):
        prediction.learn(real, with_bits=False)
    prediction.learn(quantized, with_bits=True)
    return prediction


def split(samples: Samples, held_out: float, seed: int) -> tuple[Samples, Samples]:
    """Samples to learn from, and those that are held out."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "held out"))
    order = torch.randperm(len(samples), generator=generator).tolist()
    count = max(2, round(held_out * len(samples)))
    return samples.at(order[count:]), samples.at(order[:count])


def transfer_report(
    problem: JointProblem, config: PredictorConfig, seed: int, real: Samples, quantized: Samples
) -> dict[str, Any]:
    """How well predictors order candidates that they have not seen, by the number of samples they have seen.

    For each number, and for a predictor with and without real-valued samples before: Spearman's and Kendall's
    rank correlation with the measured accuracies of the held-out samples, mean and standard deviation over
    draws of the samples and of the weights. And what a predictor that has seen all others expects of these.
    """
    seen, held_out = split(quantized, config.held_out, seed)
    found: dict[tuple[int, bool], list[tuple[float, float]]] = {}
    for repeat in range(config.repeats):
        own = derive_seed(seed, "transfer", repeat)
        order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(own)).tolist()
        begun = Prediction(problem, config, own)
        if len(real):
            begun.learn(real, with_bits=False)
        for count in sample_counts(len(seen)):
            for is_transferred in (True, False) if len(real) else (False,):
                prediction = copy.deepcopy(begun) if is_transferred else Prediction(problem, config, own)
                prediction.learn(seen.at(order[:count]), with_bits=True)
                pair = rank_correlations(prediction(held_out.genomes), held_out.accuracies)
                found.setdefault((count, is_transferred), []).append(pair)
    rows = [
        {
            "samples": count,
            "transferred": is_transferred,
            "n": len(pairs),
            "spearman": _mean_std([pair[0] for pair in pairs]),
            "kendall": _mean_std([pair[1] for pair in pairs]),
        }
        for (count, is_transferred), pairs in found.items()
    ]
    return {
        "real_samples": len(real),
        "quantized_samples": len(quantized),
        "held_out": len(held_out),
        "rank_correlation": rows,
        "predictions": {
            "expected": learned(problem, config, seed, real, seen)(held_out.genomes),
            "measured": list(held_out.accuracies),
        },
    }


def rank_correlations(expected: Sequence[float], measured: Sequence[float]) -> tuple[float, float]:
    """Spearman's ρ and Kendall's τ; 0 where all numbers of one side are the same."""
    from scipy.stats import kendalltau, spearmanr

    if min(len(set(expected)), len(set(measured))) < 2:
        return 0.0, 0.0
    return float(spearmanr(expected, measured).statistic), float(kendalltau(expected, measured).statistic)


def sample_counts(largest: int) -> list[int]:
    """Numbers of samples to compare: an eighth, a quarter, a half of them, and all."""
    return sorted({max(2, round(largest / part)) for part in (8, 4, 2, 1)})


def _mean_std(values: Sequence[float]) -> dict[str, float]:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": spread}
