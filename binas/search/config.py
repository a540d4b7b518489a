"""Settings of a search: its phases, its optimizers, and the small parts it is composed of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

import binas.search.decisions
import binas.search.regularizers
import binas.search.relaxations  # noqa: F401 (their files register them)
from binas.config import Config, NamedOptions, merged
from binas.engine.acceleration import Acceleration
from binas.engine.loss import LossConfig
from binas.engine.micro_batch import MicroBatch
from binas.engine.optimizer import Curve, OptimizerConfig, Shape, anneal
from binas.search.parts import DecisionChoice, RegularizerChoice, RelaxationChoice, StrategyChoice


class Temperature(Config):
    """The T of softmax(alpha / T), from one value to another over the epochs that train alphas."""

    start: float = Field(1.0, gt=0)
    """T in the first epoch that trains alphas, and before."""
    end: float | None = Field(None, gt=0)
    """T in the last epoch; null: as at the start."""
    shape: Shape = "linear"
    """Course in between: constant, linear, cosine or exponential."""

    def unused_keys(self) -> Iterator[tuple[str, str]]:
        """A course that leads nowhere, or an end that is never reached."""
        if self.end is None and self.is_set("shape"):
            yield "shape", "a temperature without an end"
        if self.end is not None and self.shape == "constant":
            yield "end", "shape 'constant'"

    def at(self, progress: float) -> float:
        """T after this part of the epochs that train alphas, in [0, 1]."""
        return self.start if self.end is None else anneal(self.start, self.end, progress, self.shape)


class Temperatures(Config):
    """One temperature for each cell kind (BATS: 0.2 in normal cells, 0.15 in reduction cells)."""

    normal: Temperature = Temperature()
    reduce: Temperature = Temperature()


class Diversity(Config):
    """The regularizer −weight · H̄ · exp(−epoch / tau), epochs counted from the end of the warm-up.

    Reference: Kim et al., BNAS, arXiv:2002.06963, sec. 4.3.
    """

    weight: float = Field(1.0, ge=0)
    """λ; 0 switches it off."""
    tau: float = Field(7.7, gt=0)
    """Epochs after which the regularizer has fallen to 1/e."""

    def unused_keys(self) -> Iterator[tuple[str, str]]:
        """The course of a regularizer that is switched off."""
        if self.weight == 0 and self.is_set("tau"):
            yield "tau", "weight 0"


class Edit(Config):
    """What changes in the supernet at the end of a phase."""

    operations_per_edge: int | None = Field(None, ge=1)
    """Keep so many operations on each edge, the most probable ones; their weights and alphas stay."""
    num_cells: int | None = Field(None, ge=1)
    """Change the depth; the supernet's weights start afresh, since widths move with the reductions."""
    reset_alphas: bool = False
    """Start the alphas of what is left afresh."""


class Phase(Config):
    """A part of the search in which the same things are trained."""

    name: str = "search"
    trains: Literal["weights", "alphas", "both"] = "both"
    """weights: a warm-up; both: one alpha step, then one weight step, on every pair of batches."""
    epochs: int = Field(25, ge=1)
    """Passes over the train split."""
    relaxation: RelaxationChoice = RelaxationChoice(name="softmax")
    """softmax: all operations left on an edge, weighted by softmax(alpha / T); single_path: one, drawn; or
    another registered one, with its options beside its name."""
    temperature: Temperatures | None = None
    """T within this phase, from its first epoch to its last; null: the course of search.temperature."""
    end: Edit | None = None
    """What changes in the supernet when the phase is over."""


class Collapse(Config):
    """When a warning says that the search has collapsed."""

    max_share: float = Field(0.75, gt=0, le=1)
    """Warn when more than this share of the genotype's edges carry skip, zeroise or a pool."""
    min_entropy: float = Field(0.05, ge=0)
    """Warn when the mean entropy falls below this part of its largest value."""


OF_EVERY_STRATEGY = frozenset({"batch_size", "acceleration", "loss"})
"""Keys that say nothing of a strategy; a recipe that sets others and names none means gradient."""


