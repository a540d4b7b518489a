"""Random genotypes in which every choice comes up equally often, for the steps of a shared network."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

from binas.arch.genotype import CELL_KINDS, AnyGenotype, Edge, Genotype
from binas.arch.kinds import AnySpace
from binas.arch.macro_genotype import MacroGenotype
from binas.arch.macro_space import BLOCK_KEYS, MacroSpace
from binas.arch.sample import cell_is_allowed, operation_weight, random_genotype
from binas.arch.space import SearchSpace
from binas.plugins import PluginRecord

T = TypeVar("T")
MAX_TRIES = 100


class FairDraw:
    """Draws random genotypes; of each choice that is left to it, one that came up least often so far.

    Wiring, widths and depths are uniform; operations on edges, and what each block is, are balanced: after
    any number of draws of a place, the counts of its choices differ by one at most (by more where a cell had
    to be drawn again for want of a path to its output).

    Args:
        space: the search space.
        generator: of everything that is drawn.
        plugins: of the space, for genotypes.
    Reference: Chu et al., FairNAS, arXiv:1907.01845 (strict fairness).
    Deviation: balanced over steps, with one update a path, and not n paths an update.
    """

    def __init__(
        self, space: AnySpace, generator: random.Random, plugins: tuple[PluginRecord, ...] = ()
    ) -> None:
        self.space, self.generator, self.plugins = space, generator, plugins
        self.counts: dict[Hashable, Counter[Any]] = {}

    def __call__(self) -> AnyGenotype:
        """The next genotype."""
        genotype = random_genotype(self.space, self.generator, self.plugins)
        if isinstance(genotype, MacroGenotype):
            assert isinstance(self.space, MacroSpace)
            return self._balanced_chain(genotype, self.space)
        assert isinstance(self.space, SearchSpace)
        return self._balanced_cells(genotype, self.space)

    def _balanced_cells(self, genotype: Genotype, space: SearchSpace) -> Genotype:
        names = [name for name in space.operations if operation_weight(name, space) > 0]
        cells: dict[str, tuple[Edge, ...]] = {}
        for kind in CELL_KINDS:
            for _ in range(MAX_TRIES):
                places = {edge: (kind, edge.node, edge.source) for edge in genotype.cell(kind)}
                chosen = {edge: self._least(place, names) for edge, place in places.items()}
                edges = tuple(edge._replace(op=op) for edge, op in chosen.items())
                if cell_is_allowed(edges, space, kind):
                    break
            else:
                edges, chosen = genotype.cell(kind), {edge: edge.op for edge in genotype.cell(kind)}
            for edge, op in chosen.items():
                self._taken(places[edge], op)
            cells[kind] = edges
        return genotype.model_copy(update=cells)

    def _balanced_chain(self, genotype: MacroGenotype, space: MacroSpace) -> MacroGenotype:
        stages = []
        for number, (stage, choices) in enumerate(zip(genotype.stages, space.stages, strict=True)):
            blocks = []
            for position, block in enumerate(stage.blocks):
                chosen = {}
                for key in BLOCK_KEYS:
                    chosen[key] = self._least((number, position, key), getattr(choices, key))
                    self._taken((number, position, key), chosen[key])
                blocks.append(block.model_copy(update=chosen))
            stages.append(stage.model_copy(update={"blocks": tuple(blocks)}))
        return genotype.model_copy(update={"stages": tuple(stages)})

    def _least(self, place: Hashable, choices: Sequence[T]) -> T:
        counts: Mapping[Any, int] = self.counts.setdefault(place, Counter())
        fewest = min(counts[choice] for choice in choices)
        return self.generator.choice([choice for choice in choices if counts[choice] == fewest])

    def _taken(self, place: Hashable, choice: Any) -> None:
        self.counts.setdefault(place, Counter())[choice] += 1
