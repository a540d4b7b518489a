"""The search: a strategy's epochs over a space, ending in a front whose first genotype is recommended."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import binas.search.strategies  # noqa: F401 (its files register them)
from binas.arch.alphas import mean_entropy
from binas.arch.discretize import one_hot
from binas.arch.genotype import CELL_KINDS, AnyGenotype, Genotype, cell_edges, cells_only, parse_genotype
from binas.arch.kinds import AnySpace
from binas.arch.macro_space import MacroSpace
from binas.arch.supernet import Supernet
from binas.binarize import set_progress
from binas.data.batches import Batches
from binas.data.image_set import Images
from binas.data.open_data import Data
from binas.engine.data_parallel import check_replicas
from binas.engine.loop import EpochResult, evaluate, evaluation_batches, train_epoch
from binas.engine.memory_forecast import memory_guard, report_peak
from binas.engine.micro_batch import Batch
from binas.engine.scaling import format_rates, rate_values
from binas.plugins import PluginRecord, records_for
from binas.profile.measures import Limits
from binas.run.checkpoint import save_checkpoint
from binas.run.distributed import Distributed, broadcast_from_first, num_ranks, number_of_ranks, rank
from binas.run.files import write_atomic
from binas.run.folder import RunFolder
from binas.run.metrics import MetricsLog
from binas.run.progress import Stopwatch, eta, say, warn
from binas.run.seeds import derive_seed, seed_everything
from binas.search.collapse import collapse_warnings, largest_entropy, operation_counts
from binas.search.config import SearchConfig
from binas.search.decisions.base import Candidate, Found, front_document
from binas.search.limits import CostLimits
from binas.search.setting import SearchSetting
from binas.search.state import KIND, Builder, SearchState
from binas.search.strategies.base import Strategy, check_space, with_options
from binas.search.work import Work

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
        plugins: loaded plug-ins; those that space or search use anything of are recorded in genotypes.
        provenance: what every genotype says about where it comes from.
        tensorboard: whether to write TensorBoard data too.
        distributed: how ranks train together, where a launcher has started several.
        limits: what the network of the genotype that is handed on may cost, built as the space's `network`.
    """

    def __init__(
        self,
        space: AnySpace,
        config: SearchConfig,
        data: Data,
        *,
        seed: int,
        device: torch.device,
        plugins: tuple[PluginRecord, ...] = (),
        provenance: Mapping[str, Any] | None = None,
        tensorboard: bool = True,
        distributed: Distributed | None = None,
        limits: Limits | None = None,
    ) -> None:
        space.check_operations()
        check_space(config, space)
        self.space, self.config, self.seed = space, config, seed
        self.tensorboard, self.data = tensorboard, data
        self.plugins = records_for(space.registered_names(), plugins)
        limits = limits or Limits()
        self.provenance = dict(provenance or {})
        own = config.registered_names() | limits.registered_names()
        if parts := records_for(own, plugins):
            # what has found a genotype is told with it; what it is built from is needed to build it
            self.provenance["search_plugins"] = [record.model_dump(mode="json") for record in parts]
        self.sync_batch_norm = (distributed or Distributed()).sync_batch_norm
        self.device = device
        image_shape = (data.channels, *data.image_size)
        self.limits = CostLimits(limits, image_shape, data.num_classes)
        self.train_batches = self._shared_out(data.train(), data)
        self.validation_batches = self._shared_out(data.search_validation(), data)
        self.rate_alone: float | None = None
        """Images a second of one rank alone, to compare with."""
        self.first_epoch = 0
        self.history: list[dict[str, Any]] = []
        """What each epoch of this process has reached."""
        self.candidates: tuple[Candidate, ...] = ()
        """The genotype of each epoch, once the search is over."""
        self.setting = SearchSetting(
            space,
            config,
            self.limits,
            image_shape,
            data.num_classes,
            seed,
            device,
            len(self.train_batches),
            self.train_batches.largest,
            self.plugins,
        )
        self.strategy: Strategy = config.strategy.build(self.setting)
        self.start: SearchState | None = self.builder.fresh() if self.strategy.num_epochs else None
        """The state before the first epoch; None where nothing is trained."""

    @cached_property
    def builder(self) -> Builder:
        """Builds supernets of a space of cells."""
        shape, classes = self.setting.image_shape, self.setting.num_classes
        return Builder(
            self.setting.cells, self.config, shape[0], classes, self.seed, self.device, self.sync_batch_norm
        )

    def _shared_out(self, images: Images, data: Data) -> Batches:
        size = self.config.batch_size
        return Batches(
            images,
            size,
            self.device,
            data.mean,
            data.std,
            augmentation=data.config.augmentation,
            drop_last=len(images) > size,
            on_device=self.config.acceleration.data_on_device,
            part=(rank(), num_ranks()),
        )

    def run(self, folder: RunFolder | None = None) -> AnyGenotype:
        """The recommended genotype; goes on from a checkpoint where the folder has one.

        Args:
            folder: where `genotype.json`, `front.json`, checkpoints and metrics go; None: nothing is written.
        """
        state = self.start
        if state is not None:
            if folder is not None and broadcast_from_first(folder.checkpoint.exists()):
                state = self.builder.restored(folder.checkpoint)
                say(f"resumed the search after epoch {state.epoch}/{self.strategy.num_epochs}")
            writes = folder is not None and folder.is_written_here
            where = Path() if folder is None else folder.path
            log = MetricsLog(where, state.epoch, tensorboard=self.tensorboard, writes=writes)
            watch = Stopwatch()
            if doubt := self.strategy.doubt_before():
                warn(doubt)
            try:
                for epoch in range(self._enter(state), self.strategy.num_epochs):
                    with self._memory(epoch):
                        genotype = self._epoch(state, epoch, log, watch)
                    state = self._end_epoch(state, epoch, genotype, log, folder)
            finally:
                log.close()
        return self._decide(state, folder)

    def _enter(self, state: SearchState) -> int:
        """Hands a state over to the strategy; gives the epoch that is next."""
        self.strategy.start(state)
        self.strategy.load_state_dict(state.strategy)
        self.first_epoch = state.epoch
        return state.epoch

    def _epoch(self, state: SearchState, epoch: int, log: MetricsLog, watch: Stopwatch) -> Genotype:
        """Trains an epoch and logs it; gives the genotype as it stands then."""
        strategy, total = self.strategy, self.strategy.num_epochs
        description = f"{strategy.part(epoch)} epoch {epoch + 1}/{total}"
        seed_everything(self.seed, "search", epoch)
        strategy.begin_epoch(epoch)
        set_progress(state.supernet, epoch / total)
        result = train_epoch(
            _Steps(strategy, state),
            self._batches(epoch),
            len(self.train_batches),
            description,
            check_interval=self.config.acceleration.check_interval,
        )
        watch.add()
        state.epoch += 1
        probabilities = strategy.probabilities()
        genotype = strategy.genotype(probabilities)
        check_replicas(state.alphas, f"{description}: alphas and genotype", genotype.hash())
        state.seen.append(
            {
                "epoch": state.epoch,
                "accuracy": result.means.get("validation_accuracy"),
                "excess": self.limits.largest_excess(genotype),
                "genotype": genotype.to_json(),
            }
        )
        self._tell(epoch, log, watch, result, probabilities, genotype)
        return genotype

    def _end_epoch(
        self, state: SearchState, epoch: int, genotype: Genotype, log: MetricsLog, folder: RunFolder | None
    ) -> SearchState:
        """Changes the structure where the strategy says so, and writes what a search needs to go on."""
        if log.writes and folder is not None:
            file = folder.path / "genotypes" / f"epoch_{state.epoch:04d}.json"
            write_atomic(file, self._with_provenance(genotype, epoch=state.epoch).to_json())
        structure = self.strategy.end_epoch(epoch)
        if structure is not None:
            state = self.builder.restructured(
                state,
                structure.candidates,
                num_cells=structure.num_cells,
                reset_alphas=structure.reset_alphas,
            )
            self.strategy.start(state)
            say(f"{structure.reason}: {_format_structure(state)}")
        state.strategy = self.strategy.state_dict()
        log.flush()
        if log.writes and folder is not None:
            save_checkpoint(folder.checkpoint, KIND, state.structure(), state.tensors())
        return state

    @contextmanager
    def _memory(self, epoch: int) -> Iterator[None]:
        """Forecasts memory where a new part begins, and says what needs less where it runs out."""
        memory = self.strategy.memory(epoch)
        if memory is None:
            yield
            return
        with memory_guard(f"search, phase '{self.strategy.part(epoch)}'", memory.forecast, memory.remedies):
            forecast = None
            if epoch == self.first_epoch or self.strategy.begins(epoch):
                forecast, self.rate_alone = memory.prepare(), memory.rate_alone()
            yield
        if forecast is not None:
            report_peak(forecast, self.device)

    def _tell(
        self,
        epoch: int,
        log: MetricsLog,
        watch: Stopwatch,
        result: EpochResult,
        probabilities: Mapping[str, Tensor],
        genotype: Genotype,
    ) -> None:
        """Logs an epoch, and says what it reached."""
        strategy, total, part = self.strategy, self.strategy.num_epochs, self.strategy.part(epoch)
        seconds_left = watch.remaining(total - epoch - 1)
        entropy, figures = float(mean_entropy(probabilities)), strategy.figures()
        rates = rate_values(result.images_per_second, self.rate_alone)
        log.log(
            epoch,
            phase=part,
            **result.means,
            entropy=entropy,
            temperature=strategy.temperatures,
            **figures,
            genotype=genotype.hash(),
            operations=operation_counts(genotype),
            time={**rates, "seconds_left": seconds_left},
            **number_of_ranks(),
        )
        self.history.append({"step": epoch, "phase": part, **result.means, "entropy": entropy, **figures})
        if log.writes:
            self._show(log, epoch, probabilities, genotype)
        shown = " ".join(f"{name} {value:.4f}" for name, value in result.means.items())
        say(
            f"{part} epoch {epoch + 1}/{total}: {shown} entropy {entropy:.3f}"
            f" T {strategy.temperatures['normal']:.3g} genotype {genotype.hash()}, {format_rates(rates)},"
            f" {eta(seconds_left)} left"
        )
        if strategy.trains(epoch) != "weights" and strategy.state is not None:
            largest = largest_entropy(strategy.state.supernet.candidates)
            limits = self.config.collapse
            for warning in collapse_warnings(
                genotype, entropy, largest, limits, kind_of=self.setting.cells.kind_of
            ):
                warn(warning)

    def _decide(self, state: SearchState | None, folder: RunFolder | None) -> AnyGenotype:
        """Has the strategy choose; writes the front and its first member."""
        seen = [] if state is None else state.seen
        self.candidates = tuple(map(_candidate, seen))
        found = Found(
            self.setting,
            self.candidates,
            state,
            lambda genotype: self._accuracy(state, genotype),
            self._work(folder),
        )
        front = self.front = self.strategy.decide(found)
        if doubt := self.strategy.doubt_after():
            warn(doubt)
        best = front.recommended
        more = {"epoch": best.epoch} if best.epoch else {}
        recommended = self._with_provenance(best.genotype, **more, rule=front.rule)
        if exceeded := self.limits.summary(recommended):
            warn(f"no epoch's genotype kept the limits; the nearest exceeds {exceeded}")
        if folder is not None and folder.is_written_here:
            document = front_document(front, self.limits.costs, self._about(), max(len(seen), 1))
            write_atomic(folder.path / "front.json", json.dumps(document, indent=1) + "\n")
            for place, candidate in enumerate(
                front.candidates if self.strategy.evaluation == "alone" else ()
            ):
                text = self._with_provenance(candidate.genotype, rule=front.rule).to_json()
                write_atomic(folder.path / "front" / f"{place:02d}.json", text)
            write_atomic(folder.path / "genotype.json", recommended.to_json())
        return recommended

    def planned(self, seconds: float) -> SearchConfig:
        """The settings with options of the strategy with which the search ends in that time.

        Raises:
            UserError: the strategy cannot plan itself, or the time is too short.
        """
        return with_options(self.config, self.strategy.planned(seconds, self._work(None)))

    def predicted(self) -> Mapping[str, float]:
        """Seconds that each part of the search takes, from a measured step; empty: nobody knows before."""
        return self.strategy.predicted(self._work(None))

    def _work(self, folder: RunFolder | None) -> Work:
        """What a strategy trains with that trains in its own way."""
        path = folder.path if folder is not None and folder.is_written_here else None
        return Work(self.train_batches, self._validation_as_it_is, path, self.tensorboard)

    def _validation_as_it_is(self) -> Batches:
        images, on_device = self.data.search_validation(), self.config.acceleration.data_on_device
        return evaluation_batches(images, self.data, self.device, on_device=on_device)

    def _about(self) -> dict[str, Any]:
        """What a front says of the search."""
        return {
            "search": "macro" if isinstance(self.space, MacroSpace) else "cells",
            "strategy": self.config.strategy.name,
            "evaluation": self.strategy.evaluation,
            "seed": self.seed,
            "limits": self.limits.limits.model_dump(mode="json"),
            "objectives": ["search-validation accuracy, maximised", "OPs (FLOPs + BOPs/64), minimised"],
        }

    def _accuracy(self, state: SearchState | None, genotype: Genotype) -> float:
        """The accuracy of a genotype's operations alone in the supernet, on the search-validation images."""
        assert state is not None, "nothing was trained"
        weights = {kind: rows.to(self.device) for kind, rows in one_hot(genotype, self.setting.cells).items()}
        network = _Inherited(state.supernet, weights)
        return evaluate(network, self.validation_batches, self.config.loss)["accuracy"]

    def _batches(self, epoch: int) -> Iterator[tuple[Batch, Batch | None]]:
        train = self.train_batches.epoch(derive_seed(self.seed, "train", epoch))
        if self.strategy.trains(epoch) == "weights":
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

    def _with_provenance(self, genotype: AnyGenotype, **more: Any) -> AnyGenotype:
        return genotype.model_copy(update={"provenance": {**self.provenance, **genotype.provenance, **more}})

    def _show(
        self, log: MetricsLog, epoch: int, probabilities: Mapping[str, Tensor], genotype: Genotype
    ) -> None:
        is_last = epoch == self.strategy.num_epochs - 1
        if not self.tensorboard or (epoch % self.config.picture_interval and not is_last):
            return
        from binas.draw.figure import cell_image
        from binas.draw.heatmap import alpha_heatmap

        labels = [f"{source} to {node}" for node, source in cell_edges(self.setting.cells.num_nodes)]
        for kind in CELL_KINDS:
            values = probabilities[kind].numpy()
            picture = alpha_heatmap(
                values, labels, self.setting.cells.operations, numbers=values.size <= MAX_NUMBERS
            )
            log.image(epoch, f"alphas/{kind}", picture)
        log.image(epoch, "cells", cell_image(genotype))


