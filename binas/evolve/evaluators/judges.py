"""Who judges candidates: a short training, a part of the shared network, both, or a prediction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binas.data.open_data import Data
from binas.evolve.config import EvolveConfig
from binas.evolve.evaluators.candidate import Judgement, ShortTraining
from binas.evolve.evaluators.identity import samples_identity
from binas.evolve.evaluators.predictor import learned, transfer_report
from binas.evolve.evaluators.sampling import SampleFile
from binas.evolve.evaluators.shared import SharedNetwork
from binas.evolve.problems.genome import Genome
from binas.evolve.problems.joint import JointProblem
from binas.evolve.problems.problem import Problem
from binas.run.files import write_atomic
from binas.run.progress import say

if TYPE_CHECKING:
    import torch

    from binas.evolve.study.worker import Judge

SHARED_NETWORK = "shared_network.pt"
SAMPLES = "predictor_samples.jsonl"
REPORT = "predictor.json"


def open_judge(
    problem: Problem, config: EvolveConfig, data: Data, seed: int, device: torch.device, folder: Path
) -> Judge:
    """The judge that the settings name; what it needs is trained first, or read from its files.

    Args:
        problem: what genomes stand for.
        config: the `evolve` section.
        data: the images.
        seed: of everything that is drawn.
        device: where to train.
        folder: where files lie that the settings do not name.
    """
    if config.evaluation == "short":
        return ShortTraining(problem, config.training, data, seed, device)
    file = config.shared.checkpoint or folder / SHARED_NETWORK
    network = SharedNetwork(problem, config.shared, data, seed, device, file)
    network.train()
    if config.evaluation == "shared":
        return network
    tuning = ShortTraining(problem, config.training, data, seed, device, start=network.start)
    if config.evaluation == "tuned":
        return tuning
    assert isinstance(problem, JointProblem)
    return PredictedAccuracy(problem, config, network, tuning, seed, folder)


class PredictedAccuracy:
    """Judges by the predictor, after it has learned from samples; writes how far it can be trusted.

    Args:
        problem: what genomes stand for.
        config: the `evolve` section.
        network: the shared network, trained; judges samples without quantization.
        tuning: trains its parts with quantization for a short time.
        seed: of everything that is drawn.
        folder: where its report goes.
    """

    def __init__(
        self,
        problem: JointProblem,
        config: EvolveConfig,
        network: SharedNetwork,
        tuning: ShortTraining,
        seed: int,
        folder: Path,
    ) -> None:
        own, self.tuning = config.predictor, tuning
        identity = samples_identity(
            network.identity(), config.shared.calibration_batches, config.training, config.joint
        )
        self.samples = SampleFile(own.samples or folder / SAMPLES, problem, identity, seed)
        real = self.samples.drawn("real", own.real_samples, network.judge_as_shared)
        quantized = self.samples.drawn("quantized", own.quantized_samples, tuning)
        self.report: dict[str, Any] = transfer_report(problem, own, seed, real, quantized)
        write_atomic(folder / REPORT, json.dumps(self.report, indent=1) + "\n")
        self._say()
        self.prediction = learned(problem, own, seed, real, quantized)

    def __call__(self, genome: Genome, number: int) -> Judgement:
        """The accuracy that the predictor expects of a genome, within [0, 1]."""
        return Judgement(min(max(self.prediction([genome])[0], 0.0), 1.0), None)

    def measured(self, genomes: Sequence[Genome]) -> list[Judgement]:
        """What these genomes reach after a short training."""
        return self.samples.measured("quantized", genomes, self.tuning)

    def _say(self) -> None:
        for row in self.report["rank_correlation"]:
            where = "with" if row["transferred"] else "without"
            both = (
                f"{name} {row[name]['mean']:.3f} ± {row[name]['std']:.3f}" for name in ("spearman", "kendall")
            )
            say(
                f"predictor, {row['samples']} quantized samples, {where} transfer: {', '.join(both)}"
                f" on {self.report['held_out']} held-out ones (n = {row['n']})"
            )
