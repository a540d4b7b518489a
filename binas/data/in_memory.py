"""Images that a program has already: tensors, a torch dataset, or any sequence of images and labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from binas.data.config import DataConfig
from binas.data.image_file import pixels_of
from binas.data.open_data import Data, split_data
from binas.data.source import ArraySource, RawData
from binas.errors import UserError

NAME = "in_memory"
"""What checkpoints and genotypes say of such images: no file can be opened for them."""


def data_from(
    training: Any,
    test: Any = None,
    *,
    class_names: Sequence[str] | None = None,
    config: DataConfig | None = None,
) -> Data:
    """Data of images that are there, split and measured.

    Args:
        training: a pair of images and labels, or a dataset whose items are such pairs (torch's, or one of
            `datasets` with the columns `image` and `label`). Images: uint8 (N, C, H, W), or (N, H, W) for
            grey ones; floats between 0 and 1; arrays (H, W, C); or pictures of Pillow. Labels: integers.
        test: the test images likewise; None: a part of the others is held out.
        class_names: by label; None: what the dataset says (`classes`, `features`), else numbers.
        config: splits, size, channels, augmentation.
    Raises:
        UserError: images or labels of another kind, of different sizes, or unfit to be split.
    """
    images, labels = _images_and_labels(training, "training")
    source = ArraySource(images, labels)
    test_source = None if test is None else ArraySource(*_images_and_labels(test, "test"))
    names = tuple(class_names or _names(training) or map(str, range(int(labels.max()) + 1)))
    highest = max(int(part.labels.max()) for part in (source, test_source) if part is not None)
    if highest >= len(names):
        raise UserError(
            f"data: a label is {highest}, but there are names for {len(names)} classes, from 0 on"
        )
    settings = (config or DataConfig()).model_copy(update={"name": NAME})
    return split_data(RawData(names, source, test_source), settings)


def to_pixels(image: Any) -> Tensor:
    """One image, or several, as uint8 pixels. Shape: (C, H, W), or (N, C, H, W) for a stack.

    Raises:
        UserError: it is none.
    """
    if isinstance(image, Image.Image):
        return pixels_of(image)
    if isinstance(image, np.ndarray):
        tensor = torch.from_numpy(np.ascontiguousarray(image))
        if tensor.dim() in (3, 4) and tensor.shape[-1] in (1, 3) and tensor.shape[-3] not in (1, 3):
            tensor = tensor.movedim(-1, -3)
    elif isinstance(image, Tensor):
        tensor = image.detach().cpu()
    else:
        raise UserError(f"data: an image is a tensor, an array or a picture, not {type(image).__name__}")
    if tensor.dim() == 2:
        tensor = tensor[None]
    if tensor.is_floating_point():
        if not bool(torch.isfinite(tensor).all()) or tensor.min() < 0 or tensor.max() > 1:
            raise UserError("data: images of floats hold values from 0 to 1; give them so, or as uint8")
        tensor = (tensor * 255).round().to(torch.uint8)
    if tensor.dtype != torch.uint8 or tensor.dim() not in (3, 4):
        raise UserError(
            f"data: images are uint8 or floats from 0 to 1, not {tensor.dtype} {tuple(tensor.shape)}"
        )
    return tensor


def _images_and_labels(given: Any, split: str) -> tuple[Tensor, Tensor]:
    if isinstance(given, tuple | list) and len(given) == 2 and not _is_pair(given[0]):
        images, labels = given
    else:
        images, labels = _columns(given, split)
    pixels = _stacked(images, split)
    try:
        numbers = torch.as_tensor(np.asarray(labels)).reshape(-1).to(torch.int64)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"data: the {split} labels are no integers") from None
    if len(numbers) != len(pixels) or not len(pixels):
        raise UserError(f"data: {len(pixels)} {split} images and {len(numbers)} labels")
    if int(numbers.min()) < 0:
        raise UserError(f"data: a {split} label is {int(numbers.min())}; classes are counted from 0")
    if pixels.shape[1] not in (1, 3):
        raise UserError(f"data: {split} images have {pixels.shape[1]} channels; 1 or 3 are known")
    return pixels, numbers


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple | list) and len(item) == 2 and not hasattr(item[1], "shape")


def _columns(given: Any, split: str) -> tuple[list[Any], list[Any]]:
    """The images and the labels of a dataset, item by item."""
    if not isinstance(given, Iterable) and not (hasattr(given, "__getitem__") and hasattr(given, "__len__")):
        raise UserError(f"data: {split}: a pair of images and labels, or a dataset, is needed")
    images, labels = [], []
    for position in range(len(given)):
        item = given[position]
        if isinstance(item, dict):
            keys = [key for key in ("image", "img", "pixel_values") if key in item]
            if not keys or "label" not in item:
                raise UserError(f"data: {split}: columns image and label are needed, not {', '.join(item)}")
            item = item[keys[0]], item["label"]
        if not isinstance(item, tuple | list) or len(item) < 2:
            raise UserError(f"data: {split}: item {position} is no pair of an image and a label")
        images.append(item[0])
        labels.append(int(item[1]))
    return images, labels


def _stacked(images: Any, split: str) -> Tensor:
    if isinstance(images, Tensor | np.ndarray):
        pixels = to_pixels(images if images.ndim != 3 else images[:, None])
        return pixels if pixels.dim() == 4 else pixels[None]
    found = [to_pixels(image) for image in images]
    if not found:
        raise UserError(f"data: there are no {split} images")
    if len({tuple(one.shape) for one in found}) > 1:
        shapes = sorted({tuple(one.shape) for one in found})[:3]
        raise UserError(f"data: {split} images have different shapes {shapes}; resize them first")
    return torch.stack(found)


def _names(given: Any) -> list[str] | None:
    """Class names that a dataset knows."""
    if isinstance(getattr(given, "classes", None), list | tuple):
        return [str(name) for name in given.classes]
    features: Any = getattr(given, "features", None)
    label = features.get("label") if hasattr(features, "get") else None
    names = getattr(label, "names", None)
    return None if names is None else [str(name) for name in names]
