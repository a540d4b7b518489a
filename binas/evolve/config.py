"""The `evolve` section of a recipe: what is varied, by which operators, and how candidates are judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from binas.config import Config, merged
from binas.train.optimizer import OptimizerConfig
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
    """Of roulette: what the accuracy loses for the whole budget of OPs (max_ops, or the costliest's)."""
    crossover: float = Field(0.5, ge=0, le=1)
    """Part of the children that have two parents; the others are mutations of one."""
    swap: float = Field(0.5, ge=0, le=1)
    """Probability with which a gene comes from the second parent."""
    mutation: float = Field(0.1, ge=0, le=1)
    """Probability with which a gene of a mutation changes."""
    mutate_crossed: bool = False
    """Whether children of two parents are mutated as well."""
    draws: int = Field(50, ge=1)
    """Children drawn until one is new and keeps the limits; then genomes at random, equally often."""


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


class SharedConfig(Config):
    """The network that all candidates are parts of: each step trains one that is drawn at random."""

    stage: StageConfig = StageConfig(name="shared", epochs=20, optimizer=OptimizerConfig(learning_rate=3e-3))
    """How it is trained."""
    batch_size: int = Field(64, ge=1)
    """Images in a step."""
    calibration_batches: int = Field(8, ge=1)
    """Batches from which a candidate's batch-norm statistics are taken anew before it is evaluated."""
    checkpoint: Path | None = None
    """Where it lies, or will lie, for workers that share a disk; null: in the run folder."""

    @field_validator("stage", mode="before")
    @classmethod
    def _changes_to_the_default(cls, value: Any, info: ValidationInfo) -> Any:
        return _changed_default(cls, value, info)


class EvolveConfig(Config):
    """How a fixed topology is evolved; run by `binas evolve`."""

    search: Literal["width", "groups"] = "width"
    """What is varied."""
    strategy: Literal["evolution", "random"] = "evolution"
    """random: the control: as many genomes, drawn at random under the same limits."""
    evaluations: int = Field(48, ge=1)
    """Candidates in all, by all workers together."""
    population: int = Field(8, ge=2)
    """Candidates in a generation; the first one is drawn at random."""
    operators: Operators = Operators()
    max_ops: float | None = Field(None, gt=0)
    """Limit on OPs (FLOPs + BOPs/64); what exceeds it is never trained; null: none."""
    max_bits: float | None = Field(None, gt=0)
    """Limit on the bits of all parameters; null: none."""
    references: bool = True
    """Whether uniform networks (×1 and ×2, or the same groups) are evaluated too, after all others."""
    evaluation: Literal["short", "shared"] = "short"
    """short: each candidate is trained for a short time; shared: it is a part of one trained network."""
    training: RetrainConfig = RetrainConfig(
        stages=(StageConfig(name="fully_binary", epochs=3, optimizer=OptimizerConfig(learning_rate=3e-3)),)
    )
    """The short training of a candidate, on the train split; its network is that of `retrain.network`."""
    shared: SharedConfig = SharedConfig()
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
        if value.micro_batch == "auto":
            raise ValueError("micro_batch: give a number; a candidate's short training measures no memory")
        return value

    @field_validator("shared")
    @classmethod
    def _what_a_shared_network_knows(cls, value: SharedConfig) -> SharedConfig:
        for key in ("teacher", "initial_checkpoint", "hashing", "until_plateau", "compactness"):
            if getattr(value.stage, key) is not None:
                raise ValueError(f"stage.{key}: a shared network's training has none")
        if value.stage.optimizer.name == "bop":
            raise ValueError("stage.optimizer: bop flips whole layers; name another one")
        return value

    @model_validator(mode="after")
    def _a_generation_fits(self) -> EvolveConfig:
        if self.operators.parents is not None and self.operators.parents > 2 * self.population:
            raise ValueError("operators.parents: more than a generation and its parents have")
        return self
