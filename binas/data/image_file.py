"""One image file: what its header says, and its pixels in the wanted size and channels."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from binas.errors import UserError

ENDINGS = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
# modes that need no decision by the user; 16-bit greys keep their upper byte
CHANNELS_OF_MODE = {"1": 1, "L": 1, "I;16": 1, "I;16B": 1, "I;16L": 1, "RGB": 3}
UNSUPPORTED_MODES = ("I", "F")
# formats of cameras; asking others for their orientation would decode all their pixels
ORIENTED = ("JPEG", "MPO")
ORIENTATION = 0x0112
# what Pillow's decoders are known to raise on damaged files
DAMAGE = (OSError, ValueError, SyntaxError, IndexError, KeyError, EOFError, struct.error, zlib.error)


@dataclass(frozen=True)
class Header:
    """What the header of an image file says, the camera's orientation applied."""

    height: int
    width: int
    mode: str


def read_header(path: Path) -> Header:
    """The size and mode of an image, without decoding it."""
    with _opened(path) as image:
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
        with _opened(path) as image:
            return pixels_of(image, self.channels, self.size)


def pixels_of(image: Image.Image, channels: int | None = None, size: tuple[int, int] | None = None) -> Tensor:
    """The pixels of an opened picture, upright. Shape: uint8 (channels, *size).

    Args:
        channels: 1 converts to grey, 3 to colour; None: grey stays grey, everything else is colour.
        size: height and width; None: its own.
    """
    upright = ImageOps.exif_transpose(image) if image.format in ORIENTED else image
    channels = CHANNELS_OF_MODE.get(upright.mode, 3) if channels is None else channels
    if upright.mode.startswith("I;16"):
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    converted = upright.convert("L" if channels == 1 else "RGB")
    height, width = converted.size[::-1] if size is None else size
    if converted.size != (width, height):
        converted = converted.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.array(converted).reshape(height, width, channels)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def read_pixels(path: Path) -> Tensor:
    """The pixels of a file in its own size. Shape: uint8 (1 or 3, H, W).

    Raises:
        UserError: it is no readable image.
    """
    read_header(path)  # refuses what cannot be converted
    with _opened(path) as image:
        return pixels_of(image)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except (*DAMAGE, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path}: is not a readable image ({reason}); replace it or remove it from the data"
        ) from None
