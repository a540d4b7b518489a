"""Cases for data sets."""

from __future__ import annotations

from typing import Any

import torch

from binas.data.config import DataConfig
from binas.data.open_data import open_data
from binas.testing.promises import promise, told_of


def check_dataset(name: str, **settings: Any) -> None:
    """A data set opens the same way twice, its splits are disjoint and hold every class, images are bytes.

    Args:
        name: registered.
        settings: other keys of `data`, and the set's own.
    """
    what = f"data set '{name}'"
    with told_of(what):
        config = DataConfig.model_validate({"name": name, **settings})
        data, again = open_data(config), open_data(config)
        other = open_data(config.model_copy(update={"split_seed": config.split_seed + 1}))
    promise(data.split_hashes == again.split_hashes, what, "opened twice, its splits differ")
    promise(
        data.split_hashes["train"] != other.split_hashes["train"],
        what,
        "another split_seed cuts alike",
    )
    hashes = list(data.split_hashes.values())
    promise(len(set(hashes)) == len(hashes), what, "two of its splits are the same")
    for split, images in (
        ("train", data.train()),
        ("search_validation", data.search_validation()),
        ("test", data.test()),
    ):
        count = len(images.labels)
        promise(count > 0, what, f"{split} is empty")
        some = images.read(torch.arange(min(count, 16)))
        shape = (data.channels, *data.image_size)
        promise(tuple(some.shape[1:]) == shape, what, f"{split}: {tuple(some.shape[1:])} pixels, not {shape}")
        promise(some.dtype == torch.uint8, what, f"{split}: pixels are {some.dtype}, not uint8")
        promise(images.labels.dtype == torch.int64, what, f"{split}: labels are {images.labels.dtype}")
        present = set(images.labels.tolist())
        promise(present <= set(range(data.num_classes)), what, f"{split}: labels beyond the classes")
        promise(
            len(present) == data.num_classes, what, f"{split}: {len(present)} of {data.num_classes} classes"
        )
