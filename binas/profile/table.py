"""A profile as text: the printed table with its conventions, and comma-separated values."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from binas.profile.cost import CONVENTIONS, LayerCost, Profile
from binas.profile.executed import ROOT

MAX_NAME = 34
MARKS = "abcdefghijklmnopqrstuvwxyz"

Row = tuple[str, ...]


def to_table(profile: Profile, layers: bool = False) -> str:
    """The table that `binas profile` prints: a row for stem, each cell or block and head; totals; rules.

    Args:
        profile: what is shown.
        layers: a row for every layer instead, with a letter for the reason why it is real-valued.
    """
    body = _layer_rows(profile) if layers else _part_rows(profile)
    heads = (
        "layer" if layers else "part",
        "output" if layers else "pixels",
        *("parameters", "binary", "bits", "kB", "output kB", "FLOPs", "BOPs", "OPs"),
        *(("real",) if layers else ()),
    )
    total = ("total", "", *_numbers(profile.layers), *(("",) if layers else ()))
    parts = [_aligned([heads, *body, total]), _columns(profile), _precisions(profile), _sentences(profile)]
    reasons = _reasons(profile)
    return "\n\n".join([*parts, *([reasons] if reasons else []), CONVENTIONS]) + "\n"


def to_csv(profile: Profile) -> str:
    """One line per layer, with a heading; shapes are written 16x8x8."""
    text = io.StringIO()
    rows = [layer.to_json() for layer in profile.layers]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0] if rows else [])
    for row in rows:
        writer.writerow(
            "x".join(map(str, value)) if isinstance(value, list) else value for value in row.values()
        )
    return text.getvalue()


def parts_of(profile: Profile) -> list[tuple[str, list[LayerCost]]]:
    """The layers by the part of the network that they stand in: stem, each cell or block, head."""
    inside = {block for layer in profile.layers if (block := _block(layer.name)) not in ("", layer.name)}
    return [
        (part, list(layers))
        for part, layers in groupby(profile.layers, key=lambda layer: _part(layer.name, inside))
    ]


def kilobytes(num_bytes: int) -> str:
    """A size as people read it: `12.3 kB`."""
    return f"{num_bytes / 1000:,.1f} kB"


def short_count(count: float) -> str:
    """A count with three digits and a letter: 52.7k, 5.53M."""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.3g}{letter}" if count < 999.5 * limit else f"{count / limit:.0f}{letter}"
    return f"{count:.4g}"


def _block(name: str) -> str:
    """The name up to its first number: that of a block, where layers stand inside."""
    words = name.split(".")
    number = next((position for position, word in enumerate(words) if word.isdigit()), None)
    return "" if not number else ".".join(words[: number + 1])


def _part(name: str, blocks: set[str]) -> str:
    first, *more = name.split(".")
    if first in ("classifier", ROOT):
        return "head"
    if first == "cells":
        return f"cell {more[0]}"
    return block if (block := _block(name)) in blocks else first


def _part_rows(profile: Profile) -> list[Row]:
    return [
        (part, "×".join(map(str, layers[-1].output_shape[1:])), *_numbers(layers))
        for part, layers in parts_of(profile)
    ]


def _layer_rows(profile: Profile) -> list[Row]:
    marks = {why: mark for why, (mark, _) in _by_reason(profile).items()}
    return [
        (
            _shortened(layer.name),
            "×".join(map(str, layer.output_shape)),
            *_numbers([layer]),
            marks.get(layer.reason, ""),
        )
        for layer in profile.layers
    ]


def _numbers(layers: Iterable[LayerCost]) -> Row:
    part = Profile(tuple(layers))
    binary = f"{part.binary_share:.1%}" if part.parameters else "-"
    stored = (short_count(part.bits), f"{part.packed_bytes / 1000:,.1f}")
    outputs = f"{sum(layer.activation_bytes for layer in part.layers) / 1000:,.1f}"
    counts = (short_count(part.flops), short_count(part.bops), short_count(part.ops))
    return (f"{part.parameters:,}", binary, *stored, outputs, *counts)


def _columns(profile: Profile) -> str:
    first = (profile.flops, profile.bops, profile.ops)
    second = (profile.flops_of_everything, profile.bops, profile.ops_of_everything)
    names = ("FLOPs", "BOPs", "OPs")
    rows = [
        (name, f"{one:,.0f}", f"{all_:,.0f}") for name, one, all_ in zip(names, first, second, strict=True)
    ]
    return _aligned([("", "convolutions and linear", "everything"), *rows])


def _precisions(profile: Profile) -> str:
    rows = [
        (name, f"{count:,}", f"{bits:,}", f"{bits / profile.bits:.1%}")
        for name, (count, bits) in profile.by_precision().items()
    ]
    return _aligned([("", "parameters", "bits", "of the size"), *rows])


def _sentences(profile: Profile) -> str:
    extra = profile.parameters_as_published - profile.parameters
    lines = [
        f"{profile.binary_parameters:,} of {profile.parameters:,} parameters are binary"
        f" ({profile.binary_share:.1%}); {profile.bits:,} bits.",
        f"A packed file would take {kilobytes(profile.file_bytes)} ({kilobytes(profile.packed_bytes)} of"
        f" parameters, {kilobytes(profile.scale_bytes)} of scales); as float32"
        f" {kilobytes(profile.float_bytes)}.",
        f"Activations: input and output of one layer take {kilobytes(profile.largest_activation_bytes)} at"
        " most, as float32.",
    ]
    if extra:
        lines.append(
            f"As published {profile.parameters_as_published:,} parameters: {extra:,} more in"
            f" {len(profile.unread)} layers that nothing reads."
        )
    return "\n".join(lines)


def _by_reason(profile: Profile) -> dict[str, tuple[str, list[LayerCost]]]:
    """The real-valued layers by the reason why they are, each with its letter in the table of layers."""
    found: dict[str, tuple[str, list[LayerCost]]] = {}
    for layer in profile.layers:
        if layer.reason:
            found.setdefault(layer.reason, (MARKS[min(len(found), len(MARKS) - 1)], []))[1].append(layer)
    return found


def _reasons(profile: Profile) -> str:
    lines = []
    for why, (mark, layers) in _by_reason(profile).items():
        count = sum(layer.real_parameters for layer in layers)
        lines.append(f"  {mark} {count:,} in {_shortened(layers[0].name)}{_and_more(len(layers) - 1)}: {why}")
    return "\n".join(["Real-valued parameters besides batch-norms, and why:", *lines]) if lines else ""


def _and_more(count: int) -> str:
    return f" and {count} more" if count else ""


def _shortened(name: str) -> str:
    name = re.sub(r"^cells\.(\d+)\.edges\.edge_(\d+)_(\d+)\.", r"cell \1 \3→\2 ", name)
    name = re.sub(r"^cells\.(\d+)", r"cell \1", name).replace(ROOT, "global average")
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


def _aligned(rows: Sequence[Row]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)
