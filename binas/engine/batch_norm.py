"""Batch-norm statistics: how fast they average, and steps that leave them alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """All batch-norms of a model, of any number of dimensions: a plug-in may bring others."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def set_batch_norm_decay(model: nn.Module, decay: float) -> None:
    """Set the weight of the old average in running statistics; PyTorch's momentum is one minus it."""
    for module in batch_norms(model):
        module.momentum = 1 - decay


@contextmanager
def frozen_running_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, batch-norms use batch statistics, and what follows the data's statistics stays as it is.

    That is every module with `track_running_stats` on: batch-norms, and binarizers that learn their levels
    from the activations they see.
    """
    modules = [module for module in model.modules() if getattr(module, "track_running_stats", False) is True]
    for module in modules:
        module.track_running_stats = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in modules:
            module.track_running_stats = True  # type: ignore[assignment]


@torch.no_grad()
def take_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Takes batch-norm statistics anew, as plain averages over these batches of images.

    For weights that are put to another use than they were trained in. Leaves the model in training mode.

    Reference: Yu and Huang, Universally Slimmable Networks, arXiv:1903.05134, sec. 3.4.
    """
    norms = [norm for norm in batch_norms(model) if norm.track_running_stats]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # averages all batches alike
    model.train()
    for images in batches:
        model(images)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
