"""The looks shared by every drawing: colours that colour-blind readers tell apart, and the legend.

Blue and vermilion are Okabe and Ito's; shape (round or square corners) and line (solid or dashed) repeat
what colour says, so that a picture printed in grey still reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from binas.draw.graph import Box


class Look(NamedTuple):
    """How boxes and lines of one kind are drawn."""

    fill: str
    line: str
    text: str
    rounded: bool
    dashed: bool


LOOKS = {
    "binary": Look(fill="#d6e9f8", line="#0072b2", text="#00304d", rounded=True, dashed=False),
    "real": Look(fill="#fce4d2", line="#d55e00", text="#5a2700", rounded=False, dashed=False),
    "weightless": Look(fill="#fce4d2", line="#d55e00", text="#5a2700", rounded=False, dashed=False),
    "unknown": Look(fill="#f7f7f7", line="#333333", text="#111111", rounded=False, dashed=False),
    "none": Look(fill="#ffffff", line="#767676", text="#595959", rounded=True, dashed=True),
    "end": Look(fill="#f2f2f2", line="#333333", text="#111111", rounded=True, dashed=False),
    "node": Look(fill="#ffffff", line="#333333", text="#111111", rounded=True, dashed=False),
    "concat": Look(fill="#ffffff", line="#555555", text="#111111", rounded=True, dashed=False),
    "dead": Look(fill="#ededed", line="#bdbdbd", text="#767676", rounded=True, dashed=True),
}

LEGEND = (
    ("binary", "binary convolution"),
    ("real", "parameter-free or real-valued operation"),
    ("none", "zeroised"),
    ("dead", "dead: carries only zeros"),
)
UNKNOWN = ("unknown", "of a plug-in that is not loaded")


def legend_of(boxes: Iterable[Box]) -> tuple[tuple[str, str], ...]:
    """The kinds that a picture explains: the same for all cells, and what is unknown where there is any."""
    kinds = {box.kind for box in boxes}
    legend = LEGEND if "node" in kinds else LEGEND[:2]  # stages have no nodes, and nothing in them is dead
    return (*legend, UNKNOWN) if "unknown" in kinds else legend


def look_of(kind: str, dead: bool) -> Look:
    """The look of a box or line; whatever is dead is grey, a zeroised edge stays recognisable."""
    if not dead:
        return LOOKS[kind]
    return LOOKS["dead"]._replace(rounded=LOOKS[kind].rounded, dashed=LOOKS[kind].dashed or kind == "node")
