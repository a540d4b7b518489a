"""What a strategy is: the seam at which methods of search are plugged in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from binas.arch.alphas import Alphas
from binas.arch.discretize import discretize
from binas.arch.genotype import Genotype
from binas.arch.kinds import AnySpace
from binas.arch.macro_space import MacroSpace
from binas.arch.supernet import Candidates
from binas.config import NamedOptions
from binas.engine.micro_batch import Batch
from binas.engine.step_memory import StepMemory
from binas.errors import UserError
from binas.search.config import SearchConfig
from binas.search.decisions.base import Found, Front
from binas.search.parts import STRATEGIES
from binas.search.relaxations.base import EdgeMix
from binas.search.setting import SearchSetting
from binas.search.state import SearchState
from binas.search.work import Work

register_strategy = STRATEGIES.register


@dataclass(frozen=True)
class Structure:
    """What a supernet consists of from now on.

    Args:
        candidates: the operations left on each edge; what is left keeps weights, alphas and optimizer state.
        num_cells: another depth, with which all weights start afresh; None: as before.
        reset_alphas: whether alphas start afresh.
        reason: told with it, in a few words.
    """

    candidates: Candidates
    num_cells: int | None = None
    reset_alphas: bool = False
    reason: str = "edit"


class Strategy:
    """A method of search. In order, the search calls:

    1. the constructor, with a `SearchSetting` and the options that stand beside the strategy's name;
    2. `num_epochs`; where it is 0 the search trains nothing for it, and the next call is `decide`, which may
       train in its own way with what `Found.work` holds;
    3. `start` with supernet, alphas and their optimizers: at the beginning, and after each change of
       structure; `load_state_dict` follows where a search begins or goes on;
    4. for each epoch `begin_epoch`; `trains`, which says what batches are needed; `step` for each batch, in
       which `edge_weights` is asked; `genotype`, which is written and logged with `figures`; `end_epoch`,
       which may change the structure; and `state_dict` for the checkpoint;
    5. `decide`, once.

    A strategy may change supernet, alphas and optimizers in `step` alone. Whatever it draws comes from the
    generator it is given or from (seed, epoch), so that a search that goes on draws what it would have drawn.

    Args:
        setting: what the search is about.
    """

    uses: ClassVar[frozenset[str]] = frozenset()
    """Keys of `search` that it reads; another one that is set for it is refused."""

    spaces: ClassVar[frozenset[str]] = frozenset({"cell"})
    """Kinds of search space that it searches: cell, macro."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Options by the name of a size: small, medium, large."""

    evaluation: ClassVar[str | None] = None
    """What accuracies in its front are of: supernet, alone (trained from scratch), or None: it has none."""

    def __init__(self, setting: SearchSetting) -> None:
        self.setting = setting
        self.state: SearchState | None = None
        self.temperatures: Mapping[str, float] = {"normal": 1.0, "reduce": 1.0}
        """T of each cell kind in this epoch."""

    @property
    def num_epochs(self) -> int:
        """Passes over the train split."""
        return 0

    def start(self, state: SearchState) -> None:
        """Takes what is trained."""
        self.state = state

    def begin_epoch(self, epoch: int) -> None:
        """Prepares an epoch, counted from 0."""

    def part(self, epoch: int) -> str:
        """The name of the part of the search that an epoch belongs to, for logs."""
        return "search"

    def trains(self, epoch: int) -> Literal["weights", "alphas", "both"]:
        """What an epoch trains; without alphas `step` gets no search-validation batches."""
        return "both"

    def begins(self, epoch: int) -> bool:
        """Whether a step of this epoch may need other memory than the one before."""
        return False

    def memory(self, epoch: int) -> StepMemory | None:
        """Forecasts what a step of an epoch needs; None: nothing is forecast."""
        return None

    def edge_weights(
        self, alphas: Alphas, temperatures: Mapping[str, float | Tensor], generator: torch.Generator
    ) -> EdgeMix:
        """What operations are mixed with in one forward pass, as `Relaxation.edge_weights`."""
        raise NotImplementedError

    def step(self, train: Batch, validation: Batch | None) -> Mapping[str, Tensor]:
        """Trains on a batch of the train split and one of the search-validation split.

        Returns:
            Scalars by name, means over the batch; those called loss are checked, and
            `validation_accuracy` is what decisions go by.
        """
        raise NotImplementedError

    def end_epoch(self, epoch: int) -> Structure | None:
        """What the supernet consists of from now on; None: as before."""
        return None

    @torch.no_grad()
    def probabilities(self) -> dict[str, Tensor]:
        """What the genotype is taken from: softmax(alpha / T). Shape: (E, O) for each cell kind."""
        assert self.state is not None
        return {kind: p.cpu() for kind, p in self.state.alphas.probabilities(self.temperatures).items()}

    def genotype(self, probabilities: Mapping[str, Tensor]) -> Genotype:
        """The genotype as it stands after an epoch: the most probable operations and edges."""
        return discretize(probabilities, self.setting.cells, self.setting.plugins)

    def figures(self) -> Mapping[str, float]:
        """What is logged of an epoch besides."""
        return {}

    def decide(self, found: Found) -> Front:
        """The candidates, the recommended one first."""
        raise NotImplementedError

    def doubt_before(self) -> str:
        """Why the search cannot decide with its settings, with the keys to change; empty: it can."""
        return ""

    def doubt_after(self) -> str:
        """Why what was found is no more than chance; empty: it is more, or nobody can tell."""
        return ""

    def predicted(self, work: Work) -> Mapping[str, float]:
        """Seconds that each part of `decide` takes, from a measured step; empty: not known before."""
        return {}

    def planned(self, seconds: float, work: Work) -> Mapping[str, Any]:
        """Options with which a search ends in that time, from a measured step.

        Raises:
            UserError: it cannot plan itself, or the time is too short.
        """
        raise UserError(
            "budget: this strategy does not plan itself into a time; take one that does (binas), or set its"
            " epochs"
        )

    def state_dict(self) -> dict[str, Any]:
        """What it needs to go on, beside supernet, alphas and optimizers: plain values and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what `state_dict` gave."""


