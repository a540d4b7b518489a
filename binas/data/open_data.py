"""From settings to data: `open_data` finds the set, cuts the splits and measures the training images."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from binas.data.config import DataConfig
from binas.data.datasets import DATASETS, RawData, Source
from binas.data.image_set import Images
from binas.data.pixels import statistics
from binas.data.splits import balanced_subset, last_cut, stratified_cut
from binas.errors import UserError


@dataclass(frozen=True, eq=False)
class Data:
    """A dataset that is split and measured; only `test()` hands out test images.

    `mean` and `std` are those of the training images (train and search_validation), scaled to 0..1.
    A split's hash covers its indices, labels and pixels at their original size; for `folder` it covers
    relative file names and file sizes instead of pixels, so that no test image is decoded for it.
    """

    name: str
    class_names: tuple[str, ...]
    channels: int
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    split_hashes: dict[str, str]
    """The sha256 of train, search_validation and test."""
    counts: dict[str, tuple[int, ...]]
    """Images of each class in train, search_validation and test."""
    config: DataConfig
    _pool: Images = field(repr=False)
    _train: Tensor = field(repr=False)
    _search_validation: Tensor = field(repr=False)
    _test: tuple[Source, Tensor] = field(repr=False)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def train(self) -> Images:
        """The images that train weights during the search."""
        return self._pool.select(self._train)

    def search_validation(self) -> Images:
        """The images that update the architecture during the search."""
        return self._pool.select(self._search_validation)

    def retrain(self, validation_fraction: float, last: bool = False) -> tuple[Images, Images]:
        """Train and search_validation together, less a part for validation; that part.

        Args:
            last: cut off the last images instead of as many of every class.
        """
        if last:
            stay, validation = last_cut(len(self._pool), validation_fraction)
            return self._pool.select(stay), self._pool.select(validation)
        stay, validation = stratified_cut(
            self._pool.labels, validation_fraction, "validation", self.config.split_seed, self.class_names
        )
        return self._pool.select(stay), self._pool.select(validation)

    def test(self) -> Images:
        """The test images, read and converted now."""
        source, indices = self._test
        images = source.load(indices, self.config)
        if images.shape != self._pool.shape:
            raise UserError(
                f"data: the test images are {_shape_text(images.shape)} and the training images"
                f" {_shape_text(self._pool.shape)}; set data.image_size and data.channels"
            )
        return images


OWN_KEYS: dict[str, frozenset[str]] = {
    "digits": frozenset({"test_fraction"}),
    "folder": frozenset({"root", "in_memory_limit_mb", "num_workers", "test_fraction"}),
    "photo_patches": frozenset({"images_per_class", "patch_size", "test_fraction"}),
    "synthetic": frozenset({"images_per_class", "num_classes", "test_fraction"}),
    **dict.fromkeys(("mnist", "fashion_mnist", "cifar10", "cifar100"), frozenset({"root", "download"})),
}
"""Which of the keys that not every set reads ours read; a user's own may read any."""


def unused_by_set(config: DataConfig) -> list[str]:
    """Keys that differ from their default and that the data set never reads."""
    if config.name not in OWN_KEYS or (config.name in DATASETS and DATASETS.origin(config.name)):
        return []
    of_some = frozenset[str]().union(*OWN_KEYS.values())
    return sorted(key for key in of_some - OWN_KEYS[config.name] if config.is_set(key))


def open_data(config: DataConfig) -> Data:
    """The dataset that the settings describe, with the same splits every time.

    Raises:
        UserError: an unknown dataset, or images that are missing, unreadable or unfit to be split.
    """
    try:
        dataset = DATASETS[config.name]
    except UserError as error:
        raise UserError(f"data.name: {error}", hint="plugins") from None
    return split_data(dataset(config), config)


def split_data(raw: RawData, config: DataConfig) -> Data:
    """A dataset that is had already, split and measured as the settings say.

    Raises:
        UserError: images that are unfit to be split.
    """
    training, test_source, test = _held_out(raw, config)
    labels = raw.training.labels
    if config.subset is not None:
        subset = balanced_subset(labels[training], config.subset, config.split_seed, raw.class_names)
        training = training[subset]
    train, search_validation = stratified_cut(
        labels[training],
        config.search_validation_fraction,
        "search_validation",
        config.split_seed,
        raw.class_names,
    )
    parts = {
        "train": (raw.training, training[train]),
        "search_validation": (raw.training, training[search_validation]),
        "test": (test_source, test),
    }
    pool = raw.training.load(training, config)
    mean, std = statistics(pool)
    channels, height, width = pool.shape
    return Data(
        name=config.name,
        class_names=raw.class_names,
        channels=channels,
        image_size=(height, width),
        mean=mean,
        std=std,
        split_hashes={split: source.digest(indices) for split, (source, indices) in parts.items()},
        counts={
            split: tuple(torch.bincount(source.labels[indices], minlength=len(raw.class_names)).tolist())
            for split, (source, indices) in parts.items()
        },
        config=config,
        _pool=pool,
        _train=train,
        _search_validation=search_validation,
        _test=parts["test"],
    )


def _held_out(raw: RawData, config: DataConfig) -> tuple[Tensor, Source, Tensor]:
    if raw.test is not None:
        return torch.arange(len(raw.training.labels)), raw.test, torch.arange(len(raw.test.labels))
    training, test = stratified_cut(
        raw.training.labels, config.test_fraction, "test", config.split_seed, raw.class_names
    )
    return training, raw.training, test


def _shape_text(shape: tuple[int, int, int]) -> str:
    return "{} x {} x {} (channels x height x width)".format(*shape)
