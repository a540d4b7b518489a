"""Whole tensors of pixels: to another size, to another number of channels, their mean and deviation."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from binas.data.image_set import Images, StreamedImageSet

CHUNK = 1024
# weights of ITU-R 601, so that tensors and files turn grey alike
GREY = (0.299, 0.587, 0.114)
STATISTICS_LIMIT = 10_000


def convert(images: Tensor, size: tuple[int, int] | None, channels: int | None) -> Tensor:
    """Images of the wanted size (bilinear, antialiased) and number of channels; None keeps their own.

    Shape: uint8 (N, C, H, W) to uint8 (N, channels, *size).
    """
    if channels == 3 and images.shape[1] == 1:
        images = images.expand(-1, 3, -1, -1)
    elif channels == 1 and images.shape[1] == 3:
        images = _in_chunks(images, _grey)
    if size is not None and size != tuple(images.shape[2:]):
        images = _in_chunks(images, lambda chunk: _resized(chunk, size))
    return images.contiguous()


def _in_chunks(images: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    # in chunks, because the floats of a whole set would take four times its memory
    starts = range(0, max(len(images), 1), CHUNK)
    return torch.cat([_rounded(function(images[start : start + CHUNK].float())) for start in starts])


def _grey(images: Tensor) -> Tensor:
    return (images * images.new_tensor(GREY).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)


def _rounded(images: Tensor) -> Tensor:
    return images.round().clamp(0, 255).to(torch.uint8)


def statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel, with pixels scaled to 0..1.

    A set that streams from disk is judged by at most 10,000 of its images, evenly spaced. A channel
    without any variation is given the deviation of one grey level, so that it can be divided by.
    """
    positions = torch.arange(len(images))
    if isinstance(images, StreamedImageSet) and len(images) > STATISTICS_LIMIT:
        positions = torch.linspace(0, len(images) - 1, STATISTICS_LIMIT).long()
    counts = torch.zeros(images.shape[0], 256, dtype=torch.float64)
    for start in range(0, len(positions), CHUNK):
        pixels = images.read(positions[start : start + CHUNK])
        for channel in range(images.shape[0]):
            counts[channel] += torch.bincount(pixels[:, channel].flatten().int(), minlength=256)
    levels = torch.arange(256, dtype=torch.float64) / 255
    shares = counts / counts.sum(dim=1, keepdim=True)
    mean = shares @ levels
    variance = (shares * (levels - mean[:, None]) ** 2).sum(dim=1)
    std = variance.sqrt().clamp_min(1 / 255)
    return tuple(mean.tolist()), tuple(std.tolist())