class SearchConfig(Config):
    """How a search space is searched."""

    strategy: StrategyChoice = StrategyChoice(name="binas")
    """binas: a supernet of single paths ranks, training alone decides; gradient: the phases below; random:
    one random genotype; or another registered one, with its options beside its name. Where none is named, it
    is gradient if any key is set that binas does not use."""
    phases: tuple[Phase, ...] = Field((Phase(epochs=50),), min_length=1)
    """In order."""
    batch_size: int = Field(64, ge=1)
    """Images in each of a step's two batches."""
    micro_batch: MicroBatch = None
    """Images computed at a time, gradients adding up; auto: what memory holds; null: the whole batch."""
    checkpoint_cells: bool = False
    """Whether the inside of cells is computed again for the gradient instead of being kept: less memory."""
    acceleration: Acceleration = Acceleration()
    weights: OptimizerConfig = OptimizerConfig(name="sgd", learning_rate=0.025, weight_decay=3e-4)
    """Optimizer of the supernet's weights."""
    learning_rate: Curve = Curve(shape="cosine", final=0.04)
    """Course of the weights' learning rate over all phases (0.04: from 0.025 to 0.001)."""
    alphas: OptimizerConfig = OptimizerConfig(learning_rate=3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
    """Optimizer of the alphas; its learning rate is constant."""
    temperature: Temperatures = Temperatures()
    diversity: Diversity = Diversity()
    regularizers: tuple[RegularizerChoice, ...] = ()
    """What else stands in the losses, by name, each with its options; diversity stands above."""
    binarize_activations: bool = True
    """Whether activations are binary during the search."""
    binarize_weights: bool = True
    """Whether weights are binary during the search; BATS searches with real ones."""
    alpha_step_updates_batch_norm: bool = False
    """Whether alpha steps change running statistics, as the released BNAS code does."""
    clip_grad_norm: float | None = Field(None, gt=0)
    """Largest norm of the weights' whole gradient; null: any."""
    loss: LossConfig = LossConfig()
    recommend: Literal["last", "best_validation"] = "last"
    """The genotype to hand on: of the last epoch, or after the epoch of best search-validation accuracy."""
    decision: DecisionChoice = DecisionChoice(name="largest_alpha")
    """How the genotype is chosen in the end; largest_alpha: as `recommend` says."""
    collapse: Collapse = Collapse()
    picture_interval: int = Field(1, ge=1)
    """Epochs between two pictures of alphas and cells in TensorBoard, which take about half a second."""

    @model_validator(mode="before")
    @classmethod
    def _gradient_by_its_keys(cls, value: Any) -> Any:
        if isinstance(value, dict) and "strategy" not in value and not OF_EVERY_STRATEGY.issuperset(value):
            return {"strategy": {"name": "gradient"}, **value}
        return value

    @field_validator("weights", "alphas", "learning_rate", mode="before")
    @classmethod
    def _changes_to_the_default(cls, value: Any, info: ValidationInfo) -> Any:
        # {learning_rate: 0.05} must not turn the SGD of the search into the Adam of other optimizers
        if not isinstance(value, dict) or info.field_name is None:
            return value
        default = cls.model_fields[info.field_name].default.model_dump()
        if info.field_name == "learning_rate" and value.get("shape") in ("constant", "steps"):
            del default["final"]  # which these do not have
        # another optimizer does not inherit the settings of the default one
        return merged({"it": default}, {"it": value})["it"]

    @field_validator("phases")
    @classmethod
    def _some_alphas(cls, value: tuple[Phase, ...]) -> tuple[Phase, ...]:
        if all(phase.trains == "weights" for phase in value):
            raise ValueError("no phase trains alphas, so nothing would be searched")
        return value

    @field_validator("regularizers")
    @classmethod
    def _diversity_once(cls, value: tuple[RegularizerChoice, ...]) -> tuple[RegularizerChoice, ...]:
        if any(choice.name == "diversity" for choice in value):
            raise ValueError("diversity has a key of its own, search.diversity; set its weight and tau there")
        return value

    @model_validator(mode="after")
    def _edits_before_the_end(self) -> SearchConfig:
        if self.phases[-1].end is not None:
            raise ValueError("phases: the last phase has an end, but no phase follows that would use it")
        return self

    def unused_keys(self) -> Iterator[tuple[str, str]]:
        """What trains no weights, and temperatures that every phase replaces."""
        if self.alphas.rate_scaling != "none":
            yield "alphas.rate_scaling", "an optimizer of alphas"
        if all(phase.trains == "alphas" for phase in self.phases):
            for key in ("weights", "learning_rate", "clip_grad_norm"):
                if self.is_set(key):
                    yield key, "a search in which no phase trains weights"
        if all(phase.temperature is not None for phase in self.phases) and self.is_set("temperature"):
            yield "temperature", "a search in which every phase has a temperature of its own"

    def num_epochs(self) -> int:
        """Epochs of all phases together."""
        return sum(phase.epochs for phase in self.phases)

    def alpha_epochs(self) -> list[bool]:
        """For each epoch of the search whether it trains alphas."""
        return [phase.trains != "weights" for phase in self.phases for _ in range(phase.epochs)]

    def phase_at(self, epoch: int) -> tuple[int, Phase, int]:
        """Position of an epoch's phase, the phase, and the epoch's number in it, from 0."""
        for position, phase in enumerate(self.phases):
            if epoch < phase.epochs:
                return position, phase, epoch
            epoch -= phase.epochs
        return len(self.phases) - 1, self.phases[-1], self.phases[-1].epochs - 1

    def temperatures_at(self, epoch: int) -> dict[str, float]:
        """T of each cell kind in an epoch of the search."""
        _, phase, epoch_in_phase = self.phase_at(epoch)
        if phase.temperature is None:
            alpha_epochs = self.alpha_epochs()
            schedule = self.temperature
            progress = sum(alpha_epochs[:epoch]) / max(sum(alpha_epochs) - 1, 1)
        else:
            schedule, progress = phase.temperature, epoch_in_phase / max(phase.epochs - 1, 1)
        return {"normal": schedule.normal.at(progress), "reduce": schedule.reduce.at(progress)}

    def registered_names(self) -> set[str]:
        """Names of strategy, relaxations, regularizers and decision that it uses."""
        return {choice.name for choice in self.choices().values()}

    def choices(self) -> dict[str, NamedOptions]:
        """What is chosen by name, by the key under which it stands."""
        return {
            "strategy": self.strategy,
            **{f"phases.{place}.relaxation": phase.relaxation for place, phase in enumerate(self.phases)},
            **{f"regularizers.{place}": choice for place, choice in enumerate(self.regularizers)},
            "decision": self.decision,
        }
