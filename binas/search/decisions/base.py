"""What a decision is: from what a search has seen to a front of candidates, the recommended one first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from binas.arch.genotype import AnyGenotype, Genotype
from binas.search.parts import DECISIONS

if TYPE_CHECKING:
    from binas.search.setting import SearchSetting
    from binas.search.state import SearchState
    from binas.search.work import Work

register_decision = DECISIONS.register
FORMAT = "binas-front"


@dataclass(frozen=True)
class Candidate:
    """A genotype that a search has seen.

    Args:
        genotype: what it is.
        epoch: after which it stood, from 1 on; 0: after none.
        accuracy: of the search-validation images in that epoch, in [0, 1]; None: it was not measured.
        excess: by how much of itself the limit that is exceeded most is exceeded; 0: all are kept.
        figures: whatever else a decision has measured, by name.
    """

    genotype: AnyGenotype
    epoch: int = 0
    accuracy: float | None = None
    excess: float = 0.0
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What a decision can choose from.

    Args:
        setting: of the search.
        candidates: a genotype for each epoch, in their order.
        state: supernet and alphas at the end; None where nothing was trained.
        accuracy: measures the share of search-validation images that the supernet gets right when only a
            genotype's operations run in it.
        work: images and folder, for a strategy that trains in its own way.
    """

    setting: SearchSetting
    candidates: tuple[Candidate, ...]
    state: SearchState | None
    accuracy: Callable[[Genotype], float]
    work: Work


@dataclass(frozen=True)
class Front:
    """Candidates, the recommended one first.

    Args:
        candidates: at least one.
        rule: why the first one is recommended, in a word.
        measured: what else is told of the search in `front.json`, plain values.
    """

    candidates: tuple[Candidate, ...]
    rule: str
    measured: Mapping[str, Any] = field(default_factory=dict)

    @property
    def recommended(self) -> Candidate:
        """The first one."""
        return self.candidates[0]


class Decision:
    """Chooses what a search hands on; its constructor takes its options."""

    def decide(self, found: Found) -> Front:
        """The front, called once when all epochs are over."""
        raise NotImplementedError


def distinct(candidates: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
    """The first candidate of each genotype."""
    first: dict[str, Candidate] = {}
    for candidate in candidates:
        first.setdefault(candidate.genotype.hash(), candidate)
    return tuple(first.values())


def front_document(
    front: Front,
    costs: Callable[[AnyGenotype], Mapping[str, float]],
    about: Mapping[str, Any],
    evaluations: int,
) -> dict[str, Any]:
    """The front in plain types and without times, in the format of `binas evolve`.

    Args:
        costs: what is told of each genotype besides.
        about: what else stands in it.
        evaluations: how many candidates were seen.
    """
    return {
        "format": FORMAT,
        "version": 1,
        **about,
        "rule": front.rule,
        "evaluations": evaluations,
        **front.measured,
        "front": [
            {
                "candidate": place,
                "epoch": candidate.epoch,
                "accuracy": candidate.accuracy,
                **costs(candidate.genotype),
                **candidate.figures,
                "keeps_limits": candidate.excess <= 0,
                "genotype": candidate.genotype.hash(),
            }
            for place, candidate in enumerate(front.candidates)
        ],
    }
