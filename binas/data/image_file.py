"""One image file: what its header says, and its pixels in the wanted size and channels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from binas.data.picture import ORIENTATION, ORIENTED, opened, pixels_array
from binas.errors import UserError

UNSUPPORTED_MODES = ("I", "F")


@dataclass(frozen=True)
class Header:
    """What the header of an image file says, the camera's orientation applied."""

    height: int
    width: int
    mode: str


def read_header(path: Path) -> Header:
    """The size and mode of an image, without decoding it."""
    with opened(path) as image:
        if image.mode in UNSUPPORTED_MODES:
            raise UserError(f"{path}: has 32-bit pixels (mode {image.mode}); save it with 8 bits a channel")
        width, height = image.size
        if image.format in ORIENTED and image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8):
            width, height = height, width
        return Header(height, width, image.mode)


@dataclass(frozen=True)
class Decoder:
    """Turns an image file into uint8 pixels of one shape; a value, so that worker processes can have it.

    Args:
        channels: 1 converts to grey, 3 to colour.
        size: height and width; other images are resized, bilinear and antialiased.
    """

    channels: int
    size: tuple[int, int]

    def __call__(self, path: Path) -> Tensor:
        with opened(path) as image:
            return pixels_of(image, self.channels, self.size)


def pixels_of(image: Image.Image, channels: int | None = None, size: tuple[int, int] | None = None) -> Tensor:
    """The pixels of an opened picture, upright. Shape: uint8 (channels, *size).

    Args:
        channels: 1 converts to grey, 3 to colour; None: grey stays grey, everything else is colour.
        size: height and width; None: its own.
    """
    return torch.from_numpy(pixels_array(image, channels, size)).permute(2, 0, 1).contiguous()


def read_pixels(path: Path) -> Tensor:
    """The pixels of a file in its own size. Shape: uint8 (1 or 3, H, W).

    Raises:
        UserError: it is no readable image.
    """
    read_header(path)  # refuses what cannot be converted
    with opened(path) as image:
        return pixels_of(image)
