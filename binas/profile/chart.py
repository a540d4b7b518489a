"""A profile as a bar chart: operations and size of every convolution and linear layer."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from binas.profile.cost import LayerCost, Profile
from binas.profile.table import kilobytes, parts_of, short_count
from binas.run.files import picture_ending, write_atomic

ENDINGS = ("png", "svg", "pdf")
DPI = 150
BINARY, REAL = "#0072b2", "#d55e00"
"""Okabe and Ito's blue and vermilion, as in drawings of cells."""
MAX_LABELS = 24
MAX_HATCHED = 150
WIDE = 1000
"""Ratio of heights from which powers of ten alone are enough labels."""


def save_chart(profile: Profile, path: Path | str) -> Path:
    """Draws the chart into a file and returns its path.

    Args:
        profile: what is shown.
        path: the file to write; its ending, one of png, svg and pdf, says what it becomes.

    Raises:
        UserError: the ending is another one, or the file cannot be written.
    """
    path = Path(path)
    ending = picture_ending(path, ENDINGS)
    content = io.BytesIO()
    figure(profile).savefig(content, format=ending, dpi=DPI)
    write_atomic(path, content.getvalue())
    return path


def figure(profile: Profile) -> Any:
    """The chart as a matplotlib figure that no window shows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    parts = [(part, _counted(layers)) for part, layers in parts_of(profile)]
    parts = [(part, layers) for part, layers in parts if layers]
    layers = [layer for _, inner in parts for layer in inner]
    width = min(16.0, max(7.0, 2 + 0.14 * len(layers)))
    chart = Figure(figsize=(width, 5.5), layout="constrained")
    FigureCanvasAgg(chart)
    above, below = chart.subplots(2, 1, sharex=True)
    _bars(above, layers, [layer.ops for layer in layers], "OPs (FLOPs + BOPs/64)", short_count)
    _bars(below, layers, [layer.packed_bytes for layer in layers], "packed size", _bytes)
    _parts(above, below, parts)
    above.set_title(
        f"{short_count(profile.ops)} OPs, {kilobytes(profile.file_bytes)} packed,"
        f" {profile.binary_share:.1%} of the parameters binary",
        fontsize=10,
    )
    _legend(above, hatched=len(layers) <= MAX_HATCHED)
    return chart


def _counted(layers: Sequence[LayerCost]) -> list[LayerCost]:
    return [layer for layer in layers if layer.kind in ("convolution", "linear")]


def _bars(axes: Any, layers: Sequence[LayerCost], heights: Sequence[float], label: str, text: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    colors = [BINARY if layer.binary_parameters else REAL for layer in layers]
    bars = axes.bar(range(len(layers)), heights, color=colors, width=0.8)
    for bar, layer in zip(bars, layers, strict=True):
        if not layer.binary_parameters and len(layers) <= MAX_HATCHED:
            bar.set_hatch("////")  # readable in grey too, where bars are wide enough
            bar.set_edgecolor("white")
    # one real-valued layer costs as much as dozens of binary ones: a linear axis would hide those
    axes.set_yscale("log")
    if max(heights) < WIDE * min(heights):
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel(f"{label}, log scale", fontsize=9)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _parts(above: Any, below: Any, parts: Sequence[tuple[str, Sequence[LayerCost]]]) -> None:
    """Separates the parts of the network by thin lines and names them under the lower axes."""
    start = 0
    ticks, labels = [], []
    every = -(-len(parts) // MAX_LABELS)
    for index, (part, layers) in enumerate(parts):
        if start:
            for axes in (above, below):
                axes.axvline(start - 0.5, color="#cccccc", linewidth=0.6, zorder=0)
        if index % every == 0 or index == len(parts) - 1:
            ticks.append(start + (len(layers) - 1) / 2)
            labels.append(part)
        start += len(layers)
    below.set_xticks(ticks, labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    below.set_xlim(-0.7, start - 0.3)


def _legend(axes: Any, hatched: bool) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=BINARY, label="binary weights"),
        Patch(
            facecolor=REAL, edgecolor="white", hatch="////" if hatched else "", label="real-valued weights"
        ),
    ]
    axes.legend(
        handles=handles, fontsize=8, frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, -0.16)
    )


def _bytes(value: float) -> str:
    return f"{value / 1000:,.0f} kB" if value >= 1000 else f"{value:,.0f} B"
