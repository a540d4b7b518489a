"""The search: phases of bilevel steps over a space, ending in one recommended genotype."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from binas.arch.alphas import mean_entropy
from binas.arch.discretize import discretize
from binas.arch.genotype import CELL_KINDS, Genotype, cell_edges, cells_only, parse_genotype
from binas.arch.space import SearchSpace
from binas.binarize import set_progress
from binas.data.batches import Batches
from binas.data.image_set import Images
from binas.data.opening import Data
from binas.engine.data_parallel import check_replicas
from binas.engine.loop import train_epoch
from binas.engine.memory import memory_guard, report_peak
from binas.engine.micro_batch import Batch
from binas.engine.optimizer import set_learning_rate
from binas.engine.scaling import rate_values, rate_words
from binas.plugins import PluginRecord, records_for
from binas.run.checkpoint import save_checkpoint
from binas.run.distributed import Distributed, first_says, num_ranks, number_of_ranks, rank
from binas.run.files import write_atomic
from binas.run.folder import RunFolder
from binas.run.metrics import MetricsLog
from binas.run.progress import Stopwatch, eta, say, warn
from binas.run.seeds import derive_seed, seed_everything
from binas.search.collapse import collapse_warnings, largest_entropy, operation_counts
from binas.search.config import Phase, SearchConfig
from binas.search.limits import CostLimits
from binas.search.memory import StepMemory
from binas.search.state import KIND, Builder, SearchState
from binas.search.step import BilevelStep, StepOptions, diversity_weight

MAX_NUMBERS = 100
"""Squares of a heat map that get their number written in; more would only cost time."""


class Search:
    """Searches a space on a dataset's train and search-validation splits.

    Args:
        space: the search space.
        config: phases, optimizers and parts; its batches are those of all ranks together.
        data: the images; its test split is not touched.
        seed: of everything random.
        device: where to train.
        plugins: loaded plug-ins; those that the space uses anything of are recorded in genotypes.
        provenance: what every genotype says about where it comes from.
        tensorboard: whether to write TensorBoard data too.
        distributed: how ranks train together, where a launcher has started several.
    """

    def __init__(
        self,
        space: SearchSpace,
        config: SearchConfig,
        data: Data,
        seed: int,
        device: torch.device,
        plugins: tuple[PluginRecord, ...] = (),
        provenance: Mapping[str, Any] | None = None,
        tensorboard: bool = True,
        distributed: Distributed | None = None,
    ) -> None:
        space.check_operations()
        self.space, self.config, self.seed = space, config, seed
        self.tensorboard = tensorboard
        self.plugins = records_for(space.registered_names(), plugins)
        self.provenance = dict(provenance or {})
        self.builder = Builder(
            space,
            config,
            data.channels,
            data.num_classes,
            seed,
            device,
            (distributed or Distributed()).sync_batch_norm,
        )
        self.device, self.image_shape = device, (data.channels, *data.image_size)
        self.limits = CostLimits(config.limits, self.image_shape, data.num_classes)
        self.train_batches = self._shared_out(data.train(), data)
        self.validation_batches = self._shared_out(data.search_validation(), data)
        self.rate_alone: float | None = None
        """Images a second of one rank alone, to compare with."""
        self.start = self.builder.fresh()

    def _shared_out(self, images: Images, data: Data) -> Batches:
        size = self.config.batch_size
        return Batches(
            images,
            size,
            self.device,
            data.mean,
            data.std,
            data.config.augmentation,
            drop_last=len(images) > size,
            on_device=self.config.acceleration.data_on_device,
            part=(rank(), num_ranks()),
        )

    def run(self, folder: RunFolder) -> Genotype:
        """The recommended genotype, written to the folder as `genotype.json`; goes on from a checkpoint.

        Args:
            folder: where genotypes, checkpoints and metrics go.
        """
        genotype = self._random() if self.config.strategy == "random" else self._gradient(folder)
        if folder.is_written_here:
            write_atomic(folder.path / "genotype.json", genotype.to_json())
        return genotype

    def _random(self) -> Genotype:
        generator = random.Random(derive_seed(self.seed, "random_genotype"))
        drawn = self.limits.draw(self.space, generator, self.plugins)
        return self._with_provenance(drawn, rule="random")

    def _gradient(self, folder: RunFolder) -> Genotype:
        state = self.start
        if first_says(folder.checkpoint.exists()):
            state = self.builder.restored(folder.checkpoint)
            say(f"resumed the search after epoch {state.epoch}/{self.config.num_epochs()}")
        writes = folder.is_written_here
        log = MetricsLog(folder.path, state.epoch, tensorboard=self.tensorboard, writes=writes)
        watch = Stopwatch()
        first = state.epoch
        try:
            for phase, epoch_in_phase in list(self._schedule())[state.epoch :]:
                memory = self._memory(state, phase)
                with memory_guard(f"search, phase '{phase.name}'", memory.forecast, memory.remedies):
                    forecast = None
                    if state.epoch == first or epoch_in_phase == 0:
                        forecast, self.rate_alone = memory.prepare(), memory.rate_alone()
                    genotype = self._epoch(state, phase, log, watch)
                if forecast is not None:
                    report_peak(forecast, self.device)
                if writes:
                    name = f"epoch_{state.epoch:04d}.json"
                    write_atomic(folder.path / "genotypes" / name, genotype.to_json())
                if epoch_in_phase == phase.epochs - 1 and phase.end is not None:
                    state = self.builder.edited(state, phase.end, self.temperatures(state.epoch - 1))
                    say(f"end of phase '{phase.name}': {_edit_words(state)}")
                log.flush()
                if writes:
                    save_checkpoint(folder.checkpoint, KIND, state.structure(), state.tensors())
        finally:
            log.close()
        source = "checkpoint: recommended genotype"
        recommended = cells_only(parse_genotype(state.recommended, source), source)
        if exceeded := self.limits.words(recommended):
            warn(f"no epoch's genotype kept search.limits; the nearest exceeds {exceeded}")
        return recommended

    def _memory(self, state: SearchState, phase: Phase) -> StepMemory:
        return StepMemory(
            state,
            phase,
            self.config.phases.index(phase),
            self.config,
            self.temperatures(state.epoch),
            self.image_shape,
            self.train_batches.largest,
            self.device,
        )

    def _schedule(self) -> Iterator[tuple[Phase, int]]:
        for phase in self.config.phases:
            for epoch_in_phase in range(phase.epochs):
                yield phase, epoch_in_phase

    def temperatures(self, epoch: int) -> dict[str, float]:
        """T of each cell kind in an epoch of the search."""
        phase, epoch_in_phase = list(self._schedule())[epoch]
        if phase.temperature is None:
            alpha_epochs = self.config.alpha_epochs()
            schedule = self.config.temperature
            progress = sum(alpha_epochs[:epoch]) / max(sum(alpha_epochs) - 1, 1)
        else:
            schedule, progress = phase.temperature, epoch_in_phase / max(phase.epochs - 1, 1)
        return {"normal": schedule.normal.at(progress), "reduce": schedule.reduce.at(progress)}

    def diversity(self, epoch: int) -> float:
        """Weight of the mean entropy in an epoch of the search."""
        part = self.config.diversity
        return diversity_weight(part.weight, part.tau, sum(self.config.alpha_epochs()[:epoch]))

    def _epoch(self, state: SearchState, phase: Phase, log: MetricsLog, watch: Stopwatch) -> Genotype:
        epoch, total = state.epoch, self.config.num_epochs()
        seed_everything(self.seed, "search", epoch)
        temperatures = self.temperatures(epoch)
        step = BilevelStep(
            state.supernet,
            state.alphas,
            state.weight_optimizer,
            state.alpha_optimizer,
            self.config,
            temperatures,
            self.diversity(epoch),
            StepOptions(
                phase.relaxation,
                (self.seed, epoch),
                state.micro_batch,
                state.weight_precision,
                state.alpha_precision,
            ),
        )
        stepper = _Stepper(step, phase, self.config, epoch, len(self.train_batches))
        set_progress(state.supernet, epoch / total)
        description = f"{phase.name} epoch {epoch + 1}/{total}"
        result = train_epoch(
            stepper,
            self._batches(epoch, phase),
            len(self.train_batches),
            description,
            self.config.acceleration.check_interval,
        )
        watch.add()
        state.epoch += 1
        with torch.no_grad():
            probabilities = {k: p.cpu() for k, p in state.alphas.probabilities(temperatures).items()}
        genotype = self._with_provenance(discretize(probabilities, self.space, self.plugins), epoch=epoch + 1)
        check_replicas(state.alphas, f"{description}: alphas and genotype", genotype.hash())
        self._recommend(state, genotype, result.means)
        seconds_left = watch.remaining(total - state.epoch)
        entropy = float(mean_entropy(probabilities))
        rates = rate_values(result.images_per_second, self.rate_alone)
        log.log(
            epoch,
            phase=phase.name,
            **result.means,
            entropy=entropy,
            temperature=temperatures,
            diversity=step.diversity,
            learning_rate=stepper.learning_rate,
            genotype=genotype.hash(),
            operations=operation_counts(genotype),
            time={**rates, "seconds_left": seconds_left},
            **number_of_ranks(),
        )
        if log.writes:
            self._show(log, epoch, probabilities, genotype)
        shown = " ".join(f"{name} {value:.4f}" for name, value in result.means.items())
        say(
            f"{description}: {shown} entropy {entropy:.3f} T {temperatures['normal']:.3g} genotype"
            f" {genotype.hash()}, {rate_words(rates)}, {eta(seconds_left)} left"
        )
        if phase.trains != "weights":
            largest = largest_entropy(state.supernet.candidates)
            limits = self.config.collapse
            for warning in collapse_warnings(genotype, entropy, largest, limits, self.space.kind_of):
                warn(warning)
        return genotype

    def _batches(self, epoch: int, phase: Phase) -> Iterator[tuple[Batch, Batch | None]]:
        train = self.train_batches.epoch(derive_seed(self.seed, "train", epoch))
        if phase.trains == "weights":
            for batch in train:
                yield batch, None
            return
        validation = self._endless_validation(epoch)
        for batch in train:
            yield batch, next(validation)

    def _endless_validation(self, epoch: int) -> Iterator[Batch]:
        lap = 0
        while True:
            yield from self.validation_batches.epoch(derive_seed(self.seed, "validation", epoch, lap))
            lap += 1

    def _recommend(self, state: SearchState, genotype: Genotype, means: Mapping[str, float]) -> None:
        reached = means.get("validation_accuracy", -1.0)
        excess = self.limits.largest_excess(genotype)
        is_nearer = excess < state.best_excess
        if is_nearer or (
            excess == state.best_excess and (self.config.recommend == "last" or reached > state.best_accuracy)
        ):
            state.best_accuracy = reached if is_nearer else max(reached, state.best_accuracy)
            state.best_excess = excess
            state.recommended = self._with_provenance(genotype, rule=self.config.recommend).to_json()

    def _with_provenance(self, genotype: Genotype, **more: Any) -> Genotype:
        return genotype.model_copy(update={"provenance": {**self.provenance, **genotype.provenance, **more}})

    def _show(
        self, log: MetricsLog, epoch: int, probabilities: Mapping[str, Tensor], genotype: Genotype
    ) -> None:
        is_last = epoch == self.config.num_epochs() - 1
        if not self.tensorboard or (epoch % self.config.picture_interval and not is_last):
            return
        from binas.draw.figure import cell_image
        from binas.draw.heatmap import alpha_heatmap

        labels = [f"{source} to {node}" for node, source in cell_edges(self.space.num_nodes)]
        for kind in CELL_KINDS:
            values = probabilities[kind].numpy()
            picture = alpha_heatmap(values, labels, self.space.operations, numbers=values.size <= MAX_NUMBERS)
            log.image(epoch, f"alphas/{kind}", picture)
        log.image(epoch, "cells", cell_image(genotype))


class _Stepper:
    """What one position of the epoch's batches does, and the learning rate on the way."""

    def __init__(
        self, bilevel: BilevelStep, phase: Phase, config: SearchConfig, epoch: int, steps_per_epoch: int
    ) -> None:
        self.bilevel, self.phase, self.config = bilevel, phase, config
        self.trained = (bilevel.supernet, bilevel.alphas)
        self.done = epoch * steps_per_epoch
        self.total = config.num_epochs() * steps_per_epoch
        self.learning_rate = 0.0

    def step(self, batches: tuple[Batch, Batch | None]) -> tuple[int, Mapping[str, Tensor]]:
        train, validation = batches
        factor = self.config.learning_rate.factor(self.done / self.total)
        self.learning_rate = self.config.weights.learning_rate * factor
        set_learning_rate(self.bilevel.weight_optimizer, self.learning_rate)
        values: dict[str, Tensor] = {}
        if validation is not None:
            values |= self.bilevel.alpha_step(validation)
        if self.phase.trains != "alphas":
            values |= self.bilevel.weight_step(train)
        self.done += 1
        return len(train[1]), values


def _edit_words(state: SearchState) -> str:
    counts = [len(names) for kind in CELL_KINDS for names in state.supernet.candidates[kind]]
    return f"{state.supernet.settings.num_cells} cells, at most {max(counts)} operations on an edge"
