"""The `evolve` section of a recipe: what is varied, by which operators, and how candidates are judged."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from binas.config import Config, merged
from binas.engine.acceleration import Acceleration
from binas.engine.micro_batch import MicroBatch
from binas.engine.optimizer import OptimizerConfig
from binas.models.mobilenet_v2 import Bits
from binas.train.stage import RetrainConfig, StageConfig


def _changed_default(model: type[Config], value: Any, info: ValidationInfo) -> Any:
    """Changes laid over a field's default: {epochs: 2} keeps the other settings of ours."""
    if not isinstance(value, dict) or info.field_name is None:
        return value
    return merged(model.model_fields[info.field_name].default.model_dump(), value)


class Operators(Config):
    """How parents are chosen and children made from them.

    Defaults are NSGA-II's selection with the rates of APQ's released code.
    """

    selection: Literal["non_dominated", "accuracy"] = "non_dominated"
    """Who becomes a parent: the lowest fronts, widest apart first (NSGA-II); or the most accurate (APQ)."""
    parents: int | None = Field(None, ge=2)
    """Parents of a generation, taken from the last one and its own parents; null: as many as population."""
    choice: Literal["tournament", "uniform", "roulette"] = "tournament"
    """Which parent has a child: the better of two, any, or in proportion to accuracy less penalty."""
    penalty: float = Field(0.0, ge=0)
    """Of roulette: what the accuracy loses for the whole budget of OPs (limits.ops, or the costliest's)."""
    crossover: float = Field(0.5, ge=0, le=1)
    """Part of the children that have two parents; the others are mutations of one."""
    swap: float = Field(0.5, ge=0, le=1)
    """Probability with which a gene comes from the second parent."""
    mutation: float = Field(0.1, ge=0, le=1)
    """Probability with which a gene of a mutation changes."""
    mutate_crossed: bool = False
    """Whether children of two parents are mutation as well."""
    draws: int = Field(50, ge=1)
    """Children drawn until one is new and keeps the limits; then genomes at random, equally often."""

    def unused_keys(self) -> Iterator[tuple[str, str]]:
        """What only another choice, or a crossover, has."""
        if self.choice != "roulette" and self.is_set("penalty"):
            yield "penalty", f"choice '{self.choice}'"
        if self.crossover == 0:
            for key in ("swap", "mutate_crossed"):
                if self.is_set(key):
                    yield key, "crossover 0"
        if self.crossover == 1 and not self.mutate_crossed and self.is_set("mutation"):
            yield "mutation", "crossover 1 without mutate_crossed"


class WidthConfig(Config):
    """A search of widths: what multiplies the channels of each layer, or of each cell.

    Reference: Shen et al., Searching for Accurate Binary Neural Architectures, arXiv:1909.07378.
    """

    ratios: tuple[float, ...] = (0.25, 0.5, 1, 2, 3, 4)
    """Candidates, for every layer of a network with an option `ratios`, or every cell of a genotype."""

    @field_validator("ratios")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or value[0] <= 0 or list(value) != sorted(set(value)):
            raise ValueError("numbers above 0 are needed, ascending, each once")
        return value