def with_preset(config: SearchConfig, size: str) -> SearchConfig:
    """The settings with the options that the chosen strategy has for a size; what is set besides stays.

    Raises:
        UserError: the strategy has none of that name.
    """
    presets: Mapping[str, Mapping[str, Any]] = getattr(config.strategy.entry, "presets", {})
    if size not in presets:
        known = f"its presets are {', '.join(presets)}" if presets else "it has no presets"
        raise UserError(f"preset '{size}': strategy '{config.strategy.name}' has none; {known}")
    return with_options(config, {**presets[size], **config.strategy.options})


def with_options(config: SearchConfig, options: Mapping[str, Any]) -> SearchConfig:
    """The settings with these options of the chosen strategy."""
    choice = type(config.strategy).model_validate({"name": config.strategy.name, **options})
    return config.model_copy(update={"strategy": choice})


def check_space(config: SearchConfig, space: AnySpace) -> None:
    """Raises a `UserError` where the chosen strategy does not search a space of this kind."""
    spaces: frozenset[str] = getattr(config.strategy.entry, "spaces", Strategy.spaces)
    kind = "macro" if isinstance(space, MacroSpace) else "cell"
    if kind not in spaces:
        able = [name for name in STRATEGIES if kind in getattr(STRATEGIES[name], "spaces", Strategy.spaces)]
        raise UserError(
            f"search.strategy: '{config.strategy.name}' does not search space '{space.name}', which is kind:"
            f" {kind}; strategies that do: {', '.join(able)}"
        )


def unused_keys(config: SearchConfig) -> list[str]:
    """Keys of `search` that differ from the default, and that the chosen strategy does not read."""
    uses: frozenset[str] = getattr(config.strategy.entry, "uses", frozenset())
    defaults = SearchConfig()
    return [
        key
        for key in SearchConfig.model_fields
        if key != "strategy" and key not in uses and getattr(config, key) != getattr(defaults, key)
    ]


def check_settings(config: SearchConfig) -> None:
    """Raises a `UserError` for an unknown name or option, and for a key that the strategy does not read."""
    for key, choice in config.choices().items():
        _check_choice(key, choice)
    for key in unused_keys(config):
        raise UserError(f"search.{key}: strategy '{config.strategy.name}' does not use it; leave it out")


def _check_choice(key: str, choice: NamedOptions) -> None:
    try:
        choice.check(1 if key == "strategy" else 0)
    except UserError as error:
        raise UserError(f"search.{key}: {error}", hint=error.hint) from None


def without_unused(config: SearchConfig) -> tuple[SearchConfig, list[str]]:
    """The settings without what the chosen strategy does not read, and the keys that were left out."""
    _check_choice("strategy", config.strategy)
    unused = unused_keys(config)
    defaults = SearchConfig()
    return config.model_copy(update={key: getattr(defaults, key) for key in unused}), unused
