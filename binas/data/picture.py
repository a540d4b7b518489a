"""One picture: opened, upright, as an array of the wanted size and channels. Nothing here needs torch."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from binas.errors import UserError

ENDINGS = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
# modes that need no decision by the user; 16-bit greys keep their upper byte
CHANNELS_OF_MODE = {"1": 1, "L": 1, "I;16": 1, "I;16B": 1, "I;16L": 1, "RGB": 3}
# formats of cameras; asking others for their orientation would decode all their pixels
ORIENTED = ("JPEG", "MPO")
ORIENTATION = 0x0112
# what Pillow's decoders are known to raise on damaged files
DAMAGE = (OSError, ValueError, SyntaxError, IndexError, KeyError, EOFError, struct.error, zlib.error)


def pixels_array(
    image: Image.Image, channels: int | None = None, size: tuple[int, int] | None = None
) -> np.ndarray[Any, Any]:
    """The pixels of an opened picture, upright. Shape: uint8 (*size, channels).

    Args:
        channels: 1 converts to grey, 3 to colour; None: grey stays grey, everything else is colour.
        size: height and width; None: its own. Other pictures are resized, bilinear and antialiased.
    """
    upright = ImageOps.exif_transpose(image) if image.format in ORIENTED else image
    channels = CHANNELS_OF_MODE.get(upright.mode, 3) if channels is None else channels
    if upright.mode.startswith("I;16"):
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    converted = upright.convert("L" if channels == 1 else "RGB")
    height, width = converted.size[::-1] if size is None else size
    if converted.size != (width, height):
        converted = converted.resize((width, height), Image.Resampling.BILINEAR)
    return np.array(converted).reshape(height, width, channels)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The picture of a file; what it raises inside is told with the file's name."""
    try:
        with Image.open(path) as image:
            yield image
    except (*DAMAGE, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path}: is not a readable image ({reason}); replace it or remove it from the data"
        ) from None