class GroupConfig(Config):
    """A search of groups: of the 3×3 convolution of each block of a network with an option `groups`.

    Reference: Phan et al., Binarizing MobileNet via Evolution-based Searching, arXiv:2005.06305.
    Uncertain: the paper's own candidates; ours are powers of two.
    """

    groups: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Candidates; a block whose channels a candidate does not divide goes without it."""

    @field_validator("groups")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or value[0] < 1 or list(value) != sorted(set(value)):
            raise ValueError("numbers from 1 on are needed, ascending, each once")
        return value


class JointConfig(Config):
    """A search of architecture, channel pruning and bits at once, on a network with an option `stages`.

    Reference: Wang et al., APQ, arXiv:2006.08509, and its released code, whose candidates of depth and
        kernel these are. Deviation: there, width and pruning are one gene, in steps of eight channels.
    """

    depths: tuple[int, ...] = (2, 3, 4)
    """Blocks of a stage, up to as many as the network's own stage has."""
    kernels: tuple[Literal[3, 5, 7], ...] = (3, 5, 7)
    """Sizes of a block's depthwise convolution."""
    expansions: tuple[float, ...] = (4, 6)
    """Widths: middle channels of a block as a multiple of its input."""
    kept: tuple[float, ...] = (0.5, 0.75, 1.0)
    """Part of these channels that pruning leaves, the most important ones."""
    bits: tuple[Bits, ...] = (1, 2, 4, 8, "real")
    """Of weights and of activations, of a block's 1×1 convolutions and of its depthwise one."""

    @field_validator("depths", "kernels", "expansions", "kept", "bits")
    @classmethod
    def _ascending(cls, value: tuple[Bits, ...]) -> tuple[Bits, ...]:
        numbers = [math.inf if one == "real" else float(one) for one in value]
        if not numbers or numbers[0] <= 0 or numbers != sorted(set(numbers)):
            raise ValueError("choices above 0 are needed, ascending, each once")
        return value

    @field_validator("expansions")
    @classmethod
    def _expanded(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if value[0] <= 1:
            raise ValueError("widths are above 1: a block that does not expand is no part of one that does")
        return value

    @field_validator("kept")
    @classmethod
    def _a_part(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if value[-1] > 1:
            raise ValueError("a part of the channels is at most 1")
        return value


class SharedPhase(Config):
    """A part of the shared network's training in which some kinds of genes vary."""

    name: str
    """What it does."""
    varies: tuple[str, ...] = ()
    """Genes that are drawn at each step, by the first word of their names, e.g. kernel; the others have
    their costliest choice. None: the largest network is trained, which then teaches the phases to come."""
    epochs: int = Field(ge=1)
    """Passes over the training images."""
    learning_rate: float = Field(1.0, gt=0)
    """Multiplies that of the stage."""
    distillation: float = Field(1.0, ge=0)
    """Weight of the divergence from the largest network's outputs, beside the labels' loss."""


class SharedConfig(Config):
    """The network that all candidates are parts of: each step trains one that is drawn at random."""

    stage: StageConfig = StageConfig(name="shared", epochs=20, optimizer=OptimizerConfig(learning_rate=3e-3))
    """How it is trained."""
    phases: tuple[SharedPhase, ...] = ()
    """Which genes vary when, in place of the stage's epochs; none: all genes, all the time."""
    batch_size: int = Field(64, ge=1)
    """Images in a step."""
    micro_batch: MicroBatch = None
    """Images computed at a time, gradients adding up, all of one part; null: the whole batch."""
    acceleration: Acceleration = Acceleration()
    calibration_batches: int = Field(8, ge=1)
    """Batches from which a candidate's batch-norm statistics are taken anew before it is evaluated."""
    checkpoint: Path | None = None
    """Where it lies, or will lie, for workers that share a disk; null: in the run folder."""

    def unused_keys(self) -> Iterator[tuple[str, str]]:
        """Epochs that phases replace, and what only a trained largest network can teach."""
        if self.phases and self.is_set("stage.epochs"):
            yield "stage.epochs", "a training in phases"
        for place, phase in enumerate(self.phases):
            taught = any(not earlier.varies for earlier in self.phases[:place])
            if phase.is_set("distillation") and not taught:
                yield (
                    f"phases.{place}.distillation",
                    "a phase without one before it that trains the largest network",
                )

    @field_validator("stage", mode="before")
    @classmethod
    def _changes_to_the_default(cls, value: Any, info: ValidationInfo) -> Any:
        return _changed_default(cls, value, info)


class PredictorConfig(Config):
    """The network that predicts a candidate's accuracy from its genome.

    It learns from candidates in the shared network's own precision, which cost an evaluation each, and is
    then transferred to quantized ones, which cost a short training each (`evolve.training`).

    Reference: Wang et al., APQ, arXiv:2006.08509, and its released code (three layers of 400, 80 % for
        training).
    """

    real_samples: int = Field(400, ge=0)
    """Candidates that are evaluated without quantization; 0: no transfer."""
    quantized_samples: int = Field(100, ge=10)
    """Candidates that are trained for a short time and evaluated; they keep no limits, as the others do not,
    so that the predictor knows what lies around them."""
    hidden: tuple[int, ...] = Field((400, 400, 400), min_length=1)
    """Units of its layers."""
    epochs: int = Field(150, ge=1)
    """Passes over the samples, once for each kind."""
    batch_size: int = Field(32, ge=1)
    """Samples in a step."""
    learning_rate: float = Field(1e-3, gt=0)
    """Of Adam."""
    held_out: float = Field(0.2, gt=0, lt=1)
    """Part of the quantized samples that its rank correlation is measured on."""
    repeats: int = Field(5, ge=1)
    """Draws of so many training samples, for mean and standard deviation of the correlation."""
    samples: Path | None = None
    """Where they are kept, for workers that share a disk; null: in the run folder."""
    measured: int = Field(4, ge=0)
    """Members of the front, the most accurate first, that are trained for a short time in the end."""


class EvolveConfig(Config):
    """How a fixed topology is evolved; run by `binas evolve`."""

    search: Literal["width", "groups", "joint"] = "width"
    """What is varied."""
    strategy: Literal["evolution", "random"] = "evolution"
    """random: the control: as many genomes, drawn at random under the same limits."""
    evaluations: int = Field(48, ge=1)
    """Candidates in all, by all workers together."""
    population: int = Field(8, ge=2)
    """Candidates in a generation; the first one is drawn at random."""
    operators: Operators = Operators()
    references: bool = True
    """Whether uniform networks (×1 and ×2, or the same groups) are evaluated too, after all others."""
    evaluation: Literal["short", "shared", "tuned", "predicted"] = "short"
    """short: each candidate is trained for a short time; shared: it is a part of one trained network; tuned:
    that part is trained for a short time; predicted: a network that has seen such parts says its accuracy."""
    training: RetrainConfig = RetrainConfig(
        stages=(StageConfig(name="fully_binary", epochs=3, optimizer=OptimizerConfig(learning_rate=3e-3)),)
    )
    """The short training of a candidate, on the train split; its network is that of `retrain.network`."""
    shared: SharedConfig = SharedConfig()
    predictor: PredictorConfig = PredictorConfig()
    joint: JointConfig = JointConfig()
    width: WidthConfig = WidthConfig()
    groups: GroupConfig = GroupConfig()
    lease_seconds: float = Field(60.0, gt=0)
    """A worker on another machine that has shown no sign of life for so long loses its candidate."""

    @field_validator("training", mode="before")
    @classmethod
    def _changes_to_the_default(cls, value: Any, info: ValidationInfo) -> Any:
        return _changed_default(cls, value, info)

    @field_validator("training")
    @classmethod
    def _what_short_training_knows(cls, value: RetrainConfig) -> RetrainConfig:
        for position, stage in enumerate(value.stages):
            for key in ("teacher", "initial_checkpoint", "hashing", "until_plateau"):
                if getattr(stage, key) is not None:
                    raise ValueError(f"stages.{position}.{key}: a candidate's short training has none")
        for key in ("network", "drop_path", "auxiliary_weight", "checkpoint_cells"):
            if getattr(value, key):
                raise ValueError(f"{key}: a candidate's short training has none; leave it out")
        for key in ("keep", "validation_fraction", "validation_images", "log_positive_share"):
            if getattr(value, key) != RetrainConfig.model_fields[key].default:
                raise ValueError(
                    f"{key}: a candidate's short training ends with its last epoch and is judged on the"
                    " search-validation split (data.search_validation_fraction); leave it out"
                )
        if value.micro_batch == "auto":
            raise ValueError("micro_batch: give a number; a candidate's short training measures no memory")
        return value

    @field_validator("shared")
    @classmethod
    def _what_a_shared_network_knows(cls, value: SharedConfig) -> SharedConfig:
        for key in (
            "teacher",
            "initial_checkpoint",
            "hashing",
            "until_plateau",
            "compactness",
            "layerwise",
            "portions",
        ):
            if getattr(value.stage, key) is not None:
                raise ValueError(f"stage.{key}: a shared network's training has none")
        if value.stage.parts:
            raise ValueError("stage.parts: a shared network's training has none")
        if value.micro_batch == "auto":
            raise ValueError("micro_batch: give a number; a shared network's training measures no memory")
        if value.stage.optimizer.name == "bop":
            raise ValueError("stage.optimizer: bop flips whole layers; name another one")
        return value

    def unused_keys(self) -> Iterator[tuple[str, str]]:
        """Settings of another search, evaluation or strategy."""
        for key in ("width", "groups", "joint"):
            if key != self.search and self.is_set(key):
                yield key, f"search '{self.search}'"
        for key, evaluations in (
            ("training", ("short", "tuned", "predicted")),
            ("shared", ("shared", "tuned", "predicted")),
            ("predictor", ("predicted",)),
        ):
            if self.evaluation not in evaluations and self.is_set(key):
                yield key, f"evaluation '{self.evaluation}'"
        if self.strategy == "random":
            for name in Operators.model_fields:
                if name != "draws" and self.operators.is_set(name):
                    yield f"operators.{name}", "strategy 'random'"

    @model_validator(mode="after")
    def _genomes_say_the_precision(self) -> EvolveConfig:
        stages = {f"training.stages.{i}": stage for i, stage in enumerate(self.training.stages)}
        for place, stage in {**stages, "shared.stage": self.shared.stage}.items():
            for key in ("binarization", "layers"):
                if self.search == "joint" and getattr(stage, key) is not None:
                    raise ValueError(f"{place}.{key}: a joint search's genomes say the bits; leave it out")
        return self

    @model_validator(mode="after")
    def _prediction_has_bits(self) -> EvolveConfig:
        if self.evaluation == "predicted" and self.search != "joint":
            raise ValueError("evaluation: predicted: is for search: joint; take short, shared or tuned")
        return self

    @model_validator(mode="after")
    def _a_generation_fits(self) -> EvolveConfig:
        if self.operators.parents is not None and self.operators.parents > 2 * self.population:
            raise ValueError("operators.parents: more than a generation and its parents have")
        return self
