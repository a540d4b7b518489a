"""The largest and the smallest genotype of a macro space: what a sandwich lies between."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from binas.arch.kinds import AnySpace
from binas.arch.macro_genotype import Block, MacroGenotype, MacroStem, Stage
from binas.arch.macro_space import MacroSpace
from binas.errors import UserError


def extremes(space: AnySpace) -> tuple[MacroGenotype, MacroGenotype]:
    """The genotype with the most of everything, and that with the least; of names the first one of each.

    Most are channels, blocks and kernels, least are groups and strides; the other way round for the least.

    Raises:
        UserError: the space is one of cells, of which none is largest.
    """
    if not isinstance(space, MacroSpace):
        raise UserError(
            f"space '{space.name}' is one of cells, of which none is the largest; leave sandwich out"
        )
    return _extreme(space, max, min), _extreme(space, min, max)


def _extreme(
    space: MacroSpace, most: Callable[[Sequence[int]], int], least: Callable[[Sequence[int]], int]
) -> MacroGenotype:
    kinds = {"cifar": 1, "imagenet": 2}
    stride = least([kinds[kind] for kind in space.stem.kind])
    kind = next(kind for kind in space.stem.kind if kinds[kind] == stride)
    stem = MacroStem(kind=kind, channels=most(space.stem.channels))
    stages, width = [], stem.channels
    for choices in space.stages:
        fitting = [one for one in choices.channels if one >= width or not space.non_decreasing]
        width = most(fitting)
        block = Block(
            kernel_size=most(choices.kernel_size),
            groups=least(choices.groups),
            activation=choices.activation[0],
            skip=choices.skip[0],
        )
        stages.append(
            Stage(channels=width, stride=least(choices.stride), blocks=(block,) * most(choices.depth))
        )
    return MacroGenotype(stem=stem, stages=tuple(stages), space=space.model_dump(mode="json"))
