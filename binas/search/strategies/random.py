"""The control of every search: a genotype drawn at random, nothing trained."""

from __future__ import annotations

import random
from typing import ClassVar

from binas.run.seeds import derive_seed
from binas.search.decisions.base import Candidate, Found, Front
from binas.search.strategies.base import Strategy, register_strategy


@register_strategy("random")
class Random(Strategy):
    """Draws one genotype at random under the same zeroise policy and limits, and trains nothing.

    Reference: Li and Talwalkar, Random Search and Reproducibility for NAS, arXiv:1902.07638.
    """

    uses: ClassVar[frozenset[str]] = frozenset()
    spaces: ClassVar[frozenset[str]] = frozenset({"cell", "macro"})

    def decide(self, found: Found) -> Front:
        """The first draw that keeps the limits."""
        setting = self.setting
        generator = random.Random(derive_seed(setting.seed, "random_genotype"))
        drawn = setting.limits.draw(setting.space, generator, setting.plugins)
        return Front((Candidate(drawn),), "random")
