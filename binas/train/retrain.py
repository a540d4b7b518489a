"""Retraining: a genotype's network, or a published one, is trained from scratch, stage by stage.

Everything goes on bit for bit after an interruption: the state is stored after every epoch, and what is
random in an epoch is derived from the seed, the stage and the epoch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from binas.arch.genotype import AnyGenotype, Genotype
from binas.arch.kinds import space_of
from binas.arch.network import genotype_space
from binas.arch.space import NetworkSettings
from binas.arch.trunk import Trunk
from binas.binarize import binary_weights, restart_weight_binarizers, set_progress
from binas.config import build, merged
from binas.data.batches import Batches
from binas.data.open_data import Data
from binas.engine.data_parallel import check_replicas, take_from_first
from binas.engine.loop import evaluate, evaluation_batches, train_epoch
from binas.engine.memory_forecast import memory_guard, report_peak
from binas.engine.scaling import format_rates, rate_values
from binas.engine.step_memory import StepMemory
from binas.engine.sync_batch_norm import synchronise
from binas.errors import UserError
from binas.models import ModelChoice
from binas.plugins import PluginRecord, records_for
from binas.run.checkpoint import load_checkpoint, save_checkpoint
from binas.run.distributed import Distributed, broadcast_from_first, num_ranks, number_of_ranks, rank
from binas.run.folder import RunFolder
from binas.run.metrics import MetricsLog
from binas.run.optimizer_state import load_optimizer_state, optimizer_state
from binas.run.progress import Stopwatch, eta, say
from binas.run.seeds import derive_seed, seed_everything
from binas.train.flips import flip_ratio, weight_codes
from binas.train.model_file import KIND, ModelStructure, check_fits, load_weights, read_from
from binas.train.objective import Objective
from binas.train.parts.base import StagePart
from binas.train.parts.building import check_parts, parts_of
from binas.train.positive_share import PositiveShares
from binas.train.stage import RetrainConfig, StageConfig, different_choices
from binas.train.stage_memory import stage_memory
from binas.train.stepper import Stepper


@dataclass
class Position:
    """How far retraining has come: what comes next, and what the finished epochs gave."""

    stage: int = 0
    epoch: int = 0
    step: int = 0
    best_accuracy: float = -1.0
    epochs_since_best: int = 0
    stage_results: list[dict[str, Any]] = field(default_factory=list)
    micro_batch: int | None = None
    """Images computed at a time, as `auto` has chosen for this stage."""


class Retraining:
    """Trains a genotype's network, or a published one, through all stages of a recipe.

    Args:
        genotype: what to train: a genotype, or the choice of a published network.
        config: the recipe; its batches are those of all ranks together.
        data: the images; its test split is not touched.
        seed: of weights, order and augmentation.
        device: where to train.
        plugins: loaded plug-ins; those that the stages use are recorded in the checkpoint.
        tensorboard: whether to write TensorBoard data too.
        distributed: how ranks train together, where a launcher has started several.
    Raises:
        UserError: the recipe does not fit the genotype, or a stage's initial checkpoint is missing or of
            another network.
    """

    def __init__(
        self,
        genotype: AnyGenotype | ModelChoice,
        config: RetrainConfig,
        data: Data,
        *,
        seed: int,
        device: torch.device,
        plugins: tuple[PluginRecord, ...] = (),
        tensorboard: bool = True,
        distributed: Distributed | None = None,
    ) -> None:
        self.config, self.data, self.seed, self.device = config, data, seed, device
        self.tensorboard = tensorboard
        own = genotype if isinstance(genotype, ModelChoice) else space_of(genotype)
        self.stages = [stage.completed(own) for stage in config.stages]
        self.structure = _structure(genotype, config, self.stages, data, plugins)
        seed_everything(seed, "weights")
        self.network = self.structure.build_network().to(device)
        self.sync_batch_norm = (distributed or Distributed()).sync_batch_norm
        synchronise(self.network, self.sync_batch_norm)
        if isinstance(self.network, Trunk):
            self.network.checkpoint_cells = config.checkpoint_cells
        elif config.checkpoint_cells:
            raise UserError(
                "retrain.checkpoint_cells: this network has no cells; set false, or a micro_batch"
            )
        self.precision = config.acceleration.precision(device)
        self.plugins = plugins
        for place, stage in enumerate(self.stages):
            check_parts(stage, f"retrain.stages.{place}")
            if stage.starts_from is not None:
                check_fits(self.network, _initial_weights(stage.starts_from), stage.starts_from)
        train, validation = data.retrain(config.validation_fraction, config.validation_images == "last")
        self.train_batches = Batches(
            train,
            config.batch_size,
            device,
            data.mean,
            data.std,
            augmentation=data.config.augmentation,
            # a single image has no batch statistics where a layer's output is one pixel
            drop_last=len(train) % config.batch_size == 1 and len(train) > 1,
            on_device=config.acceleration.data_on_device,
            part=(rank(), num_ranks()),
        )
        self.validation_batches = evaluation_batches(validation, data, device) if len(validation) else None
        self.position = Position()
        self.rate_alone: float | None = None
        """Images a second of one rank alone, to compare with."""
        self.best_weights: dict[str, Any] | None = None
        """Of a training in memory, if its recipe keeps the best epoch's."""
        self.history: list[dict[str, Any]] = []
        """What each epoch of this process has reached."""
        self.optimizer: torch.optim.Optimizer | None = None
        self.objective: Objective | None = None
        self._stepper: Stepper | None = None

    def run(self, folder: RunFolder | None = None) -> dict[str, Any]:
        """Trains to the end, from the folder's checkpoint where there is one; gives what was reached.

        Args:
            folder: where checkpoints and metrics go; None: nothing is written, and `best_weights` holds the
                weights of the best epoch where `keep: best` asks for them.
        """
        resumed = folder is not None and broadcast_from_first(folder.checkpoint.exists())
        if folder is not None and resumed:
            self._restore(folder.checkpoint)
        for stage in self.stages[self.position.stage + 1 :]:
            self._objective(stage).close()  # a teacher that does not fit is told before any training
        writes = folder is not None and folder.is_written_here
        where = Path() if folder is None else folder.path
        log = MetricsLog(where, self.position.step, tensorboard=self.tensorboard, writes=writes)
        watch = Stopwatch()
        try:
            while self.position.stage < len(self.stages):
                stage = self.stages[self.position.stage]
                if not resumed or self.optimizer is None:
                    self._enter(stage)
                resumed = False
                with self._memory(stage) as memory:
                    self._train(stage, memory, log, watch, folder)
                self._leave(stage)
        finally:
            log.close()
        return {"stages": self.position.stage_results, "epochs": self.position.step}

    def _train(
        self,
        stage: StageConfig,
        memory: StepMemory,
        log: MetricsLog,
        watch: Stopwatch,
        folder: RunFolder | None,
    ) -> None:
        forecast = None
        if self.position.epoch < stage.epochs:
            forecast, self.position.micro_batch = memory.prepare(), memory.micro_batch
            self.rate_alone = memory.rate_alone()
        while self.position.epoch < stage.epochs and not self._on_plateau(stage):
            self._epoch(stage, log, watch)
            log.flush()
            if folder is None:
                if self._is_best:
                    self.best_weights = copy.deepcopy(self.network.state_dict())
            elif log.writes:
                if self._is_best:  # before the checkpoint: a kill in between repeats the epoch
                    self._save(folder.best)
                self._save(folder.checkpoint)
            if forecast is not None:
                report_peak(forecast, self.device)
                forecast = None

    @contextmanager
    def _memory(self, stage: StageConfig) -> Iterator[StepMemory]:
        assert self.optimizer is not None and self.objective is not None
        if self.position.micro_batch is None and self.config.micro_batch != "auto":
            self.position.micro_batch = self.config.micro_batch
        memory = stage_memory(
            self.network,
            self.optimizer,
            self.objective,
            stage,
            self.config,
            micro_batch=self.position.micro_batch,
            image_shape=(self.data.channels, *self.data.image_size),
            num_classes=self.structure.num_classes,
            batch_size=self.train_batches.largest,
            device=self.device,
        )
        with memory_guard(f"stage '{stage.name}'", memory.forecast, memory.remedies):
            yield memory

    def _enter(self, stage: StageConfig) -> None:
        number = self.position.stage + 1
        before = binary_weights(self.network)
        stage.apply(self.network)
        self.structure = self.structure.model_copy(update={"stage": stage})
        carried = "weights and batch-norm statistics of the stage before" if number > 1 else "nothing"
        if stage.starts_from is not None:
            load_weights(self.network, _initial_weights(stage.starts_from), stage.starts_from)
            carried = f"weights and batch-norm statistics of {stage.starts_from}"
            before = binary_weights(self.network) if _binarizes_alike(stage.starts_from, stage) else {}
        restart_weight_binarizers(self.network, before)
        parts = parts_of(stage)
        if any(type(part).first_batch is not StagePart.first_batch for part in parts.values()):
            order = derive_seed(self.seed, "order", stage.name, 0)
            images = next(iter(self.train_batches.epoch(order)))[0]
            done = [part.first_batch(self.network, images) for part in parts.values()]
            carried = ", ".join([carried, *filter(None, done)])
        self.objective = self._objective(stage, parts)
        take_from_first(self.network, self.objective.trained)
        self.optimizer = stage.optimizer.build_for(self.network, self.objective.named_parameters().values())
        say(
            f"stage {number}/{len(self.stages)} '{stage.name}': {stage.format_precision()};"
            f" carried over: {carried}; reset: optimizer state, learning rate"
            f" {stage.optimizer.learning_rate:g}, batch_norm_decay {stage.batch_norm_decay:g}"
        )

    def _epoch(self, stage: StageConfig, log: MetricsLog, watch: Stopwatch) -> None:
        position = self.position
        assert self.optimizer is not None and self.objective is not None
        seed_everything(self.seed, "retrain", stage.name, position.epoch)
        set_progress(self.network, position.epoch / stage.epochs)
        before = binary_weights(self.network)
        binary = self.objective.begin_epoch(position.epoch)
        restart_weight_binarizers(self.network, before)
        codes = weight_codes(self.network)
        order = derive_seed(self.seed, "order", stage.name, position.epoch)
        stepper = self._stepper = Stepper(
            self.network,
            self.optimizer,
            stage,
            self.config,
            position.epoch,
            len(self.train_batches),
            objective=self.objective,
            micro_batch=self.position.micro_batch,
            precision=self.precision,
        ).after(self._stepper)
        description = f"{stage.name} epoch {position.epoch + 1}/{stage.epochs}"
        result = train_epoch(
            stepper,
            self.train_batches.epoch(order),
            len(self.train_batches),
            description,
            check_interval=self.config.acceleration.check_interval,
        )
        check_replicas(self.network, f"{description}: the weights")
        values = {f"train_{name}": value for name, value in result.means.items()}
        flips = flip_ratio(codes, weight_codes(self.network))
        values |= binary if flips is None else {**binary, "flip_ratio": flips}
        set_progress(self.network, (position.epoch + 1) / stage.epochs)
        if self.validation_batches is not None:
            shares = PositiveShares(self.network if self.config.log_positive_share else None)
            with shares:
                validation = evaluate(self.network, self.validation_batches, stage.loss)
            values |= {f"validation_{name}": value for name, value in validation.items()} | shares.figures()
        self._count_plateau(values)
        watch.add()
        left = self._epochs_left()
        rates = rate_values(result.images_per_second, self.rate_alone)
        log.log(
            position.step,
            stage=stage.name,
            epoch=position.epoch,
            **values,
            learning_rate=stepper.learning_rate,
            time={**rates, "seconds_left": watch.remaining(left - 1)},
            **number_of_ranks(),
        )
        shown = " ".join(f"{name} {value:.4f}" for name, value in values.items())
        time_left = eta(watch.remaining(left - 1))
        say(f"{description}: {shown}, {format_rates(rates)}, {time_left} left")
        self.history.append({"step": position.step, "stage": stage.name, **values})
        position.epoch += 1
        position.step += 1
        done = [result for result in position.stage_results if result["stage"] != stage.name]
        position.stage_results = [*done, {"stage": stage.name, "epochs": position.epoch, **values}]

    def _leave(self, stage: StageConfig) -> None:
        position = self.position
        say(f"stage '{stage.name}' ends after {position.epoch} epochs")
        position.stage += 1
        position.epoch, position.best_accuracy, position.epochs_since_best = 0, -1.0, 0
        position.micro_batch, self.optimizer = None, None
        self.precision = self.config.acceleration.precision(self.device)
        if self.objective is not None:
            self.objective.close()
            self.objective, self._stepper = None, None

    def _save(self, path: Path) -> None:
        assert self.optimizer is not None and self.objective is not None
        save_checkpoint(
            path,
            KIND,
            self.structure.model_dump(mode="json"),
            {
                "model": self.network.state_dict(),
                "optimizer": optimizer_state(self.optimizer, self._trained()),
                "objective": self.objective.state(),
                "position": vars(self.position),
                "precision": self.precision.state_dict(),
            },
        )

    def _restore(self, path: Path) -> bool:
        checkpoint = load_checkpoint(path, KIND)
        self.position = Position(**checkpoint.state["position"])
        stage = self.stages[self.position.stage]
        stage.apply(self.network)
        self.structure = self.structure.model_copy(update={"stage": stage})
        load_weights(self.network, checkpoint.state["model"], path)
        stage.begin_epoch(self.network, max(self.position.epoch - 1, 0))
        self.objective = self._objective(stage)
        self.objective.load(checkpoint.state.get("objective", {}), path)
        self.optimizer = stage.optimizer.build_for(self.network, self.objective.named_parameters().values())
        load_optimizer_state(self.optimizer, checkpoint.state["optimizer"], self._trained())
        self.precision.load_state_dict(checkpoint.state.get("precision"))
        say(f"resumed '{stage.name}' after epoch {self.position.epoch}/{stage.epochs}")
        return True

    def _trained(self) -> dict[str, nn.Parameter]:
        network = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        return network | ({} if self.objective is None else self.objective.named_parameters())

    def _objective(self, stage: StageConfig, parts: Mapping[str, StagePart] | None = None) -> Objective:
        seed_everything(self.seed, "teacher", stage.name)
        objective = Objective(
            stage,
            self.network,
            self.structure.num_classes,
            structure=self.structure,
            plugins=self.plugins,
            parts=parts,
        )
        synchronise(objective.trained, self.sync_batch_norm)
        return objective

    def _count_plateau(self, values: Mapping[str, float]) -> None:
        position = self.position
        reached = values.get("validation_accuracy", values["train_accuracy"])
        improved = reached > position.best_accuracy
        position.best_accuracy = max(reached, position.best_accuracy)
        position.epochs_since_best = 0 if improved else position.epochs_since_best + 1

    @property
    def _is_best(self) -> bool:
        is_last = self.position.stage == len(self.stages) - 1
        return self.config.keep == "best" and is_last and self.position.epochs_since_best == 0

    def _on_plateau(self, stage: StageConfig) -> bool:
        return stage.until_plateau is not None and self.position.epochs_since_best >= stage.until_plateau

    def _epochs_left(self) -> int:
        stages = self.stages[self.position.stage :]
        return sum(stage.epochs for stage in stages) - self.position.epoch


