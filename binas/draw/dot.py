"""Cells as text in graphviz's DOT language, one cluster per cell; needs no `dot` program."""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import pairwise

import graphviz

from binas.arch.genotype import AnyGenotype
from binas.draw.graph import Box, Link
from binas.draw.panels import panels_of
from binas.draw.style import legend_of, look_of

FONT = "Helvetica,Arial,sans-serif"


def dot_graph(genotype: AnyGenotype) -> graphviz.Digraph:
    """Both cells, or all stages, side by side, titled, with a legend below; `.source` is the text."""
    drawing = graphviz.Digraph("cells")
    drawing.attr(
        rankdir="TB",
        nodesep="0.16",
        ranksep="0.28",
        fontname=FONT,
        labelloc="b",
        bgcolor="white",
        pad="0.2",
    )
    drawing.attr("node", fontname=FONT, fontsize="10", height="0.26", margin="0.09,0.04")
    drawing.attr("edge", fontname=FONT, arrowsize="0.6")
    panels = panels_of(genotype)
    drawing.attr(label=_legend([box for panel in panels for box in panel.boxes]))
    for panel in panels:
        kind = panel.name
        with drawing.subgraph(name=f"cluster_{kind}") as cell:
            cell.attr(
                label=f"<<B>{panel.title}</B>>", labelloc="t", fontsize="13", color="white", margin="14"
            )
            for box in panel.boxes:
                cell.node(f"{kind}_{box.name}", _label(box), **_box_style(box))
            for link in panel.links:
                cell.edge(f"{kind}_{link.start}", f"{kind}_{link.end}", **_link_style(link))
            with cell.subgraph() as inputs:
                inputs.attr(rank="same")
                for one, other in pairwise(panel.row):
                    inputs.edge(f"{kind}_{one}", f"{kind}_{other}", style="invis")
    return drawing


def _label(box: Box) -> str:
    if box.kind == "end" and "_" in box.text:
        base, _, below = box.text.partition("_")
        return f"<{base}<SUB>{below.strip('{}')}</SUB>>"
    return str(graphviz.nohtml(graphviz.escape(box.text).replace("\n", "\\n")))


def _box_style(box: Box) -> dict[str, str]:
    look = look_of(box.kind, box.dead)
    style = ["filled", *(["rounded"] if look.rounded else []), *(["dashed"] if look.dashed else [])]
    return {
        "shape": "box",
        "style": ",".join(style),
        "fillcolor": look.fill,
        "color": look.line,
        "fontcolor": look.text,
    }


def _link_style(link: Link) -> dict[str, str]:
    look = look_of(link.kind, link.dead)
    return {
        "color": look.line,
        "style": "dashed" if look.dashed else "solid",
        "arrowhead": "normal" if link.arrow else "none",
    }


def _legend(boxes: Sequence[Box]) -> str:
    cells = []
    for kind, text in legend_of(boxes):
        look = look_of(kind, False)
        style = ",".join([*(["rounded"] if look.rounded else []), *(["dashed"] if look.dashed else [])])
        cells.append(
            f'<TD BORDER="1" BGCOLOR="{look.fill}" COLOR="{look.line}" STYLE="{style}" WIDTH="18"></TD>'
            f'<TD ALIGN="LEFT">{html.escape(text)}  </TD>'
        )
    return (
        f'<<FONT POINT-SIZE="10"><TABLE BORDER="0" CELLSPACING="4"><TR>{"".join(cells)}</TR></TABLE></FONT>>'
    )
