"""A genotype as panels side by side: the two cells, or a macro genotype's stages from left to right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from binas.arch.genotype import CELL_KINDS, NUM_INPUTS, AnyGenotype, Genotype
from binas.arch.macro_genotype import MacroGenotype, PlacedBlock
from binas.draw.graph import Box, Link, cell_graph, operation_label, scene

TITLES = {"normal": "Normal cell", "reduce": "Reduction cell"}


class Panel(NamedTuple):
    """A titled part of a picture.

    Args:
        name: tells it from the others.
        title: stands above it.
        boxes, links: what is in it.
        row: names of boxes that stand beside each other, in this order.
    """

    name: str
    title: str
    boxes: Sequence[Box]
    links: Sequence[Link]
    row: Sequence[str] = ()


def panels_of(genotype: AnyGenotype, kinds: Sequence[str] = CELL_KINDS) -> list[Panel]:
    """What a picture of a genotype shows.

    Args:
        kinds: of the cells that are shown.
    """
    if isinstance(genotype, MacroGenotype):
        return _stages(genotype)
    return [_cell(genotype, kind) for kind in kinds]


def _cell(genotype: Genotype, kind: str) -> Panel:
    boxes, links = scene(cell_graph(genotype, kind))
    return Panel(kind, TITLES[kind], boxes, links, [str(number) for number in range(NUM_INPUTS)])


def _stages(genotype: MacroGenotype) -> list[Panel]:
    stem = genotype.stem
    texts = ["image", f"conv 3×3, {stem.channels}"]
    panels = [_column("stem", f"Stem{_format_stride(stem.stride)}", texts, ["end", "real"])]
    for number, stage in enumerate(genotype.stages):
        blocks = [place for place in genotype.blocks() if place.stage == number]
        title = f"Stage {number + 1}: {stage.channels} channels{_format_stride(stage.stride)}"
        panels.append(
            _column(f"stage{number}", title, [_format_block(b) for b in blocks], ["binary"] * len(blocks))
        )
    return [*panels, _column("head", "Head", ["global average", "linear"], ["real", "real"])]


def _column(name: str, title: str, texts: Sequence[str], kinds: Sequence[str]) -> Panel:
    boxes = [
        Box(str(layer), text, kind, False, layer)
        for layer, (text, kind) in enumerate(zip(texts, kinds, strict=True))
    ]
    links = [Link(str(layer), str(layer + 1), "node", False, True) for layer in range(len(boxes) - 1)]
    return Panel(name, title, boxes, links)


def _format_stride(stride: int) -> str:
    return f", stride {stride}" if stride > 1 else ""


def _format_block(place: PlacedBlock) -> str:
    block = place.block
    side = f"{block.kernel_size}×{block.kernel_size}"
    grouped = f" in {block.groups} groups" if block.groups > 1 else ""
    lines = [f"conv {side}{grouped}, then 1×1", f"{operation_label(block.activation)}, {_format_skip(place)}"]
    if block.estimator is not None:
        lines.append(operation_label(block.estimator.name))
    return "\n".join(lines)


def _format_skip(place: PlacedBlock) -> str:
    kind = place.block.skip
    if kind == "none":
        return "no skip"
    if place.stride == 1 and (kind != "real" or place.in_channels == place.out_channels):
        return "skip"
    return f"{kind} skip" if kind == "real" else f"{kind} pool skip"
