"""The macro search space: for every stage of a network the values that a macro genotype chooses from.

A space file says `kind: macro`. Its choices are where the parameters sit (widths, depths, kernels, groups),
which activation follows, and what goes around a block; a macro genotype holds one value of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from binas.arch.macro_genotype import (
    MAX_BLOCKS,
    MAX_CHANNELS,
    MAX_KERNEL,
    MAX_STAGES,
    MacroGenotype,
    SkipKind,
    StemKind,
)
from binas.binarize import Binarization, LayerRule
from binas.config import Config
from binas.errors import UserError
from binas.ops import NONLINEARITIES
from binas.registry import nearest

T = TypeVar("T")


def _as_choices(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _different(value: tuple[Any, ...]) -> tuple[Any, ...]:
    twice = [one for one in value if value.count(one) > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} stands twice")
    return value


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("an odd kernel is needed, whose output keeps the size")
    return value


Choices = Annotated[
    tuple[T, ...], BeforeValidator(_as_choices), Field(min_length=1), AfterValidator(_different)
]
"""Values to choose from; a single one needs no list."""
Channels = Annotated[int, Field(ge=1, le=MAX_CHANNELS, strict=True)]
Depth = Annotated[int, Field(ge=1, le=MAX_BLOCKS, strict=True)]
KernelSize = Annotated[int, Field(ge=1, le=MAX_KERNEL, strict=True), AfterValidator(_odd)]


class StemChoices(Config):
    """What may read the pixels."""

    kind: Choices[StemKind] = ("cifar",)
    """Stride of its convolution: 1 (cifar) or 2 (imagenet), so the resolution of all that follows."""
    channels: Choices[Channels]
    """Of its output."""


class StageChoices(Config):
    """What a stage may be; kernel, groups, activation and skip are chosen for each of its blocks."""

    channels: Choices[Channels]
    """Of the output of each block."""
    depth: Choices[Depth] = (1,)
    """Number of blocks."""
    stride: Choices[Literal[1, 2]] = (1,)
    """Of the first block."""
    kernel_size: Choices[KernelSize] = (3,)
    """Side of the first convolution's kernel, odd."""
    groups: Choices[Channels] = (1,)
    """Of the first convolution; each divides every width that can come in."""
    activation: Choices[str] = ("rprelu",)
    """What follows each half of a block, by registered name."""
    skip: Choices[SkipKind] = ("average",)
    """The shortcut around each half of a block: average, max, real or none."""


BLOCK_KEYS = ("kernel_size", "groups", "activation", "skip")
"""What is chosen for each block alone."""


class MacroSpace(Config):
    """Everything that defines a set of macro genotypes, and how their networks are binarized.

    Reference: Lin et al., NAS-BNN, arXiv:2408.15484, for the kind of space.
    """

    kind: Literal["macro"] = "macro"
    name: str = "unnamed"
    stem: StemChoices
    stages: tuple[StageChoices, ...] = Field(min_length=1, max_length=MAX_STAGES)
    non_decreasing: bool = True
    """Whether no stage is narrower than what comes before it."""
    binarization: Binarization = Binarization()
    layers: tuple[LayerRule, ...] = ()
    """Rules that binarize some layers in another way, by path or type; the last that fits decides."""

    @model_validator(mode="after")
    def _groups_divide(self) -> MacroSpace:
        before: Sequence[int] = self.stem.channels
        for number, stage in enumerate(self.stages):
            later = stage.channels if max(stage.depth) > 1 else ()
            for width in (*before, *later):
                wrong = next((groups for groups in stage.groups if width % groups), None)
                if wrong is not None:
                    raise ValueError(
                        f"stages.{number}.groups: {wrong} does not divide {width} channels that can come in;"
                        " leave it out, or choose widths that it divides"
                    )
            before = stage.channels
        return self

    @model_validator(mode="after")
    def _some_widths_do_not_fall(self) -> MacroSpace:
        least = min(self.stem.channels)
        for number, stage in enumerate(self.stages):
            fitting = [width for width in stage.channels if width >= least]
            if self.non_decreasing and not fitting:
                raise ValueError(
                    f"stages.{number}.channels: none is at least {least}, the least that can come in; add a"
                    " wider one, or set non_decreasing: false"
                )
            least = min(fitting, default=least)
        return self

    def check_operations(self) -> None:
        """Raises a `UserError` for an activation that is neither our own nor a plug-in's."""
        for number, stage in enumerate(self.stages):
            for name in stage.activation:
                if name not in NONLINEARITIES:
                    raise UserError(
                        f"search space '{self.name}': stages.{number}.activation: unknown activation"
                        f" '{name}';{nearest(name, NONLINEARITIES)}",
                        hint="plugins",
                    )

    def registered_names(self) -> set[str]:
        """The names of activations and binarizers that it uses, a user's own ones too."""
        chosen = [self.binarization, *(rule.binarization for rule in self.layers)]
        names = {name for one in chosen if one is not None for name in one.registered_names()}
        return names | {name for stage in self.stages for name in stage.activation}

    def check(self, genotype: MacroGenotype) -> None:
        """Raises a `UserError` where a genotype is none of this space, by the key that does not fit."""
        if len(genotype.stages) != len(self.stages):
            raise UserError(
                f"genotype: stages: it has {len(genotype.stages)}, but its space '{self.name}' has"
                f" {len(self.stages)}; it is of another space"
            )
        for key, value, choices in self._chosen(genotype):
            if value not in choices:
                raise UserError(
                    f"genotype: {key}: {value!r} is not in its space '{self.name}'"
                    f" ({', '.join(map(str, choices))}); it is of another space"
                )
        widths = genotype.widths()
        fallen = [place for place in range(1, len(widths)) if widths[place] < widths[place - 1]]
        if self.non_decreasing and fallen:
            raise UserError(
                f"genotype: stages.{fallen[0] - 1}.channels: {widths[fallen[0]]} is narrower than the"
                f" {widths[fallen[0] - 1]} before, and its space '{self.name}' says non_decreasing: true"
            )

    def _chosen(self, genotype: MacroGenotype) -> Iterator[tuple[str, Any, Sequence[Any]]]:
        """What a genotype chose: key, value and the space's choices."""
        yield "stem.kind", genotype.stem.kind, self.stem.kind
        yield "stem.channels", genotype.stem.channels, self.stem.channels
        for number, (stage, choices) in enumerate(zip(genotype.stages, self.stages, strict=True)):
            yield f"stages.{number}.channels", stage.channels, choices.channels
            yield f"stages.{number}.stride", stage.stride, choices.stride
            yield f"stages.{number}.blocks: depth", len(stage.blocks), choices.depth
            for position, block in enumerate(stage.blocks):
                for key in BLOCK_KEYS:
                    where = f"stages.{number}.blocks.{position}.{key}"
                    yield where, getattr(block, key), getattr(choices, key)
