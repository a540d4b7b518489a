"""The decision by magnitude: the operations and edges of the largest probabilities."""

from __future__ import annotations

from binas.search.decisions.base import Candidate, Decision, Found, Front, distinct, register_decision


@register_decision("largest_alpha")
class LargestAlpha(Decision):
    """The genotype of the most probable operations and edges, of the epoch that `search.recommend` says.

    Of the epochs nearest to the limits the last one, or the first of the best search-validation accuracy;
    the others follow by accuracy.

    Reference: Liu et al., DARTS, arXiv:1806.09055, sec. 2.4.
    """

    def decide(self, found: Found) -> Front:
        """See the class."""
        rule = found.setting.config.recommend
        nearest = min(candidate.excess for candidate in found.candidates)
        allowed = [candidate for candidate in found.candidates if candidate.excess == nearest]
        best = allowed[-1] if rule == "last" else max(allowed, key=_reached)
        others = sorted(found.candidates, key=lambda one: (one.excess, -_reached(one), -one.epoch))
        return Front(distinct((best, *others)), rule)


def _reached(candidate: Candidate) -> float:
    # a warm-up measures no accuracy; max() and sorted() keep the first of equals
    return -1.0 if candidate.accuracy is None else candidate.accuracy
