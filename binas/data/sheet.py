"""What `binas data` shows: a table of the splits and a picture of some training images of each class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from binas.data.open_data import Data
from binas.errors import UserError

COLUMNS = 10
MAX_ROWS = 20
GAP = 1


def summarize(data: Data) -> str:
    """A table of images per class and split, then size, channels, mean, deviation and split hashes."""
    height, width = data.image_size
    splits = list(data.counts)
    rows = [("class", *splits)]
    rows += [
        (name, *(str(data.counts[split][label]) for split in splits))
        for label, name in enumerate(data.class_names)
    ]
    rows.append(("all", *(str(sum(data.counts[split])) for split in splits)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    facts = [
        f"{data.name}: {data.num_classes} classes, {height} x {width} pixels, {data.channels} channel(s)",
        f"mean {_numbers(data.mean)}, deviation {_numbers(data.std)} (training images, scaled to 0..1)",
    ]
    hashes = [f"{split.ljust(17)}  {text}" for split, text in data.split_hashes.items()]
    return "\n".join([*facts, "", *table, "", "sha256 of the splits", *hashes])


def save_grid(data: Data, path: Path) -> None:
    """Writes a PNG with one class a row: ten training images of each of at most twenty classes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = data.class_names[:MAX_ROWS]
    mosaic = _mosaic(data, len(names))
    height, width = data.image_size
    figure = Figure(figsize=(9, 1 + 7.2 / COLUMNS * len(names) * height / width), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # map and limits matter to grey images only
    axes.imshow(mosaic, interpolation="nearest", cmap="gray", vmin=0, vmax=255)
    centres = [row * (height + GAP) + height / 2 for row in range(len(names))]
    # names are a user's words: a dollar sign in them is no formula
    axes.set_yticks(centres, labels=names, parse_math=False)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    of_all = "" if len(names) == data.num_classes else f", {len(names)} of {data.num_classes} classes"
    axes.set_title(f"{data.name}: training images{of_all}", parse_math=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", dpi=120, bbox_inches="tight")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None


def _mosaic(data: Data, num_rows: int) -> np.ndarray:
    height, width = data.image_size
    shape = (data.channels, num_rows * (height + GAP) - GAP, COLUMNS * (width + GAP) - GAP)
    mosaic: Tensor = torch.full(shape, 255, dtype=torch.uint8)
    training = data.train()
    for row in range(num_rows):
        members = (training.labels == row).nonzero().flatten()
        members = members[:: max(len(members) // COLUMNS, 1)][:COLUMNS]
        for column, image in enumerate(training.read(members)):
            top, left = row * (height + GAP), column * (width + GAP)
            mosaic[:, top : top + height, left : left + width] = image
    pixels = mosaic.permute(1, 2, 0).numpy()
    return pixels[:, :, 0] if data.channels == 1 else pixels


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
