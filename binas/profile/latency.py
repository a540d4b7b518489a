"""A look-up table of the times that single layers take on a device, and the latency of a network by it."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator
from torch import nn

from binas.config import Config, build, dump_mapping, read_mapping
from binas.errors import UserError
from binas.profile.cost import LayerCost, Profile, Shape
from binas.profile.measures import Measure, register_measure
from binas.run.files import write_atomic

COUNTED = {"convolution": "conv", "linear": "linear"}
"""The kinds of layers that a table has, and their first words in it."""


def signature(layer: LayerCost) -> str:
    """All that decides a layer's time, in one line that a person can read.

    `conv 3x3/2 groups 16 dilation 1, 64x32x32 -> 128x16x16, weights 1 bit, inputs 1 bit`: kernel, stride,
    channels, height and width. Several codes for one number are told as `2 x 1 bit`.
    """
    word = COUNTED[layer.kind]
    if layer.kernel is not None:
        size, stride, dilation = (layer.kernel.size, layer.kernel.stride, layer.kernel.dilation)
        word += f" {_joined(size)}/{_once(stride)} groups {layer.kernel.groups} dilation {_once(dilation)},"
    shapes = f"{_joined(layer.input_shape)} -> {_joined(layer.output_shape)}"
    weights = _bits(layer.weight_bases, layer.weight_bits // layer.weight_bases)
    return f"{word} {shapes}, weights {weights}, inputs {_bits(layer.input_bases, layer.input_bits)}"


def signatures(layers: Iterable[LayerCost]) -> list[tuple[str, LayerCost]]:
    """The layers whose time counts, with their signatures: convolutions and linear ones."""
    return [(signature(layer), layer) for layer in layers if layer.kind in COUNTED]


def _joined(lengths: Shape) -> str:
    return "x".join(map(str, lengths))


def _once(lengths: Shape) -> str:
    return str(lengths[0]) if len(set(lengths)) == 1 else _joined(lengths)


def _bits(bases: int, bits: int) -> str:
    return f"{f'{bases} x ' if bases > 1 else ''}{bits} bit{'s' * (bits > 1)}"


class Entry(Config):
    """What one layer takes."""

    layer: str = Field(min_length=1)
    """Its signature, as the tool writes it."""
    ms: float = Field(ge=0, allow_inf_nan=False)
    """Milliseconds for one image."""


class LatencyTable(Config):
    """The times of layers on one device.

    The latency of a network is the sum over its convolutions and linear layers; all others are free.

    Reference: Wang et al., APQ, arXiv:2006.08509, and its released code (a table of latencies on BitFusion).
    """

    device: str = Field(min_length=1)
    """Where the times come from, in words."""
    unit: Literal["ms"]
    """Of all times."""
    entries: tuple[Entry, ...]

    @field_validator("entries")
    @classmethod
    def _each_once(cls, value: tuple[Entry, ...]) -> tuple[Entry, ...]:
        seen: set[str] = set()
        for entry in value:
            if entry.layer in seen:
                raise ValueError(f"'{entry.layer}' stands twice; remove one of them")
            seen.add(entry.layer)
        return value

    @classmethod
    def read(cls, path: Path) -> Self:
        """The table in a YAML or JSON file.

        Raises:
            UserError: it cannot be read, or is none.
        """
        return build(cls, read_mapping(path), str(path))

    def write(self, path: Path) -> None:
        """Writes it as YAML, a line for each layer; as JSON where the file's name ends so."""
        plain = self.model_dump(mode="json")
        if path.suffix == ".json":
            write_atomic(path, json.dumps(plain, indent=1) + "\n")
            return
        head = dump_mapping({key: value for key, value in plain.items() if key != "entries"})
        rows = [f"- {{layer: {json.dumps(entry.layer)}, ms: {entry.ms}}}" for entry in self.entries]
        write_atomic(path, "\n".join([f"{head}entries:{'' if rows else ' []'}", *rows]) + "\n")

    def digest(self) -> str:
        """A hash of what it says, in whatever order and file."""
        times = sorted((entry.layer, entry.ms) for entry in self.entries)
        return hashlib.sha256(json.dumps([self.device, self.unit, times]).encode()).hexdigest()


@register_measure("latency_ms")
class LatencyMilliseconds(Measure):
    """Milliseconds for one image: the sum over convolutions and linear layers of what a table says.

    Args:
        table: a file of the times of single layers on a device; `binas latency` measures one.
    Raises:
        UserError: it cannot be read, or holds no table.
    """

    unit = "ms"
    reads_network = False

    def __init__(self, table: Path) -> None:
        if not table.is_file():
            raise UserError(
                f"limits.latency_ms.table: {table}: no such file, beside the recipe or here; measure it",
                hint="latency",
            )
        self.path, self.table = table, LatencyTable.read(table)
        self._times = {entry.layer: entry.ms for entry in self.table.entries}

    def about(self) -> dict[str, str]:
        """Which table it is, in plain types."""
        return {"device": self.table.device, "hash": self.table.digest()}

    def __call__(self, network: nn.Module, profile: Profile) -> float:
        """The latency in milliseconds of one image.

        Raises:
            UserError: the table lacks one of the layers.
        """
        total = 0.0
        for words, layer in signatures(profile.layers):
            if words not in self._times:
                raise self._missing(words)
            total += self._times[words] * layer.runs
        return total

    def _missing(self, words: str) -> UserError:
        near = difflib.get_close_matches(words, self._times, n=1, cutoff=0.0)
        nearest = f"the nearest is '{near[0]}'" if near else "it has none at all"
        return UserError(
            f"{self.path}: lacks the layer '{words}'; {nearest}. Measure the missing layers"
            " into it; a study that is under way keeps the table it was begun with, so begin a new one then",
            hint="latency",
        )
