"""Augmentation of whole batches: the draws are made on the CPU, the pixels moved on any device.

Shapes: N images, C channels, H rows, W columns. No function loops over images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from binas.data.config import Augmentation


@dataclass(frozen=True, eq=False)
class Draws:
    """What chance decided for N images.

    Args:
        offsets: int64 (N, 2), row and column of the crop in the padded image.
        flips: bool (N,).
        centres: int64 (N, 2), row and column of the middle of the cutout.
    """

    offsets: Tensor
    flips: Tensor
    centres: Tensor

    def of(self, part: slice) -> Draws:
        """The draws of some of the images."""
        return Draws(self.offsets[part], self.flips[part], self.centres[part])

    def to(self, device: torch.device) -> Draws:
        """The same draws on another device."""
        return Draws(self.offsets.to(device), self.flips.to(device), self.centres.to(device))


def draw(
    augmentation: Augmentation, num_images: int, size: tuple[int, int], generator: torch.Generator
) -> Draws:
    """The draws for so many images of height and width `size`."""
    span = 2 * augmentation.crop_padding + 1
    offsets = torch.randint(span, (num_images, 2), generator=generator)
    flips = torch.rand(num_images, generator=generator) < 0.5
    rows = torch.randint(size[0], (num_images,), generator=generator)
    columns = torch.randint(size[1], (num_images,), generator=generator)
    return Draws(offsets, flips, torch.stack([rows, columns], dim=1))


def crop(images: Tensor, offsets: Tensor, padding: int) -> Tensor:
    """Each image after a border of zeros is put around it and a window of the old size is cut out.

    Shape: (N, C, H, W) and (N, 2) to (N, C, H, W).
    """
    num_images, channels, height, width = images.shape
    padded = F.pad(images, (padding, padding, padding, padding))
    rows = offsets[:, 0, None] + torch.arange(height, device=images.device)
    columns = offsets[:, 1, None] + torch.arange(width, device=images.device)
    flat = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
    index = flat.view(num_images, 1, height * width).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, index).view(images.shape)


def flip(images: Tensor, flips: Tensor) -> Tensor:
    """Those images mirrored left and right for which `flips` is true.

    Shape: (N, C, H, W) and (N,) to (N, C, H, W).
    """
    return torch.where(flips.view(-1, 1, 1, 1), images.flip(3), images)


def cutout(images: Tensor, centres: Tensor, size: int) -> Tensor:
    """Each image with zeros in a square of `size` rows and columns, as far as it lies inside.

    Shape: (N, C, H, W) and (N, 2) to (N, C, H, W).
    """
    _, _, height, width = images.shape
    first = centres - size // 2
    rows = torch.arange(height, device=images.device) - first[:, 0, None]
    columns = torch.arange(width, device=images.device) - first[:, 1, None]
    hit_rows = (rows >= 0) & (rows < size)
    hit_columns = (columns >= 0) & (columns < size)
    hit = hit_rows[:, None, :, None] & hit_columns[:, None, None, :]
    return images.masked_fill(hit, 0)
