"""The `data` section of a recipe: which images, how they are split, and how a batch is augmented."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt

from binas.config import Config


def _as_pair(value: Any) -> Any:
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


Size = Annotated[tuple[PositiveInt, PositiveInt], BeforeValidator(_as_pair)]


class Augmentation(Config):
    """What happens to a training image; every image of a batch gets its own draw."""

    crop_padding: NonNegativeInt = 0
    """Pixels of black border around the image before a random crop of the old size; 0 switches it off."""
    flip: bool = False
    """Mirror left and right, for every second image on average."""
    cutout: NonNegativeInt = 0
    """Side of the square that is set to the mean colour at a random place; 0 switches it off."""


class DataConfig(Config):
    """Which images are used and how they are split."""

    name: str = "digits"
    """The dataset: digits, fashion_small, fashion_mnist, mnist, cifar10, cifar100, photo_patches, folder or
    synthetic."""
    root: Path | None = None
    """The folder of images (folder), or where a published set lies or is downloaded to (~/.cache/binas)."""
    image_size: Size | None = None
    """Side, or height and width, that every image is resized to once at loading; the set's own if unset."""
    channels: Literal[1, 3] | None = None
    """1 converts to grey, 3 to colour; the set's own if unset."""
    subset: PositiveInt | None = None
    """So many training images only, as many of each class; the same ones every time."""
    search_validation_fraction: float = Field(0.5, gt=0, lt=1)
    """Part of the training images of every class that updates the architecture during the search."""
    test_fraction: float = Field(0.2, gt=0, lt=1)
    """Part of the images of every class held out for the test, where the set brings no test images."""
    split_seed: NonNegativeInt = 0
    """Another number gives other splits."""
    download: bool = True
    """Download a published set that is not on this machine."""
    augmentation: Augmentation = Augmentation()
    """What happens to the images that weights are trained on."""
    in_memory_limit_mb: NonNegativeInt = 2048
    """A folder whose decoded images take more than this is read from disk batch by batch."""
    num_workers: NonNegativeInt = 2
    """Processes that read such a folder."""
    images_per_class: PositiveInt = Field(200, ge=4)
    """photo_patches: at most so many crops of a photograph; synthetic: so many images of a class."""
    patch_size: PositiveInt = Field(32, ge=4, le=64)
    """photo_patches: side of a crop in pixels."""
    num_classes: int = Field(4, ge=2, le=100)
    """synthetic: number of classes."""
