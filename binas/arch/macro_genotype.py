"""The macro genotype: a chain of stages of blocks, each with its own kernel, groups, activation and skip.

Where a cell genotype says how a cell is wired and repeats it, a macro genotype says of every block of a
network what it is: where the parameters sit. It never builds a model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from binas.arch.genotype_file import GenotypeFile
from binas.binarize import BinarizerSpec
from binas.config import Config

MAX_CHANNELS = 65_536
MAX_STAGES = 64
MAX_BLOCKS = 256
MAX_KERNEL = 15
MAX_NAME = 100  # characters of an activation's name

StemKind = Literal["cifar", "imagenet"]
SkipKind = Literal["average", "max", "real", "none"]


class MacroStem(Config):
    """What reads the pixels: a real-valued 3×3 convolution and a batch-norm."""

    kind: StemKind = "cifar"
    """The convolution's stride: 1 (cifar) or 2 (imagenet)."""
    channels: int = Field(ge=1, le=MAX_CHANNELS, strict=True)
    """Of its output."""

    @property
    def stride(self) -> int:
        """Of the convolution."""
        return 2 if self.kind == "imagenet" else 1


class Block(Config):
    """Two halves: a k×k convolution that keeps the width, and a 1×1 convolution that brings the stage's."""

    kernel_size: int = Field(3, ge=1, le=MAX_KERNEL, strict=True)
    """Side of the first convolution's kernel, odd."""
    groups: int = Field(1, ge=1, le=MAX_CHANNELS, strict=True)
    """Of the first convolution."""
    activation: str = Field("rprelu", min_length=1, max_length=MAX_NAME)
    """What follows each half, by registered name."""
    skip: SkipKind = "average"
    """The shortcut around each half: a 2×2 pool halves its size, and its channels are repeated where the half
    widens; real: average pool and real-valued 1×1 convolution in place of both; none: no shortcuts."""
    estimator: BinarizerSpec | None = None
    """The activation binarizer of both convolutions; null: that of the space or the training stage."""

    @field_validator("kernel_size")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("an odd kernel is needed, whose output keeps the size")
        return value

    @field_validator("activation")
    @classmethod
    def _printable(cls, value: str) -> str:
        if not value.isprintable():
            raise ValueError("a name is of printable letters")
        return value

    @field_validator("estimator", mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_serializer(mode="wrap")
    def _without_what_was_not_chosen(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        return {key: value for key, value in fields.items() if value is not None}


class Stage(Config):
    """Blocks of one width; the first one takes the stride and brings the width along."""

    channels: int = Field(ge=1, le=MAX_CHANNELS, strict=True)
    """Of the output of each block."""
    stride: Literal[1, 2] = 1
    """Of the first convolution of the first block."""
    blocks: tuple[Block, ...] = Field(min_length=1, max_length=MAX_BLOCKS)

    @field_validator("stride", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        if type(value) is not int:  # True and 1.0 equal 1
            raise ValueError("a whole number is needed, 1 or 2")
        return value


class PlacedBlock(NamedTuple):
    """A block with what its place in the chain says of it."""

    stage: int
    position: int
    block: Block
    in_channels: int
    out_channels: int
    stride: int

    @property
    def name(self) -> str:
        """Of its module in the network."""
        return f"stages.{self.stage}.{self.position}"


class MacroGenotype(GenotypeFile):
    """A network as a chain: stem, stages of blocks, global average and classifier.

    Reference: the space of Lin et al., NAS-BNN, arXiv:2408.15484, is one whose members it can say.
    """

    kind: Literal["macro"] = "macro"
    stem: MacroStem
    stages: tuple[Stage, ...] = Field(min_length=1, max_length=MAX_STAGES)

    @model_validator(mode="after")
    def _groups_divide(self) -> MacroGenotype:
        for place in self.blocks():
            if place.in_channels % place.block.groups:
                raise ValueError(
                    f"stages.{place.stage}.blocks.{place.position}.groups: {place.block.groups} does not"
                    f" divide the {place.in_channels} channels that come in"
                )
        return self

    def blocks(self) -> Iterator[PlacedBlock]:
        """All blocks in the order in which they run."""
        channels = self.stem.channels
        for number, stage in enumerate(self.stages):
            for position, block in enumerate(stage.blocks):
                stride = stage.stride if position == 0 else 1
                yield PlacedBlock(number, position, block, channels, stage.channels, stride)
                channels = stage.channels

    def widths(self) -> tuple[int, ...]:
        """Channels of the stem and of every stage."""
        return (self.stem.channels, *(stage.channels for stage in self.stages))

    def registered_names(self) -> set[str]:
        """The names of activations and estimators that its blocks use."""
        blocks = [place.block for place in self.blocks()]
        estimators = {block.estimator.name for block in blocks if block.estimator is not None}
        return {*(block.activation for block in blocks), *estimators}

    def hash(self) -> str:
        """A name of what is computed: equal however the same chain of blocks is divided into stages.

        A shortcut that is the identity is not told apart from another. Provenance, plug-in hashes and the
        settings of the space are left out.
        """
        chain = []
        for place in self.blocks():
            fields = place.block.model_dump(mode="json")
            is_wider = place.in_channels != place.out_channels
            if place.stride == 1 and place.block.skip in (("max",) if is_wider else ("max", "real")):
                fields["skip"] = "average"
            chain.append([place.out_channels, place.stride, fields])
        canonical = json.dumps([self.kind, self.stem.model_dump(mode="json"), chain], sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def _written(self, key: str, value: Any) -> str:
        if key == "stem":
            return json.dumps(value)
        if key != "stages":
            return super()._written(key, value)
        return "[\n" + ",\n".join(_stage_text(stage) for stage in value) + "\n  ]"


def _stage_text(stage: dict[str, Any]) -> str:
    blocks = ",\n".join("      " + json.dumps(block) for block in stage["blocks"])
    head = json.dumps({key: value for key, value in stage.items() if key != "blocks"})
    return f'    {head[:-1]}, "blocks": [\n{blocks}\n    ]}}'
