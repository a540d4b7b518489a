"""What a dataset hands over before it is split, and the registry of datasets.

A dataset is a function from `DataConfig` to `RawData`, registered by name; a plug-in adds its own with
`@DATASETS.register("name")` and usually returns an `ArraySource` of uint8 pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from binas.data.config import DataConfig
from binas.data.image_set import Images, ImageSet
from binas.data.pixels import convert
from binas.registry import Registry


class Source(Protocol):
    """Labelled images of which any part can be told apart by a hash and loaded."""

    @property
    def labels(self) -> Tensor:
        """The class of every image, int64 (N,)."""

    def digest(self, indices: Tensor) -> str:
        """A sha256 that changes when these images or their labels do."""

    def load(self, indices: Tensor, config: DataConfig) -> Images:
        """These images at the size and with the channels that the settings ask for."""


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Images that are in memory from the start; the hash is over indices, labels and pixels.

    Args:
        images: uint8 (N, C, H, W) with 1 or 3 channels.
        labels: int64 (N,).
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4 or self.images.shape[1] not in (1, 3):
            found = f"{self.images.dtype} {tuple(self.images.shape)}"
            raise ValueError(f"images must be torch.uint8 of shape (N, 1 or 3, H, W), not {found}")
        if self.labels.dtype != torch.int64 or self.labels.shape != (len(self.images),):
            raise ValueError(f"labels must be torch.int64 of shape ({len(self.images)},)")

    def digest(self, indices: Tensor) -> str:
        """The sha256 of the images at these indices, at their original size."""
        digest = hashlib.sha256(f"{tuple(self.images.shape[1:])}".encode())
        for part in (indices, self.labels[indices], self.images[indices]):
            digest.update(part.contiguous().numpy().data)
        return digest.hexdigest()

    def load(self, indices: Tensor, config: DataConfig) -> ImageSet:
        """The images at these indices, resized and converted."""
        return ImageSet(
            convert(self.images[indices], config.image_size, config.channels), self.labels[indices]
        )


@dataclass(frozen=True, eq=False)
class RawData:
    """A dataset before it is split.

    Args:
        class_names: label i is called `class_names[i]`.
        training: what train and search-validation (and test, where it is None) are cut from.
        test: the set's own test images.
    """

    class_names: tuple[str, ...]
    training: Source
    test: Source | None = None

    def __post_init__(self) -> None:
        for source in (self.training, *([self.test] if self.test is not None else [])):
            labels = source.labels
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.class_names):
                raise ValueError(f"labels must be between 0 and {len(self.class_names) - 1}")


DATASETS: Registry[Callable[[DataConfig], RawData]] = Registry("dataset")
register_dataset = DATASETS.register
