"""Which images belong to which split: deterministic, disjoint, the same share of every class."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from binas.errors import UserError


def seeded(purpose: str, seed: int) -> torch.Generator:
    """A generator of its own for one purpose, so that no draw depends on another."""
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def stratified_cut(
    labels: Tensor, fraction: float, purpose: str, seed: int, class_names: tuple[str, ...]
) -> tuple[Tensor, Tensor]:
    """The positions that stay and those that are cut off, each sorted: `fraction` of every class.

    Of every class at least one image stays and, unless `fraction` is 0, at least one is cut off.

    Raises:
        UserError: a class has a single image.
    """
    generator = seeded(purpose, seed)
    is_cut = torch.zeros(len(labels), dtype=torch.bool)
    if fraction > 0:
        for label, name in enumerate(class_names):
            members = (labels == label).nonzero().flatten()
            if len(members) == 0:
                continue
            if len(members) == 1:
                raise UserError(
                    f"data: class '{name}' has a single image left where {purpose} images"
                    " are cut off; give it more images or raise data.subset"
                )
            count = min(max(int(len(members) * fraction + 0.5), 1), len(members) - 1)
            is_cut[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return (~is_cut).nonzero().flatten(), is_cut.nonzero().flatten()


def last_cut(count: int, fraction: float) -> tuple[Tensor, Tensor]:
    """The positions of so many images but for the last `fraction` of them, and those of the last.

    Unless `fraction` is 0, at least one image stays and at least one is cut off.
    """
    num_last = min(max(int(count * fraction + 0.5), 1), count - 1) if fraction > 0 else 0
    positions = torch.arange(count)
    return positions[: count - num_last], positions[count - num_last :]


def balanced_subset(labels: Tensor, size: int, seed: int, class_names: tuple[str, ...]) -> Tensor:
    """Sorted positions of `size` images, as many of each class (the first classes one more if need be).

    Raises:
        UserError: fewer images than classes are asked for, or more than a class has.
    """
    generator = seeded("subset", seed)
    num_classes = len(class_names)
    if size < num_classes:
        raise UserError(f"data.subset: {size} is less than one image for each of the {num_classes} classes")
    chosen = []
    for label in range(num_classes):
        members = (labels == label).nonzero().flatten()
        count = size // num_classes + (label < size % num_classes)
        if count > len(members):
            raise UserError(
                f"data.subset: {size} needs {count} training images of class '{class_names[label]}', which"
                f" has {len(members)}; at most {_largest_subset(labels, num_classes)} can be balanced"
            )
        chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(chosen).sort().values


def _largest_subset(labels: Tensor, num_classes: int) -> int:
    counts: list[int] = torch.bincount(labels, minlength=num_classes).tolist()
    smallest = min(counts)
    extra = next(position for position, count in enumerate([*counts, smallest]) if count == smallest)
    return smallest * num_classes + extra
