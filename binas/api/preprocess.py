"""From pictures to what a network was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from binas.data.batches import Batches
from binas.data.image_file import read_pixels
from binas.data.image_set import ImageSet
from binas.data.in_memory import to_pixels
from binas.data.pixels import convert
from binas.errors import UserError


@dataclass(frozen=True)
class Preprocess:
    """From pictures to what a network was trained on: its size, its channels, its scaling.

    Args:
        image_size: height and width in pixels.
        channels: 1 or 3.
        mean, std: of each channel of the training images, pixels scaled to 0..1.
    """

    image_size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Any) -> Tensor:
        """The images as the network takes them.

        Args:
            images: one, or several: files, pictures of Pillow, arrays (H, W, C), tensors (C, H, W) or
                (N, C, H, W); uint8, or floats from 0 to 1.
        Shape: -> (N, channels, *image_size), float32.
        """
        pixels = torch.cat([convert(one, self.image_size, self.channels) for one in _opened(images)])
        labels = torch.zeros(len(pixels), dtype=torch.int64)
        batches = Batches(ImageSet(pixels, labels), max(len(pixels), 1), "cpu", self.mean, self.std)
        return next(iter(batches.epoch(0, shuffle=False)))[0]


def _opened(images: Any) -> Iterator[Tensor]:
    """Stacks of pixels, uint8 (n, C, H, W)."""
    if not isinstance(images, list | tuple):
        images = [images]
    if not images:
        raise UserError("predict: there are no images")
    for one in images:
        pixels = read_pixels(Path(one)) if isinstance(one, str | Path) else to_pixels(one)
        yield pixels if pixels.dim() == 4 else pixels[None]
