"""Genomes of fixed length: one choice for each gene, as positions in the gene's list of choices."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

GeneChoice = float | int | str
Genome = tuple[int, ...]
"""For each gene the position of its choice."""


@dataclass(frozen=True)
class Gene:
    """One place of a genome.

    Args:
        name: what it decides, `ratios.3` for example; its key in the storage.
        choices: what stands there, ascending where they are numbers.
    """

    name: str
    choices: tuple[GeneChoice, ...]

    @property
    def kind(self) -> str:
        """The first word of its name."""
        return self.name.partition(".")[0]


@dataclass(frozen=True)
class GenomeSpace:
    """All genomes over these genes.

    Args:
        genes: in the order of the genome.
        canonical: of the genomes that stand for one network, the one that is written.
        active: for each gene of a genome whether it says anything.
    """

    genes: tuple[Gene, ...]
    canonical: Callable[[Genome], Genome] = lambda genome: genome
    active: Callable[[Genome], tuple[bool, ...]] = lambda genome: (True,) * len(genome)

    @property
    def size(self) -> int:
        """How many genomes there are, those that stand for one network among them."""
        return math.prod(len(gene.choices) for gene in self.genes)

    def values(self, genome: Sequence[int]) -> tuple[GeneChoice, ...]:
        """What a genome's positions stand for."""
        return tuple(gene.choices[place] for gene, place in zip(self.genes, genome, strict=True))

    def genome_of(self, values: Sequence[GeneChoice]) -> Genome:
        """The genome with these values, gene by gene."""
        return tuple(gene.choices.index(value) for gene, value in zip(self.genes, values, strict=True))

    def params(self, genome: Sequence[int]) -> dict[str, GeneChoice]:
        """The values of a genome by name of gene."""
        return dict(zip((gene.name for gene in self.genes), self.values(genome), strict=True))

    def drawn(self, generator: random.Random) -> Genome:
        """A choice drawn for each gene, whether it says anything or not."""
        return tuple(generator.randrange(len(gene.choices)) for gene in self.genes)

    def filled(self, genome: Genome, generator: random.Random) -> Genome:
        """The genome with draws where it says nothing: what a child may bring back has no choice yet."""
        places = zip(genome, self.active(genome), self.genes, strict=True)
        return tuple(
            place if says else generator.randrange(len(gene.choices)) for place, says, gene in places
        )

    def random(self, generator: random.Random) -> Genome:
        """A genome, each gene drawn uniformly."""
        return self.canonical(self.drawn(generator))

    def uniform(self, choice: GeneChoice) -> Genome | None:
        """The genome with that choice everywhere, where every gene has it."""
        if not all(choice in gene.choices for gene in self.genes):
            return None
        return tuple(gene.choices.index(choice) for gene in self.genes)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What each gene decides."""
        return tuple(gene.kind for gene in self.genes)

    def nth(self, number: int) -> Genome:
        """The genome of that number, from 0 to size − 1; the last gene counts fastest."""
        places: list[int] = []
        for gene in reversed(self.genes):
            number, place = divmod(number, len(gene.choices))
            places.append(place)
        return tuple(reversed(places))

    def distributions(self) -> dict[str, BaseDistribution]:
        """The genes as the storage keeps them."""
        from optuna.distributions import CategoricalDistribution

        return {gene.name: CategoricalDistribution(gene.choices) for gene in self.genes}
