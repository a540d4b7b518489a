"""Cells as a matplotlib figure: our own layout, the object interface only, no window and no pyplot state."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve
from matplotlib.textpath import TextPath

from binas.arch.genotype import CELL_KINDS, AnyGenotype
from binas.draw.graph import Box, Link
from binas.draw.layout import Layout, Point, place
from binas.draw.panels import panels_of
from binas.draw.style import Look, legend_of, look_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from matplotlib.axes import Axes

FONT = "DejaVu Sans"  # travels with matplotlib, so a picture looks the same everywhere
TEXT_SIZE = 9.0
TITLE_SIZE = 12.0
LINE_HEIGHT = 11.5
PADDING = 6.0
MARGIN = 14.0
CELL_GAP = 40.0
TITLE_HEIGHT = 30.0
LEGEND_HEIGHT = 22.0
POINTS_PER_INCH = 72.0
IMAGE_DPI = 100


def figure(genotype: AnyGenotype, kinds: Sequence[str] = CELL_KINDS) -> Figure:
    """The cells of those kinds, or the stages, side by side with titles and a legend, sized to fit."""
    panels = panels_of(genotype, kinds)
    scenes = [(panel.boxes, panel.links) for panel in panels]
    layouts = [place(boxes, links, {box.name: _size(box) for box in boxes}) for boxes, links in scenes]
    widths = [
        max(layout.width, 1.25 * text_width(panel.title, TITLE_SIZE))
        for panel, layout in zip(panels, layouts, strict=True)
    ]
    cells_width = sum(widths) + CELL_GAP * (len(panels) - 1)
    legend = _legend_rows(legend_of(box for boxes, _ in scenes for box in boxes), cells_width)
    width = max(cells_width, *(_row_width(row) for row in legend)) + 2 * MARGIN
    cells_height = TITLE_HEIGHT + max(layout.height for layout in layouts)
    height = cells_height + LEGEND_HEIGHT * (len(legend) + 0.5) + 2 * MARGIN
    drawing = Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH), facecolor="white")
    FigureCanvasAgg(drawing)
    axes = drawing.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    left = (width - cells_width) / 2
    for panel, layout, width_of in zip(panels, layouts, widths, strict=True):
        middle = left + width_of / 2
        axes.text(
            middle,
            MARGIN + 8,
            panel.title,
            fontsize=TITLE_SIZE,
            fontweight="bold",
            ha="center",
            va="center",
            family=FONT,
        )
        inside = (middle - layout.width / 2, MARGIN + TITLE_HEIGHT)
        _draw_cell(axes, panel.boxes, panel.links, layout, inside)
        left += width_of + CELL_GAP
    for number, row in enumerate(legend):
        _draw_legend(axes, row, width / 2, MARGIN + cells_height + LEGEND_HEIGHT * (number + 1))
    return drawing


def cell_image(genotype: AnyGenotype) -> npt.NDArray[np.uint8]:
    """A genotype as an RGB image for a log.

    Shape: (H, W, 3), uint8.
    """
    return image(figure(genotype))


def image(drawing: Figure, dpi: int = IMAGE_DPI) -> npt.NDArray[np.uint8]:
    """A figure as pixels.

    Shape: (H, W, 3), uint8.
    """
    import numpy as np

    drawing.set_dpi(dpi)
    canvas = FigureCanvasAgg(drawing)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


@lru_cache(maxsize=1024)
def text_width(text: str, size: float = TEXT_SIZE) -> float:
    """The width of a line of text, in points."""
    if not text.strip():
        return 0.0
    return float(TextPath((0, 0), text, prop=FontProperties(family=FONT, size=size)).get_extents().width)


def _size(box: Box) -> tuple[float, float]:
    lines = _shown(box).split("\n")
    # subscripts are measured by the letters they are written with, a little too wide
    return max(text_width(line) for line in lines) + 2 * PADDING, len(lines) * LINE_HEIGHT + PADDING


def _shown(box: Box) -> str:
    return box.text.replace("{", "").replace("}", "") if box.kind == "end" else box.text


def _draw_cell(
    axes: Axes, boxes: Sequence[Box], links: Sequence[Link], layout: Layout, origin: Point
) -> None:
    for link, route in zip(links, layout.routes, strict=True):
        _draw_link(axes, [(x + origin[0], y + origin[1]) for x, y in route], link)
    for box in boxes:
        at = layout.places[box.name]
        _draw_box(axes, at.x + origin[0], at.y + origin[1], at.width, at.height, look_of(box.kind, box.dead))
        subscripted = box.kind == "end" and "{" in box.text
        axes.text(
            at.x + origin[0],
            at.y + origin[1],
            f"${box.text}$" if subscripted else box.text,
            fontsize=TEXT_SIZE + 1.5 * subscripted,
            color=look_of(box.kind, box.dead).text,
            ha="center",
            va="center",
            linespacing=1.1,
            family=FONT,
            parse_math=subscripted,
            zorder=3,
        )


def _draw_box(axes: Axes, x: float, y: float, width: float, height: float, look: Look) -> None:
    rounding = min(height / 2, 9.0)
    style = f"round,pad=0,rounding_size={rounding}" if look.rounded else "square,pad=0"
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle=style,
            facecolor=look.fill,
            edgecolor=look.line,
            linewidth=1.1,
            linestyle=(0, (3, 2)) if look.dashed else "-",
            zorder=2,
        )
    )


def _draw_link(axes: Axes, route: Sequence[Point], link: Link) -> None:
    look = look_of(link.kind, link.dead)
    points, codes = [route[0]], [Curve.MOVETO]
    for index in range(1, len(route)):
        (x0, y0), (x1, y1) = route[index - 1], route[index]
        if index % 2 == 1:  # straight down through a layer
            points.append((x1, y1))
            codes.append(Curve.LINETO)
        else:
            points += [(x0, (y0 + y1) / 2), (x1, (y0 + y1) / 2), (x1, y1)]
            codes += [Curve.CURVE4] * 3
    axes.add_patch(
        PathPatch(
            Curve(points, codes),
            facecolor="none",
            edgecolor=look.line,
            linewidth=1.1,
            linestyle=(0, (3, 2)) if look.dashed else "-",
            capstyle="butt",
            zorder=1,
        )
    )
    if link.arrow:
        x, y = route[-1]
        head = Curve(
            [(x, y), (x - 2.8, y - 6.5), (x + 2.8, y - 6.5), (x, y)],
            [Curve.MOVETO, Curve.LINETO, Curve.LINETO, Curve.CLOSEPOLY],
        )
        axes.add_patch(PathPatch(head, facecolor=look.line, edgecolor="none", zorder=1.5))


SWATCH = 18.0
ENTRY_GAP = 18.0


def _entry_width(text: str) -> float:
    return SWATCH + 5.0 + text_width(text)


def _row_width(row: Sequence[tuple[str, str]]) -> float:
    return sum(_entry_width(text) for _, text in row) + ENTRY_GAP * (len(row) - 1)


def _legend_rows(legend: Sequence[tuple[str, str]], width: float) -> list[Sequence[tuple[str, str]]]:
    return [legend] if _row_width(legend) <= width else [legend[:2], legend[2:]]


def _draw_legend(axes: Axes, row: Sequence[tuple[str, str]], middle: float, y: float) -> None:
    left = middle - _row_width(row) / 2
    for kind, text in row:
        _draw_box(axes, left + SWATCH / 2, y, SWATCH, 11.0, look_of(kind, False))
        axes.text(left + SWATCH + 5.0, y, text, fontsize=TEXT_SIZE, ha="left", va="center", family=FONT)
        left += _entry_width(text) + ENTRY_GAP
