"""Limits on what a found network costs: how far a genotype is from them, and a random one that keeps them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from torch import nn

from binas.arch.genotype import AnyGenotype
from binas.arch.kinds import AnySpace, genotype_network
from binas.arch.sample import random_genotype
from binas.deploy import measures as measures  # registers those of exported networks
from binas.errors import UserError
from binas.plugins import PluginRecord
from binas.profile.cost import Profile
from binas.profile.count import count
from binas.profile.measures import Limits

MAX_DRAWS = 1000


@dataclass(frozen=True)
class CostLimits:
    """The limits of a search, with the sizes for which a genotype's network is counted.

    Args:
        limits: the most that it may cost.
        image_shape: (C, H, W).
        num_classes: outputs.
    """

    limits: Limits
    image_shape: tuple[int, int, int]
    num_classes: int

    def costs(self, genotype: AnyGenotype) -> dict[str, float]:
        """OPs and bits of the network that the genotype's space builds, and what the limits measure."""
        profile = self._profile(genotype)
        values = self.limits.values(profile, lambda: self._network(genotype))
        return {"ops": profile.ops, "bits": profile.bits, **values}

    def excess(self, genotype: AnyGenotype) -> dict[str, float]:
        """By how much of itself each limit is exceeded, 0 or less where it is kept; empty without limits.

        The network is the one that the genotype's space builds in its settings `network`, fully binary.
        """
        if not self.limits.at_most:
            return {}
        return self.limits.excess(self._profile(genotype), lambda: self._network(genotype))

    def _profile(self, genotype: AnyGenotype) -> Profile:
        channels, height, width = self.image_shape
        return count(genotype, (height, width), self.num_classes, channels)

    def _network(self, genotype: AnyGenotype) -> nn.Module:
        return genotype_network(genotype, self.image_shape[0], self.num_classes)

    def largest_excess(self, genotype: AnyGenotype) -> float:
        """The largest of them, 0 where all are kept."""
        return max(0.0, *self.excess(genotype).values(), 0.0)

    def draw(
        self, space: AnySpace, generator: random.Random, plugins: tuple[PluginRecord, ...]
    ) -> AnyGenotype:
        """The first random genotype of the space that keeps the limits.

        Raises:
            UserError: none of many did.
        """
        nearest: tuple[float, str] | None = None
        for _ in range(MAX_DRAWS):
            genotype = random_genotype(space, generator, plugins)
            excess = self.largest_excess(genotype)
            if not excess:
                return genotype
            told = (excess, self.summary(genotype))
            nearest = told if nearest is None else min(nearest, told)
        assert nearest is not None
        raise UserError(
            f"limits: none of {MAX_DRAWS} random genotypes of space '{space.name}' keeps them; the"
            f" nearest exceeds {nearest[1]}; raise them, or make the space smaller (space.network, of cells)"
        )

    def summary(self, genotype: AnyGenotype) -> str:
        """Which limits are exceeded, and by how much; empty where none is."""
        exceeded = {key: excess for key, excess in self.excess(genotype).items() if excess > 0}
        return ", ".join(f"{key} by {excess:.1%}" for key, excess in exceeded.items())
