"""Crops of real colour photographs that are installed with scikit-image and scikit-learn.

The photograph is the label. Each is covered by a grid of crops that do not overlap; whole columns of the
grid belong to the test, so that training and test come from different regions and share no pixel.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from binas.data.config import DataConfig
from binas.data.source import DATASETS, ArraySource, RawData
from binas.data.splits import seeded
from binas.errors import UserError

PHOTOS = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "cat": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "galaxies": ("skimage", "data/hubble_deep_field.jpg"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "retina": ("skimage", "data/retina.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "stained_cells": ("skimage", "data/ihc.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "temple": ("sklearn", "datasets/images/china.jpg"),
}

# grey levels; the black frame around the retina says nothing about it
MIN_DEVIATION = 2.0


@DATASETS.register("photo_patches")
def photo_patches(config: DataConfig) -> RawData:
    """Colour crops of ten photographs, `patch_size` wide, at most `images_per_class` of each."""
    training: list[tuple[Tensor, Tensor]] = []
    test: list[tuple[Tensor, Tensor]] = []
    num_test = min(max(round(config.images_per_class * config.test_fraction), 1), config.images_per_class - 2)
    for label, name in enumerate(PHOTOS):
        grid = patch_grid(_read(name), config.patch_size)
        is_test = is_test_column(grid.shape[1], config.test_fraction)
        for patches, cap, chosen in (
            (grid[:, ~is_test], config.images_per_class - num_test, training),
            (grid[:, is_test], num_test, test),
        ):
            kept = _capped(patches.flatten(0, 1), cap, f"{name} {chosen is test}", config.split_seed)
            chosen.append((kept, torch.full((len(kept),), label)))
    return RawData(tuple(PHOTOS), _joined(training), _joined(test))


def patch_grid(photo: Tensor, side: int) -> Tensor:
    """The crops that cover a photograph from its upper left corner, without overlap.

    Shape: (C, H, W) to (H // side, W // side, C, side, side).
    """
    return photo.unfold(1, side, side).unfold(2, side, side).permute(1, 2, 0, 3, 4)


def is_test_column(num_columns: int, fraction: float) -> Tensor:
    """Which columns of a grid belong to the test: `fraction` of them, spread over the width."""
    passed = torch.floor((torch.arange(num_columns + 1) + 0.5) * fraction)
    is_test = passed[1:] > passed[:-1]
    if not is_test.any() or is_test.all():
        is_test = torch.arange(num_columns) == num_columns // 2
    return is_test


def _capped(patches: Tensor, cap: int, purpose: str, seed: int) -> Tensor:
    patches = patches[patches.flatten(1).float().std(dim=1) >= MIN_DEVIATION]
    chosen = torch.randperm(len(patches), generator=seeded(f"photo {purpose}", seed))[:cap]
    return patches[chosen.sort().values].contiguous()


def _joined(parts: list[tuple[Tensor, Tensor]]) -> ArraySource:
    return ArraySource(torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts]))


def _read(name: str) -> Tensor:
    package, file = PHOTOS[name]
    # the package is located, not imported: its own data functions may download
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(
            "data.name: photo_patches needs the photographs of scikit-image; pip install 'binas[photos]'"
        )
    path = Path(spec.origin).parent / file
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
    except OSError as error:
        raise UserError(
            f"data.name: photo_patches cannot read {path} ({error}); reinstall scikit-image and scikit-learn"
        ) from None
    return torch.from_numpy(pixels).permute(2, 0, 1)
