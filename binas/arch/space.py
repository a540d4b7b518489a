"""The search space: which operations, how a cell is wired, how supernet and final network differ.

A space is one YAML file in `search_spaces/`. A mapping with a key `base` starts from another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from binas.binarize import Binarization, LayerRule
from binas.config import Config, build, find_file, merged, read_mapping
from binas.errors import UserError
from binas.ops import NONLINEARITIES, OPS, OpContext, operation_kind
from binas.ops.contract import Kind
from binas.ops.gating import GatingConfig
from binas.ops.kind import is_skip
from binas.registry import nearest


class Grouping(Config):
    """How group convolutions divide channels; one of the two numbers is set."""

    channels_per_group: int | None = Field(4, ge=1)
    """Channels in each group (binas 4, BATS 3 or 5)."""
    groups: int | None = Field(None, ge=1)
    """Number of groups; set channels_per_group to null to use it."""
    shuffle: bool = False
    """Whether a channel shuffle follows a group convolution."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Grouping:
        if (self.channels_per_group is None) == (self.groups is None):
            raise ValueError("set exactly one of channels_per_group and groups, the other to null")
        return self


class ZeroisePolicy(Config):
    """What `zeroise` may do at discretisation: in the choice of an operation and the ranking of edges."""

    policy: Literal["keep", "drop", "discount"] = "keep"
    """keep: a candidate like any other; drop: never chosen; discount: its probability is divided by gamma."""
    gamma: float = Field(1.0, gt=0)
    """Divisor of zeroise's probability under `discount` (BNAS: 3 for transfer)."""

    def unused_keys(self) -> Iterator[tuple[str, str]]:
        """The divisor, where nothing is divided."""
        if self.policy != "discount" and self.is_set("gamma"):
            yield "gamma", f"policy '{self.policy}'"