def _structure(
    genotype: AnyGenotype | ModelChoice,
    config: RetrainConfig,
    stages: Sequence[StageConfig],
    data: Data,
    plugins: tuple[PluginRecord, ...],
) -> ModelStructure:
    used = {name for stage in stages for name in stage.registered_names()}
    if isinstance(genotype, ModelChoice):
        used.add(genotype.name)
    choices = different_choices(stages)
    return ModelStructure(
        **_what_to_build(genotype, config),
        binarizations=tuple(binarization for binarization, _ in choices),
        layers=tuple(layers for _, layers in choices),
        plugins=records_for(used, plugins),
        data_plugins=records_for([data.config.name], plugins),
        auxiliary=config.auxiliary_weight > 0,
        **read_from(data),
        validation_fraction=config.validation_fraction,
        validation_images=config.validation_images,
        stage=stages[0],
    )


def _what_to_build(genotype: AnyGenotype | ModelChoice, config: RetrainConfig) -> dict[str, Any]:
    if isinstance(genotype, ModelChoice):
        if config.network:
            raise UserError(
                f"retrain.network: {', '.join(config.network)}: changes the network of a genotype; change a"
                " published one by its own options, model.KEY"
            )
        if config.drop_path and not genotype.model.has_cells:
            raise UserError(f"retrain.drop_path: '{genotype.name}' has no cells whose operations drop; set 0")
        return {"model": genotype}
    if not isinstance(genotype, Genotype):
        _refuse_keys_of_cells(config)
        return {"genotype": genotype.to_json()}
    space = genotype_space(genotype)
    settings = build(NetworkSettings, merged(space.network.model_dump(), config.network), "retrain.network")
    return {"genotype": genotype.to_json(), "settings": settings}


def _refuse_keys_of_cells(config: RetrainConfig) -> None:
    """Raises a `UserError` for a setting that a macro genotype's network cannot use."""
    keys = {
        "network": "the genotype says its own depth and widths; change its stages",
        "drop_path": "no operations of cells drop; set 0",
        "auxiliary_weight": "no cell carries the auxiliary head; set 0",
    }
    for key, why in keys.items():
        if getattr(config, key):
            raise UserError(f"retrain.{key}: is for genotypes of cells, not for a macro genotype: {why}")


def _binarizes_alike(path: Path, stage: StageConfig) -> bool:
    """Whether the network in a checkpoint had its weights binarized as a stage will have them."""
    found = load_checkpoint(path, KIND).structure.get("stage", {})
    wanted = stage.model_dump(mode="json")
    return all(found.get(key) == wanted[key] for key in ("binarize_weights", "binarization", "layers"))


def _initial_weights(path: Path) -> Any:
    return load_checkpoint(path, KIND).state.get("model")
