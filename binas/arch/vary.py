"""Genotypes from others: mutation and crossover within a space, of cells and of macro genotypes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

from binas.arch.discretize import genotype_of
from binas.arch.genotype import CELL_KINDS, AnyGenotype, Edge, Genotype
from binas.arch.kinds import AnySpace
from binas.arch.macro_genotype import Block, MacroGenotype, Stage
from binas.arch.macro_space import BLOCK_KEYS, MacroSpace, StageChoices
from binas.arch.sample import cell_is_allowed, operation_weight, random_genotype
from binas.arch.space import SearchSpace
from binas.plugins import PluginRecord

T = TypeVar("T")
MAX_TRIES = 100


def mutation(
    genotype: AnyGenotype,
    space: AnySpace,
    generator: random.Random,
    rate: float,
    *,
    plugins: tuple[PluginRecord, ...] = (),
) -> AnyGenotype:
    """A genotype in which each choice is drawn anew with a probability.

    Of a cell each edge's operation and each edge's source are choices; of a chain the stem, each stage's
    width, depth and stride, and each of a block's settings. What the space does not allow is tried again; a
    random genotype is given where nothing allowed is found.

    Args:
        rate: the probability, in [0, 1].
    """

    def attempt() -> AnyGenotype | None:
        if isinstance(space, MacroSpace):
            assert isinstance(genotype, MacroGenotype)
            return _mutated_chain(genotype, space, generator, rate)
        assert isinstance(genotype, Genotype)
        cells = {kind: _mutated_cell(genotype.cell(kind), space, generator, rate) for kind in CELL_KINDS}
        return _allowed_cells(cells, space, plugins)

    return _tried(attempt, space, generator, plugins)


def crossover(
    first: AnyGenotype,
    second: AnyGenotype,
    space: AnySpace,
    generator: random.Random,
    *,
    plugins: tuple[PluginRecord, ...] = (),
) -> AnyGenotype:
    """A genotype whose parts come from either of two: nodes of each cell, or stages of a chain.

    What the space does not allow is tried again; a random genotype is given where nothing allowed is found.
    """

    def attempt() -> AnyGenotype | None:
        if isinstance(space, MacroSpace):
            assert isinstance(first, MacroGenotype) and isinstance(second, MacroGenotype)
            stages = tuple(generator.choice(pair) for pair in zip(first.stages, second.stages, strict=True))
            stem = generator.choice((first.stem, second.stem))
            return _allowed_chain(first.model_copy(update={"stem": stem, "stages": stages}), space)
        assert isinstance(first, Genotype) and isinstance(second, Genotype)
        cells: dict[str, list[Edge]] = {}
        for kind in CELL_KINDS:
            cells[kind] = []
            for node in range(2, 2 + space.num_nodes):
                parent = generator.choice((first, second))
                cells[kind] += [edge for edge in parent.cell(kind) if edge.node == node]
        return _allowed_cells(cells, space, plugins)

    return _tried(attempt, space, generator, plugins)


def _tried(
    attempt: Callable[[], AnyGenotype | None],
    space: AnySpace,
    generator: random.Random,
    plugins: tuple[PluginRecord, ...],
) -> AnyGenotype:
    for _ in range(MAX_TRIES):
        found = attempt()
        if found is not None:
            return found
    return random_genotype(space, generator, plugins)


def _mutated_cell(
    edges: Sequence[Edge], space: SearchSpace, generator: random.Random, rate: float
) -> list[Edge]:
    weights = [operation_weight(name, space) for name in space.operations]
    result = []
    for node in range(2, 2 + space.num_nodes):
        own = [edge for edge in edges if edge.node == node]
        sources = [edge.source for edge in own]
        for place in range(len(own)):
            free = [source for source in range(node) if source not in sources]
            if free and generator.random() < rate:
                sources[place] = generator.choice(free)
        for edge, source in zip(own, sources, strict=True):
            is_new = generator.random() < rate
            op = generator.choices(space.operations, weights)[0] if is_new else edge.op
            result.append(Edge(node, source, op))
    return sorted(result, key=lambda edge: (edge.node, edge.source))


def _allowed_cells(
    cells: dict[str, list[Edge]], space: SearchSpace, plugins: tuple[PluginRecord, ...]
) -> Genotype | None:
    if all(cell_is_allowed(edges, space, kind) for kind, edges in cells.items()):
        return genotype_of(cells, space, plugins)
    return None


def _mutated_chain(
    genotype: MacroGenotype, space: MacroSpace, generator: random.Random, rate: float
) -> MacroGenotype | None:
    def again(value: T, choices: Sequence[T]) -> T:
        return generator.choice(choices) if generator.random() < rate else value

    stem = genotype.stem.model_copy(
        update={
            key: again(getattr(genotype.stem, key), getattr(space.stem, key)) for key in ("kind", "channels")
        }
    )
    stages = []
    for stage, choices in zip(genotype.stages, space.stages, strict=True):
        depth = again(len(stage.blocks), choices.depth)
        blocks = [_mutated_block(block, choices, again) for block in stage.blocks[:depth]]
        while len(blocks) < depth:
            blocks.append(Block(**{key: generator.choice(getattr(choices, key)) for key in BLOCK_KEYS}))
        stages.append(
            Stage(
                channels=again(stage.channels, choices.channels),
                stride=again(stage.stride, choices.stride),
                blocks=tuple(blocks),
            )
        )
    return _allowed_chain(genotype.model_copy(update={"stem": stem, "stages": tuple(stages)}), space)


def _mutated_block(block: Block, choices: StageChoices, again: Callable[[Any, Sequence[Any]], Any]) -> Block:
    return Block(**{key: again(getattr(block, key), getattr(choices, key)) for key in BLOCK_KEYS})


def _allowed_chain(genotype: MacroGenotype, space: MacroSpace) -> MacroGenotype | None:
    widths = genotype.widths()
    falls = any(later < earlier for earlier, later in pairwise(widths))
    return None if space.non_decreasing and falls else genotype