class NetworkSettings(Config):
    """Depth, width and cell settings of the supernet, or of the final network."""

    init_channels: int = Field(16, ge=1, le=65_536)
    """Channels of an operation in the first cell; doubled by each reduction."""
    num_cells: int = Field(8, ge=1, le=1_000)
    """Cells in a row."""
    reductions: tuple[int, ...] | None = None
    """Positions (from 0) of reduction cells; null: at one and two thirds of the depth."""
    widths: tuple[float, ...] | None = None
    """What multiplies the channels of each cell, in order; null: 1 everywhere."""
    stem_multiplier: int = Field(3, ge=1, le=64)
    """Channels of the stem, as a multiple of init_channels."""
    stem: Literal["cifar", "imagenet"] = "cifar"
    """cifar: one 3×3 convolution; imagenet: three of stride 2, without stem_multiplier."""
    preprocess: Literal["real", "binary"] = "binary"
    """ConvPrecision of the convolutions that bring a cell's two inputs to its width."""
    batch_norm_affine: bool = False
    """Whether batch-norms inside cells learn scale and shift."""
    batch_norm_after_pool: bool = True
    """Whether pools are followed by a batch-norm."""

    @field_validator("reductions")
    @classmethod
    def _ascending(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and list(value) != sorted({position for position in value if position >= 0}):
            raise ValueError("positions are ascending, different and not below 0")
        return value

    @model_validator(mode="after")
    def _inside(self) -> NetworkSettings:
        if self.reductions and self.reductions[-1] >= self.num_cells:
            raise ValueError(
                f"reductions: position {self.reductions[-1]} is beyond the {self.num_cells} cells (from 0)"
            )
        return self

    @model_validator(mode="after")
    def _a_width_for_each_cell(self) -> NetworkSettings:
        if self.widths is not None and (len(self.widths) != self.num_cells or not min(self.widths) > 0):
            raise ValueError(f"widths: {self.num_cells} numbers above 0 are needed, one for each cell")
        return self

    @model_validator(mode="after")
    def _halves(self) -> NetworkSettings:
        if self.stem == "imagenet" and self.init_channels % 2:
            raise ValueError(f"init_channels: {self.init_channels} is odd; stem: imagenet halves it")
        return self

    def unused_keys(self) -> Iterator[tuple[str, str]]:
        """The width of a stem that has its own."""
        if self.stem == "imagenet" and self.is_set("stem_multiplier"):
            yield "stem_multiplier", "stem 'imagenet'"

    @property
    def stem_channels(self) -> int:
        """Channels that the stem gives."""
        return self.init_channels * (1 if self.stem == "imagenet" else self.stem_multiplier)

    def reduction_positions(self) -> tuple[int, ...]:
        """The positions of reduction cells, defaults filled in."""
        if self.reductions is not None:
            return self.reductions
        return tuple(sorted({self.num_cells // 3, 2 * self.num_cells // 3}))


class SearchSpace(Config):
    """Everything that defines the set of networks that a search chooses from."""

    name: str = "unnamed"
    operations: tuple[str, ...] = Field(min_length=1)
    """Candidate operations, by registered name; their order is the order of the alphas."""
    num_nodes: int = Field(4, ge=1, le=16)
    """Intermediate nodes of a cell."""
    edges_per_node: int = Field(2, ge=1)
    """Incoming edges that each node keeps."""
    inter_cell_skip: bool = True
    """Whether the previous cell's output is added to a cell's output (not in cell 0)."""
    reduction_skip: Literal["real", "binary", "avg_pool"] = "real"
    """The inter-cell skip of reduction cells: 2×2 stride-2 convolution, real or binary, or average pool."""
    activation: str = "relu"
    """What follows each binary convolution: relu, prelu, rprelu, hard_tanh, none, or a plug-in's."""
    gating: GatingConfig | None = None
    """Learned gate on the channels of each binary convolution of an operation; null: none."""
    grouping: Grouping = Grouping()
    zeroise: ZeroisePolicy = ZeroisePolicy()
    max_skips: int | None = Field(None, ge=0)
    """At most so many skips in a normal cell, operations that hand on their input; null: any number."""
    binarization: Binarization = Binarization()
    layers: tuple[LayerRule, ...] = ()
    """Rules that binarize some layers in another way, by path or type; the last that fits decides."""
    supernet: NetworkSettings = NetworkSettings()
    """Settings of the network that is searched."""
    network: NetworkSettings = NetworkSettings()
    """Settings of the network that is retrained."""

    @field_validator("operations")
    @classmethod
    def _different(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        twice = [name for name in dict.fromkeys(value) if value.count(name) > 1]
        if twice:
            raise ValueError(f"'{twice[0]}' stands twice")
        if value == ("zeroise",):
            raise ValueError("a space of zeroise alone computes nothing; add an operation")
        return value

    def check_operations(self) -> None:
        """Raises a `UserError` for an operation or activation that is neither our own nor a plug-in's."""
        for name in self.operations:
            try:
                OPS[name]
            except UserError as error:
                raise UserError(f"search space '{self.name}': operations: {error}", hint="plugins") from None
        if self.activation not in NONLINEARITIES:
            raise UserError(
                f"search space '{self.name}': unknown activation '{self.activation}';"
                f"{nearest(self.activation, NONLINEARITIES)}",
                hint="plugins",
            )

    def kind_of(self, operation: str) -> Kind:
        """What an operation is made of where it is not strided, built as the supernet builds it."""
        return operation_kind(operation, 1, self.supernet.init_channels, self.context(self.supernet))

    def skips(self) -> frozenset[str]:
        """The operations that hand on their input as it is: `skip`, or a user's own under another name."""
        channels, context = self.supernet.init_channels, self.context(self.supernet)
        return frozenset(name for name in self.operations if name in OPS and is_skip(name, channels, context))

    def registered_names(self) -> set[str]:
        """The names of operations, activation and binarizers that it uses, a user's own ones too."""
        chosen = [self.binarization, *(rule.binarization for rule in self.layers)]
        names = {name for one in chosen if one is not None for name in one.registered_names()}
        return {*self.operations, self.activation, *names}

    def context(self, settings: NetworkSettings, binarizations: tuple[Binarization, ...] = ()) -> OpContext:
        """What operations are told when they are built for a network with these settings."""
        return OpContext(
            binarizations=binarizations or (self.binarization,),
            activation=self.activation,
            gating=self.gating,
            batch_norm_affine=settings.batch_norm_affine,
            batch_norm_after_pool=settings.batch_norm_after_pool,
            normalized_input=not settings.batch_norm_affine,
            channels_per_group=self.grouping.channels_per_group,
            groups=self.grouping.groups,
            channel_shuffle=self.grouping.shuffle,
        )


def space_mapping(value: Any, based_on: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The whole mapping of a space given by name or path, or by changes to a `base`.

    Args:
        based_on: the files that led here, each the base of the one before.
    """
    if isinstance(value, str):
        path = find_file(value, "search_spaces").resolve()
        if path in based_on:
            raise UserError(f"{path}: base: the file is based on itself; name another one")
        return space_mapping(read_mapping(path), (*based_on, path))
    if not isinstance(value, Mapping):
        raise UserError(f"space: a name, a file or a mapping is expected, not {value!r:.80}")
    changes = {key: inner for key, inner in value.items() if key != "base"}
    return merged(space_mapping(value["base"], based_on), changes) if "base" in value else changes


def load_space(value: str | Mapping[str, Any], source: str = "") -> SearchSpace:
    """The search space of cells given by name, path or mapping."""
    mapping = space_mapping(value)
    source = source or (value if isinstance(value, str) else "space")
    if mapping.get("kind") == "macro":
        raise UserError(f"{source}: is a macro space (kind: macro); a space of cells is needed here")
    return build(SearchSpace, {key: v for key, v in mapping.items() if key != "kind"}, source)
