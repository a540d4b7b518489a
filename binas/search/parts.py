"""What a search is composed of, by name: its strategy, its relaxation, its regularizers, its decision."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from binas.config import NamedOptions
from binas.registry import Registry

if TYPE_CHECKING:
    from binas.search.decisions.base import Decision
    from binas.search.regularizers.base import Regularizer
    from binas.search.relaxations.base import Relaxation
    from binas.search.strategies.base import Strategy

STRATEGIES: Registry[Callable[..., Strategy]] = Registry("strategy")
"""How a space is searched; called with a `SearchSetting` and the options."""
RELAXATIONS: Registry[Callable[..., Relaxation]] = Registry("relaxation")
"""How alphas become what a supernet's operations are mixed with; called with the options."""
REGULARIZERS: Registry[Callable[..., Regularizer]] = Registry("regularizer")
"""What else stands in the losses of a search; called with the options."""
DECISIONS: Registry[Callable[..., Decision]] = Registry("decision")
"""Which of the genotypes that a search has seen is handed on; called with the options."""


class StrategyChoice(NamedOptions):
    """A strategy by name, with its options."""

    registry: ClassVar[Registry[Any]] = STRATEGIES


class RelaxationChoice(NamedOptions):
    """A relaxation by name, with its options."""

    registry: ClassVar[Registry[Any]] = RELAXATIONS


class RegularizerChoice(NamedOptions):
    """A regularizer by name, with its options."""

    registry: ClassVar[Registry[Any]] = REGULARIZERS


class DecisionChoice(NamedOptions):
    """A decision by name, with its options."""

    registry: ClassVar[Registry[Any]] = DECISIONS
