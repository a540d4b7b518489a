"""The strategy of DARTS and its kin: alphas and weights in turn, by gradient, in phases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from binas.arch.alphas import Alphas
from binas.arch.genotype import Genotype
from binas.binarize import program_of
from binas.engine.micro_batch import Batch
from binas.engine.optimizer import set_learning_rate
from binas.search.config import SearchConfig
from binas.search.decisions.base import Decision, Found, Front
from binas.search.doubt import LAST, Reach, choices_of, leads, stability, verdict
from binas.search.phase_memory import PhaseMemory
from binas.search.regularizers.base import Regularizer
from binas.search.regularizers.diversity import Diversity
from binas.search.relaxations.base import EdgeMix, Relaxation
from binas.search.setting import SearchSetting
from binas.search.state import SearchState, kept_candidates
from binas.search.step import BilevelStep, StepOptions
from binas.search.strategies.base import Strategy, Structure, register_strategy


@register_strategy("gradient")
class Gradient(Strategy):
    """Trains alphas and weights in turn by gradient, in the phases of `search.phases`.

    A method that differs in what is mixed replaces `edge_weights`; one that changes the supernet on the way
    replaces `end_epoch`; one that chooses otherwise is a decision, or replaces `decide`.

    Args:
        setting: what the search is about.
    Reference: Liu et al., DARTS, arXiv:1806.09055, algorithm 1 (first order).
    """

    evaluation: ClassVar[str | None] = "supernet"
    uses: ClassVar[frozenset[str]] = frozenset(SearchConfig.model_fields) - {"strategy"}

    def __init__(self, setting: SearchSetting) -> None:
        super().__init__(setting)
        config = setting.config
        self.relaxations: list[Relaxation] = [phase.relaxation.build() for phase in config.phases]
        self.regularizers: list[Regularizer] = [Diversity(config.diversity.weight, config.diversity.tau)]
        self.regularizers += [choice.build() for choice in config.regularizers]
        self.decision: Decision = config.decision.build()
        for regularizer in self.regularizers:
            regularizer.start(setting)
        self.epoch, self.done, self.learning_rate = 0, 0, 0.0
        self.reach = Reach.of(config, setting.steps_per_epoch)
        self.seen: Mapping[str, Tensor] = {}
        self._bilevel: BilevelStep | None = None
        self._program: tuple[object, ...] = ()
        self.choices: list[tuple[int, ...]] = []
        """The most probable operations after each epoch."""

    @property
    def num_epochs(self) -> int:
        """Those of all phases together."""
        return self.setting.config.num_epochs()

    @property
    def is_fixed_program(self) -> bool:
        """Whether steps can be captured: not where a subclass mixes in its own way."""
        own = type(self).edge_weights is not Gradient.edge_weights
        return not own and self.relaxation.is_fixed_program

    def start(self, state: SearchState) -> None:
        """See the class."""
        super().start(state)
        self._enter(state.epoch)

    def begin_epoch(self, epoch: int) -> None:
        """Makes the step of this epoch: its temperatures, its regularizers' weights, its arithmetic."""
        config, state = self.setting.config, self.trained()
        self._enter(epoch)
        self.done = epoch * self.setting.steps_per_epoch
        alpha_epochs = sum(config.alpha_epochs()[:epoch])
        for regularizer in self.regularizers:
            regularizer.begin_epoch(alpha_epochs, epoch / self.num_epochs)
        key = (self.setting.seed, epoch)
        if self._bilevel is not None and self._bilevel.lasts and self._program == self._program_of(epoch):
            self._bilevel.begin_epoch(self.temperatures, key)
            return
        self._program = self._program_of(epoch)
        self._bilevel = BilevelStep(
            state.supernet,
            state.alphas,
            state.weight_optimizer,
            state.alpha_optimizer,
            config,
            self.temperatures,
            regularizers=self.regularizers,
            options=StepOptions(self, key, state.micro_batch, state.weight_precision, state.alpha_precision),
        )

    @property
    def bilevel(self) -> BilevelStep:
        """The steps of this epoch."""
        assert self._bilevel is not None, "begin_epoch() comes first"
        return self._bilevel

    def _program_of(self, epoch: int) -> tuple[object, ...]:
        """What decides which program a step is."""
        state = self.trained()
        return (
            self.setting.config.phase_at(epoch)[0],
            *map(id, (state.supernet, state.alphas, state.weight_optimizer, state.alpha_optimizer)),
            state.micro_batch,
            *map(id, (state.weight_precision, state.alpha_precision)),
            *program_of(state.supernet),
        )

    def part(self, epoch: int) -> str:
        """The name of the phase."""
        return self.setting.config.phase_at(epoch)[1].name

    def trains(self, epoch: int) -> Literal["weights", "alphas", "both"]:
        """What the phase says."""
        return self.setting.config.phase_at(epoch)[1].trains

    def edge_weights(
        self, alphas: Alphas, temperatures: Mapping[str, float | Tensor], generator: torch.Generator
    ) -> EdgeMix:
        """What the relaxation of the phase says."""
        return self.relaxation.edge_weights(alphas, temperatures, generator)

    def step(self, train: Batch, validation: Batch | None) -> Mapping[str, Tensor]:
        """An alpha step on the search-validation batch, then a weight step on the train batch."""
        config = self.setting.config
        factor = config.learning_rate.factor(self.done / (self.num_epochs * self.setting.steps_per_epoch))
        self.learning_rate = config.weights.learning_rate * factor
        set_learning_rate(self.bilevel.weight_optimizer, self.learning_rate)
        values: dict[str, Tensor] = {}
        if validation is not None:
            values |= self.bilevel.alpha_step(validation)
        if self.trains(self.epoch) != "alphas":
            values |= self.bilevel.weight_step(train)
        self.done += 1
        return values

    def end_epoch(self, epoch: int) -> Structure | None:
        """The edit at the end of a phase."""
        _, phase, epoch_in_phase = self.setting.config.phase_at(epoch)
        if phase.end is None or epoch_in_phase < phase.epochs - 1:
            return None
        kept = kept_candidates(self.trained(), phase.end.operations_per_edge, self.temperatures)
        return Structure(kept, phase.end.num_cells, phase.end.reset_alphas, f"end of phase '{phase.name}'")

    def genotype(self, probabilities: Mapping[str, Tensor]) -> Genotype:
        """See `Strategy`."""
        self.choices = [*self.choices[-LAST:], choices_of(probabilities)]
        self.seen = probabilities
        return super().genotype(probabilities)

    def doubt_before(self) -> str:
        """See `Reach`."""
        return self.reach.doubt()

    def doubt_after(self) -> str:
        """See `binas.search.doubt.verdict`."""
        return verdict(self.seen, self.choices, self.reach) if self.choices else ""

    def state_dict(self) -> dict[str, Any]:
        """The choices of the last epochs."""
        return {"choices": [list(one) for one in self.choices]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what `state_dict` gave."""
        self.choices = [tuple(one) for one in state.get("choices", [])]

    def figures(self) -> Mapping[str, float]:
        """The learning rate, how far choices lead and how long they stand, and what the regularizers say."""
        ahead = leads(self.seen)
        found = {
            "learning_rate": self.learning_rate,
            "lead": float(ahead.median()) if len(ahead) else 0.0,
            "stability": stability(self.choices),
        }
        for regularizer in self.regularizers:
            found |= regularizer.figures()
        return found

    def begins(self, epoch: int) -> bool:
        """Whether a phase does."""
        return self.setting.config.phase_at(epoch)[2] == 0

    def memory(self, epoch: int) -> PhaseMemory:
        """The forecast of the phase's step."""
        self._enter(epoch)
        position, phase, _ = self.setting.config.phase_at(epoch)
        return PhaseMemory(
            self.trained(),
            phase,
            position,
            self.setting.config,
            self.temperatures,
            self,
            image_shape=self.setting.image_shape,
            batch_size=self.setting.largest_batch,
            device=self.setting.device,
        )

    def decide(self, found: Found) -> Front:
        """What `search.decision` says."""
        return self.decision.decide(found)

    def trained(self) -> SearchState:
        """Supernet, alphas and their optimizers."""
        assert self.state is not None, "start() comes first"
        return self.state

    def _enter(self, epoch: int) -> None:
        self.epoch = epoch
        self.relaxation = self.relaxations[self.setting.config.phase_at(epoch)[0]]
        self.temperatures = self.setting.config.temperatures_at(epoch)
