"""Batches of normalised images on the training device, in an order that only the seed decides."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from copy import copy
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from binas.data.augment import Draws, crop, cutout, draw, flip
from binas.data.config import Augmentation
from binas.data.image_set import Images, ImageSet, StreamedImageSet
from binas.data.splits import seeded
from binas.errors import UserError
from binas.run.memory import available_bytes

RESIDENT_SHARE = 0.25
"""Images wait on a GPU where they take at most this part of its free memory."""


class Batches:
    """Hands out an image set batch by batch, as often as wanted.

    Images in memory are kept as uint8 on the device where there is room, and in pinned memory otherwise, from
    which they are copied while the device computes; streamed ones are decoded by worker processes.
    Black is the border of a random crop, the mean colour fills a cutout.

    Args:
        image_set: what to hand out.
        batch_size: images in a batch, of all ranks together; the last one may be smaller.
        device: where the batches are wanted.
        mean: of every channel, pixels scaled to 0..1.
        std: likewise.
        augmentation: None leaves the images as they are.
        drop_last: leave out a last batch that is smaller than the others.
        on_device: whether images in memory wait on the device.
        part: which of how many equal parts of every batch to hand out, (0, 1) all of it: ranks that train
            together see what one process would, less the few images that cannot be shared out evenly.
    Raises:
        UserError: there are not two images for each part.
    """

    def __init__(
        self,
        image_set: Images,
        batch_size: int,
        device: torch.device | str,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        augmentation: Augmentation | None = None,
        drop_last: bool = False,
        on_device: Literal["auto", "on", "off"] = "auto",
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.part, self.num_parts = part
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.batch_size = batch_size
        self.device = torch.device(device)
        self.augmentation = augmentation or Augmentation()
        self.drop_last = drop_last
        if self.num_parts > 1 and min(batch_size, len(image_set.labels)) < 2 * self.num_parts:
            raise UserError(
                f"{len(image_set.labels)} images in batches of {batch_size} are too few for {self.num_parts}"
                " ranks, each needs two; use fewer ranks, more images or a larger batch_size"
            )
        self._labels = image_set.labels.to(self.device)
        self._images: Images = image_set
        if isinstance(image_set, ImageSet) and _is_resident(image_set.images, self.device, on_device):
            self._images = ImageSet(image_set.images.to(self.device), self._labels)
        std_of_levels = torch.tensor(std, dtype=torch.float64) * 255
        shift = -torch.tensor(mean, dtype=torch.float64) * 255 / std_of_levels
        self._scale = (1 / std_of_levels).float().view(1, -1, 1, 1).to(self.device)
        self._shift = shift.float().view(1, -1, 1, 1).to(self.device)

    @property
    def num_images(self) -> int:
        """Images of an epoch, in all parts together."""
        total = len(self._labels)
        rest = total % self.batch_size
        cannot_be_shared = self.num_parts > 1 and rest < 2 * self.num_parts and total > rest
        return total - rest if self.drop_last or cannot_be_shared else total

    def __len__(self) -> int:
        return -(-self.num_images // self.batch_size)

    @property
    def largest(self) -> int:
        """Images of the largest batch that is handed out."""
        return min(self.batch_size, self.num_images) // self.num_parts

    def first(self, most: int) -> Batches:
        """Batches of so many images at most, every n-th one, in their order."""
        if most >= len(self._labels):
            return self
        other = copy(self)
        kept = torch.linspace(0, len(self._labels) - 1, most).round().long()
        other._labels = self._labels[kept.to(self.device)]
        other._images = self._images.select(kept)
        return other

    def epoch(
        self, seed: int, shuffle: bool = True, every: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass: normalised float images (n, C, H, W) and labels (n,), the same for the same seed.

        Args:
            every: (1, 3) hands out the batches 1, 4, 7 and so on, counted from 0.
        """
        order = torch.arange(len(self._labels))
        if shuffle:
            order = order[torch.randperm(len(order), generator=seeded("order", seed))]
        order = order[: self.num_images]
        size = self._images.shape[1:]
        draws = draw(self.augmentation, len(order), size, seeded("augmentation", seed)).to(self.device)
        parts = self._parts(len(order))[every[0] :: every[1]]
        # one copy an epoch: a copy for each batch would make the device wait each time
        labels = self._labels[order.to(self.device)]
        for pixels, part in zip(self._pixels([order[part] for part in parts]), parts, strict=True):
            yield self._finished(pixels, draws.of(part)), labels[part]

    def _parts(self, num_images: int) -> list[slice]:
        """The places in the order of what each batch hands out here."""
        parts = []
        for start in range(0, num_images, self.batch_size):
            share = min(self.batch_size, num_images - start) // self.num_parts
            parts.append(slice(start + self.part * share, start + (self.part + 1) * share))
        return parts

    def _pixels(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        if isinstance(self._images, ImageSet) and self._images.images.device.type == self.device.type:
            order = torch.cat(list(parts)) if parts else torch.empty(0, dtype=torch.int64)
            for positions in torch.split(order.to(self.device), [len(part) for part in parts]):
                yield self._images.read(positions)
            return
        waiting = (
            _streamed(self._images, parts)
            if isinstance(self._images, StreamedImageSet)
            else (self._images.read(positions) for positions in parts)
        )
        for pixels in waiting:
            ready = pixels.pin_memory() if self.device.type == "cuda" else pixels
            yield ready.to(self.device, non_blocking=True)

    def _finished(self, pixels: Tensor, draws: Draws) -> Tensor:
        chosen = self.augmentation
        if chosen.crop_padding:
            pixels = crop(pixels, draws.offsets, chosen.crop_padding)
        if chosen.flip:
            pixels = flip(pixels, draws.flips)
        images = torch.addcmul(self._shift, pixels, self._scale)
        if chosen.cutout:
            images = cutout(images, draws.centres, chosen.cutout)
        return images


def _is_resident(images: Tensor, device: torch.device, wanted: Literal["auto", "on", "off"]) -> bool:
    if wanted != "auto" or device.type == "cpu":
        return wanted != "off" or device.type == "cpu"
    available = available_bytes(device)
    return available is None or images.nbytes <= RESIDENT_SHARE * available


class _Files(Dataset[Tensor | str]):
    """The pixels of one file, or the text of the mistake: an exception would lose its text on the way."""

    def __init__(self, images: StreamedImageSet) -> None:
        self.images = images

    def __getitem__(self, position: int) -> Tensor | str:
        try:
            return self.images.decode(self.images.paths[position])
        except UserError as error:
            return str(error)


def _stacked(items: list[Tensor | str]) -> Tensor | str:
    mistakes = [item for item in items if isinstance(item, str)]
    return mistakes[0] if mistakes else torch.stack([item for item in items if isinstance(item, Tensor)])


def _streamed(images: StreamedImageSet, parts: Sequence[Tensor]) -> Iterator[Tensor]:
    if not parts:
        return  # no worker is started for nothing
    loader = DataLoader(
        _Files(images),
        batch_sampler=[part.tolist() for part in parts],
        num_workers=images.num_workers,
        collate_fn=_stacked,
        # its own generator, because the loader would otherwise draw a number from the global one
        generator=torch.Generator(),
    )
    with warnings.catch_warnings():
        # newer Pythons warn of any fork beside threads; these workers decode files and use no thread
        warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
        batches = iter(loader)
    try:
        for batch in batches:
            if isinstance(batch, str):
                raise UserError(batch)
            yield batch
    finally:
        # ends the workers now; an error's traceback would keep them, and the exit would wait for them
        del batches
