"""Random genotypes of a space: the control that every search has to beat."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import overload

from binas.arch.discretize import genotype_of
from binas.arch.genotype import CELL_KINDS, ZEROISE, AnyGenotype, Edge, Genotype
from binas.arch.kinds import AnySpace
from binas.arch.macro_genotype import Block, MacroGenotype, MacroStem, Stage
from binas.arch.macro_space import BLOCK_KEYS, MacroSpace
from binas.arch.space import SearchSpace
from binas.errors import UserError
from binas.plugins import PluginRecord

MAX_DRAWS = 10_000


@overload
def random_genotype(
    space: SearchSpace, generator: random.Random, plugins: tuple[PluginRecord, ...] = ()
) -> Genotype: ...


@overload
def random_genotype(
    space: AnySpace, generator: random.Random, plugins: tuple[PluginRecord, ...] = ()
) -> AnyGenotype: ...


def random_genotype(
    space: AnySpace, generator: random.Random, plugins: tuple[PluginRecord, ...] = ()
) -> AnyGenotype:
    """A genotype drawn uniformly, of cells under the space's zeroise policy.

    Each node gets `edges_per_node` different sources and an operation for each: under `drop` never
    zeroise, under `discount` zeroise with 1/gamma of another operation's weight. A cell in which no path
    leads from an input to the output is drawn again, and so is one with more skips than `max_skips`.
    Of a macro space everything is drawn for itself: widths (again, where they may not fall and do), depths,
    strides, and what each block is.
    """
    space.check_operations()
    if isinstance(space, MacroSpace):
        return _random_chain(space, generator, plugins)
    cells = {kind: _random_cell(space, generator, kind) for kind in CELL_KINDS}
    return genotype_of(cells, space, plugins)


def _random_chain(
    space: MacroSpace, generator: random.Random, plugins: tuple[PluginRecord, ...]
) -> MacroGenotype:
    widths = _random_widths(space, generator)
    stages = []
    for choices, channels in zip(space.stages, widths[1:], strict=True):
        stride = generator.choice(choices.stride)
        blocks = tuple(
            Block(**{key: generator.choice(getattr(choices, key)) for key in BLOCK_KEYS})
            for _ in range(generator.choice(choices.depth))
        )
        stages.append(Stage(channels=channels, stride=stride, blocks=blocks))
    stem = MacroStem(kind=generator.choice(space.stem.kind), channels=widths[0])
    return MacroGenotype(
        stem=stem, stages=tuple(stages), space=space.model_dump(mode="json"), plugins=plugins
    )


def _random_widths(space: MacroSpace, generator: random.Random) -> list[int]:
    choices = [space.stem.channels, *(stage.channels for stage in space.stages)]
    for _ in range(MAX_DRAWS):
        widths = [generator.choice(one) for one in choices]
        if not space.non_decreasing or widths == sorted(widths):
            return widths
    raise UserError(
        f"search space '{space.name}': none of {MAX_DRAWS} random widths did not fall; set non_decreasing:"
        " false, or give later stages wider channels"
    )


def _random_cell(space: SearchSpace, generator: random.Random, kind: str) -> Sequence[Edge]:
    weights = [operation_weight(name, space) for name in space.operations]
    for _ in range(MAX_DRAWS):
        edges = []
        for node in range(2, 2 + space.num_nodes):
            sources = sorted(generator.sample(range(node), min(space.edges_per_node, node)))
            operations = generator.choices(space.operations, weights, k=len(sources))
            edges += [Edge(node, source, op) for source, op in zip(sources, operations, strict=True)]
        if cell_is_allowed(edges, space, kind):
            return edges
    raise UserError(f"search space '{space.name}': none of {MAX_DRAWS} random cells obeyed its limits")


def cell_is_allowed(edges: Sequence[Edge], space: SearchSpace, kind: str) -> bool:
    """Whether a path leads from an input to the output, and a normal cell has at most `max_skips` skips."""
    most = space.max_skips if kind == "normal" else None
    too_many = most is not None and sum(edge.op in space.skips() for edge in edges) > most
    return not too_many and _reaches_output(edges)


def _reaches_output(edges: Sequence[Edge]) -> bool:
    live = {0, 1}
    for edge in edges:
        if edge.op != ZEROISE and edge.source in live:
            live.add(edge.node)
    return len(live) > 2


def operation_weight(name: str, space: SearchSpace) -> float:
    """How often an operation is drawn, next to the others: what the zeroise policy says."""
    if name != ZEROISE or space.zeroise.policy == "keep":
        return 1.0
    return 0.0 if space.zeroise.policy == "drop" else 1 / space.zeroise.gamma