class _Steps:
    """What an epoch's batches are handed to."""

    def __init__(self, strategy: Strategy, state: SearchState) -> None:
        self.strategy = strategy
        self.trained = (state.supernet, state.alphas)

    def step(self, batch: tuple[Batch, Batch | None]) -> tuple[int, Mapping[str, Tensor]]:
        train, validation = batch
        return len(train[1]), self.strategy.step(train, validation)


class _Inherited(nn.Module):
    """A supernet in which these edge weights stand still."""

    def __init__(self, supernet: Supernet, edge_weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.supernet, self.edge_weights = supernet, edge_weights

    def forward(self, images: Tensor) -> Tensor:
        """The logits. Shape: (N, C, H, W) -> (N, classes)."""
        logits: Tensor = self.supernet(images, self.edge_weights)
        return logits


def _candidate(row: Mapping[str, Any]) -> Candidate:
    source = "checkpoint: genotype of an epoch"
    genotype = cells_only(parse_genotype(row["genotype"], source), source)
    return Candidate(genotype, row["epoch"], row["accuracy"], row["excess"])


def _format_structure(state: SearchState) -> str:
    counts = [len(names) for kind in CELL_KINDS for names in state.supernet.candidates[kind]]
    return f"{state.supernet.settings.num_cells} cells, at most {max(counts)} operations on an edge"
