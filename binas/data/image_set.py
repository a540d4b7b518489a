"""Labelled images in one of two forms: a uint8 tensor, or files that are decoded when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images that are held in memory.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def select(self, positions: Tensor) -> ImageSet:
        """The images at these positions, in this order."""
        return ImageSet(self.images[positions], self.labels[positions])

    def read(self, positions: Tensor) -> Tensor:
        """The pixels at these positions, uint8 (n, C, H, W)."""
        return self.images[positions.to(self.images.device)]


@dataclass(frozen=True, eq=False)
class StreamedImageSet:
    """Images that stay on disk and are decoded by the workers of a `Batches`.

    Args:
        paths: one file an image.
        labels: int64 (N,).
        shape: channels, height and width that `decode` gives.
        decode: turns a file into a uint8 tensor (C, H, W).
        num_workers: processes that decode.
    """

    paths: Sequence[Path]
    labels: Tensor
    shape: tuple[int, int, int]
    decode: Callable[[Path], Tensor]
    num_workers: int

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, positions: Tensor) -> StreamedImageSet:
        """The images at these positions, in this order."""
        paths = [self.paths[position] for position in positions.tolist()]
        return StreamedImageSet(paths, self.labels[positions], self.shape, self.decode, self.num_workers)

    def read(self, positions: Tensor) -> Tensor:
        """The pixels at these positions, uint8 (n, C, H, W), decoded here and now."""
        if len(positions) == 0:
            return torch.empty(0, *self.shape, dtype=torch.uint8)
        return torch.stack([self.decode(self.paths[position]) for position in positions.tolist()])


Images = ImageSet | StreamedImageSet
