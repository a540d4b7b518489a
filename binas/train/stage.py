"""Stages of retraining, as data: what is binary, how weights move, for how long."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from torch import nn

from binas.arch.kinds import AnySpace
from binas.arch.space import NetworkSettings
from binas.binarize import Binarization, LayerRule, RealActivation, set_precision
from binas.config import Config, build
from binas.engine.acceleration import Acceleration
from binas.engine.batch_norm import set_batch_norm_decay
from binas.engine.loss import LossConfig
from binas.engine.micro_batch import MicroBatch
from binas.engine.optimizer import Curve, OptimizerConfig
from binas.models import ModelChoice
from binas.train.parts.base import StagePart, StagePartChoice
from binas.train.parts.compactness import Compactness
from binas.train.parts.distillation import TeacherConfig
from binas.train.parts.hashing import HashingStart
from binas.train.parts.procedure import Layerwise, Portions
from binas.train.parts.regularizer import WeightRegularizer


class StageConfig(Config):
    """One stage of retraining; weights and statistics are carried into it, the optimizer is new."""

    name: str
    """What it does, e.g. binary_activations or fully_binary."""
    epochs: int = Field(10, ge=1)
    """Passes over the training images; the most of them where until_plateau is set."""
    until_plateau: int | None = Field(None, ge=1)
    """End the stage when validation accuracy has not improved for so many epochs; null: never."""
    binarize_activations: bool = True
    """Whether the input of binary convolutions is binarized; off, it passes as real_activation says."""
    binarize_weights: bool = True
    """Whether weights of binary convolutions are binarized; off, latent weights are used raw."""
    real_activation: RealActivation = "none"
    """What stands in place of the sign where activations are not binarized: none, relu, or clip to ±1."""
    binarization: Binarization | None = None
    """Estimators of this stage; null: those of the search space."""
    layers: tuple[LayerRule, ...] | None = None
    """Rules that binarize some layers in another way, by path or type; null: those of space or model."""
    optimizer: OptimizerConfig = OptimizerConfig()
    learning_rate: Curve = Curve()
    """Course of the learning rate within the stage."""
    clip_grad_norm: float | None = Field(None, gt=0)
    """Largest norm of the whole gradient; null: any."""
    weight_clipping: float | None = Field(None, gt=0)
    """Latent weights of binary convolutions are kept within plus and minus this; null: free."""
    batch_norm_decay: float = Field(0.9, ge=0, lt=1)
    """Weight of the old average in batch-norm statistics (the papers' convention; PyTorch: 1 − it)."""
    loss: LossConfig = LossConfig()
    initial_checkpoint: Path | None = None
    """A retrain checkpoint of the same network to start from, e.g. a real-valued one."""
    hashing: HashingStart | None = None
    """Signs and scales that keep inner products with real inputs, set at the start (weight: {name: bwnh})."""
    teacher: TeacherConfig | None = None
    """Whom the network learns from, beside or instead of the labels."""
    compactness: Compactness | None = None
    """Draws features towards the centre of their class."""
    weight_regularizer: WeightRegularizer | None = None
    """A penalty on latent weights."""
    batch_norm_sparsity: float | None = Field(None, gt=0)
    """Weight of the sum of all batch-norm scales, before `binas squeeze` takes channels out; null: none."""
    layerwise: Layerwise | None = None
    """Layers become binary one after another."""
    portions: Portions | None = None
    """Weights become powers of two portion by portion (weight: {name: inq})."""
    parts: tuple[StagePartChoice, ...] = ()
    """Parts of your own by name, each with its options, as binas methods lists them."""

    @model_validator(mode="after")
    def _fits_together(self) -> StageConfig:
        if self.layerwise is not None and self.optimizer.name == "bop":
            raise ValueError("layerwise needs latent weights, and optimizer bop has none; leave one out")
        if self.real_activation != "none" and self.binarize_activations:
            raise ValueError(
                f"real_activation: {self.real_activation} stands in place of the sign, and this stage has the"
                " sign; set binarize_activations: false, or leave it out"
            )
        names = [choice.name for choice in self.parts]
        if len(set(names)) != len(names):
            raise ValueError(f"parts: {', '.join(names)}: one of them stands twice")
        if self.layerwise is not None and self.hashing is not None:
            raise ValueError("hashing starts layers that are binary from the start; leave layerwise out")
        return self

    def apply(self, model: nn.Module) -> None:
        """Put a network into this stage: precision, estimators (null leaves them), batch-norm averaging."""
        set_precision(
            model,
            self.binarize_activations,
            self.binarize_weights,
            binarization=self.binarization,
            layers=self.layers or (),
            real_activation=self.real_activation,
        )
        set_batch_norm_decay(model, self.batch_norm_decay)
        if self.portions is None:
            Portions.release(model)

    def begin_epoch(
        self, model: nn.Module, epoch: int, parts: Mapping[str, StagePart] | None = None
    ) -> dict[str, float]:
        """Switch on what is binary in an epoch, from 0; gives figures for the log.

        Args:
            parts: of this stage, where they were made before; None: they are made here.
        """
        from binas.train.parts.building import parts_of  # which makes them from this stage

        switching = [
            part
            for part in (parts_of(self) if parts is None else parts).values()
            if type(part).precision is not StagePart.precision
        ]
        if switching:
            self.apply(model)
        figures: dict[str, float] = {}
        for part in switching:
            figures |= part.precision(model, epoch)
        return figures

    @property
    def starts_from(self) -> Path | None:
        """The checkpoint whose weights it starts with."""
        if self.initial_checkpoint is None and self.teacher is not None and self.teacher.mode == "fine_tune":
            return self.teacher.checkpoints[0]
        return self.initial_checkpoint

    def completed(self, space: AnySpace | ModelChoice) -> StageConfig:
        """The same with what the space, or the published network, says where this stage says nothing."""
        binarization = space.binarization if self.binarization is None else self.binarization
        layers = space.layers if self.layers is None else self.layers
        return self.model_copy(update={"binarization": binarization, "layers": layers})

    def registered_names(self) -> set[str]:
        """The names of binarizers and parts that it uses."""
        chosen = [self.binarization, *(rule.binarization for rule in self.layers or ())]
        names = {name for one in chosen if one is not None for name in one.registered_names()}
        return names | {choice.name for choice in self.parts}

    def format_precision(self) -> str:
        """What is binary, in words."""
        words = {True: "binary", False: "real"}
        if self.real_activation != "none":
            return f"{self.real_activation} activations, {words[self.binarize_weights]} weights"
        return f"{words[self.binarize_activations]} activations, {words[self.binarize_weights]} weights"


def default_stages() -> tuple[StageConfig, ...]:
    """Binary activations with real weights, then both binary (ReActNet, BATS)."""
    return (
        StageConfig(name="binary_activations", binarize_weights=False),
        StageConfig(name="fully_binary"),
    )


class RetrainConfig(Config):
    """How a genotype is trained from scratch."""

    stages: tuple[StageConfig, ...] = Field(default_factory=default_stages, min_length=1)
    """In order; the last one decides what the final network is."""
    network: dict[str, Any] = {}
    """Changes to the `network` settings of the genotype's space (num_cells, init_channels, …)."""
    batch_size: int = Field(64, ge=1)
    """Images in a step."""
    micro_batch: MicroBatch = None
    """Images computed at a time, gradients adding up; auto: what memory holds; null: the whole batch."""
    checkpoint_cells: bool = False
    """Whether the inside of cells is computed again for the gradient instead of being kept: less memory."""
    acceleration: Acceleration = Acceleration()
    validation_fraction: float = Field(0.1, ge=0, lt=1)
    """Part of the training images kept for logging, plateaus and `keep: best`."""
    validation_images: Literal["of_every_class", "last"] = "of_every_class"
    """Which ones: drawn, the same share of every class; or the last ones, for sets in random order."""
    keep: Literal["last", "best"] = "last"
    """Which weights count: the last epoch's; or best.pt too, the last stage's best in validation."""
    log_positive_share: bool = False
    """Whether the share of +1 in what each binary convolution reads is logged, on validation images."""
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Probability, reached at the end of each stage, with which an operation's output is dropped."""
    auxiliary_weight: float = Field(0.0, ge=0)
    """Weight of an auxiliary head's loss (DARTS, BATS: 0.4); 0: no such head."""

    @field_validator("network")
    @classmethod
    def _settings_of_a_network(cls, value: dict[str, Any]) -> dict[str, Any]:
        build(NetworkSettings, value, "retrain.network")
        return value

    @model_validator(mode="after")
    def _validation_is_there(self) -> RetrainConfig:
        if self.validation_fraction == 0:
            for key, is_wanted in (
                ("keep: best", self.keep == "best"),
                ("log_positive_share", self.log_positive_share),
            ):
                if is_wanted:
                    raise ValueError(f"{key} looks at validation images; set validation_fraction above 0")
        last = self.stages[-1]
        if self.keep == "best" and (last.layerwise is not None or last.portions is not None):
            raise ValueError(
                "keep: best could keep an epoch in which not all layers or weights are binary yet; set keep:"
                " last, or add a stage without layerwise and portions"
            )
        return self

    def unused_keys(self) -> Iterator[tuple[str, str]]:
        """What looks at validation images, where there are none."""
        if self.validation_fraction == 0:
            if self.is_set("validation_images"):
                yield "validation_images", "validation_fraction 0"
            for place, stage in enumerate(self.stages):
                if stage.until_plateau is not None:
                    yield f"stages.{place}.until_plateau", "validation_fraction 0"

    @field_validator("stages")
    @classmethod
    def _different_names(cls, value: tuple[StageConfig, ...]) -> tuple[StageConfig, ...]:
        names = [stage.name for stage in value]
        if len(set(names)) != len(names):
            raise ValueError(f"two stages have the same name ({', '.join(names)})")
        return value


def different_choices(stages: Sequence[StageConfig]) -> list[tuple[Binarization, tuple[LayerRule, ...]]]:
    """The binarizations of these stages, each with its layer rules, once."""
    # settings are not hashable where they hold lists
    choices = [(stage.binarization, stage.layers or ()) for stage in stages if stage.binarization]
    return [choice for i, choice in enumerate(choices) if choice not in choices[:i]]
