"""The short training of a candidate, on the train split, and its accuracy on the search-validation split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from binas.binarize import set_progress
from binas.data.batches import Batches
from binas.data.open_data import Data
from binas.engine.acceleration import Acceleration
from binas.engine.loop import evaluate, evaluation_batches, train_epoch
from binas.errors import UserError
from binas.evolve.problems.genome import Genome
from binas.evolve.problems.problem import Problem, completed
from binas.run.seeds import derive_seed, seed_everything
from binas.train.objective import Objective
from binas.train.parts.building import check_parts
from binas.train.stage import RetrainConfig, StageConfig
from binas.train.stepper import Stepper


@dataclass(frozen=True)
class Judgement:
    """What an evaluation says of a candidate.

    Args:
        accuracy: on the search-validation split, in [0, 1].
        loss: there, in the same stage; None where training left the numbers.
        note: what a person should know.
    """

    accuracy: float
    loss: float | None
    note: str = ""


class ShortTraining:
    """Trains each candidate for a short time; what it draws depends on the seed and the trial's number only.

    Args:
        problem: what genomes stand for.
        config: the training.
        data: the images.
        seed: of weights, order and augmentation.
        device: where to train.
        start: gives a genome's network its first weights; None: fresh ones.
    """

    def __init__(
        self,
        problem: Problem,
        config: RetrainConfig,
        data: Data,
        seed: int,
        device: torch.device,
        *,
        start: Callable[[Genome, nn.Module], None] | None = None,
    ) -> None:
        self.problem, self.config, self.seed, self.device = problem, config, seed, device
        for place, stage in enumerate(config.stages):
            check_parts(stage, f"evolve.training.stages.{place}")
        self.start = start
        self.train = training_batches(data, config.batch_size, device, config.acceleration)
        self.validation = evaluation_batches(data.search_validation(), data, device)

    def __call__(self, genome: Genome, number: int) -> Judgement:
        """The accuracy of a genome's network; 0 where its training does not converge to numbers."""
        stages = completed(self.problem.variant(genome), self.problem.stages)
        seed_everything(self.seed, "candidate weights", number)
        network = self.problem.structure(genome, stages).build_network().to(self.device)
        if self.start is not None:
            self.start(genome, network)
        try:
            for stage in stages:
                self._stage(network, stage, number)
        except UserError as error:
            return Judgement(0.0, None, f"not trained to the end: {error}".splitlines()[0])
        result = evaluate(network, self.validation, stages[-1].loss)
        return Judgement(result["accuracy"], result["loss"])

    def _stage(self, network: nn.Module, stage: StageConfig, number: int) -> None:
        stage.apply(network)
        precision = self.config.acceleration.precision(self.device)
        micro_batch = self.config.micro_batch if isinstance(self.config.micro_batch, int) else None
        objective = Objective(stage, network, self.problem.data.num_classes)
        optimizer = stage.optimizer.build_for(network, objective.named_parameters().values())
        stepper: Stepper | None = None
        for epoch in range(stage.epochs):
            purpose = ("candidate", number, stage.name, epoch)
            seed_everything(self.seed, *purpose)
            set_progress(network, epoch / stage.epochs)
            objective.begin_epoch(epoch)
            stepper = Stepper(
                network,
                optimizer,
                stage,
                self.config,
                epoch,
                len(self.train),
                objective=objective,
                micro_batch=micro_batch,
                precision=precision,
            ).after(stepper)
            where = f"candidate {number}, {stage.name} epoch {epoch + 1}/{stage.epochs}"
            batches = self.train.epoch(derive_seed(self.seed, "order", *purpose))
            train_epoch(
                stepper,
                batches,
                len(self.train),
                where,
                check_interval=self.config.acceleration.check_interval,
            )
        set_progress(network, 1.0)


def training_batches(
    data: Data, batch_size: int, device: torch.device, acceleration: Acceleration
) -> Batches:
    """The train split, augmented; a last batch of a single image is left out: it has no statistics."""
    images = data.train()
    return Batches(
        images,
        batch_size,
        device,
        data.mean,
        data.std,
        augmentation=data.config.augmentation,
        drop_last=len(images) % batch_size == 1 and len(images) > 1,
        on_device=acceleration.data_on_device,
    )
