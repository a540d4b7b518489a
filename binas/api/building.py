"""Networks with fresh weights, for whatever training code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from binas.api.loading import load_genotype
from binas.arch.genotype import AnyGenotype, cells_only
from binas.arch.kinds import genotype_network
from binas.arch.network import genotype_space
from binas.arch.space import NetworkSettings
from binas.binarize import Binarization
from binas.config import build, merged
from binas.models import ModelChoice, Task, build_model

Sizes = int | tuple[int, int]
"""Side, or height and width, in pixels."""


def create_model(
    name: str | ModelChoice,
    *,
    num_classes: int,
    image_size: Sizes = 32,
    in_channels: int = 3,
    binarization: Any = None,
    **options: Any,
) -> nn.Module:
    """A published network with fresh weights, to be trained by whatever code.

    Args:
        name: one of `list_models`.
        num_classes: outputs.
        image_size: of the images it will see, in pixels.
        in_channels: of the images.
        binarization: {"activation": …, "weight": …}; None: the paper's own.
        options: of the network, as `binas models NAME` lists them (width, stem, …).
    Shape: (N, in_channels, H, W) -> (N, num_classes).
    Raises:
        UserError: there is no such network or option.

    Example:
        >>> import torch, binas
        >>> net = binas.create_model("reactnet_resnet18", num_classes=5, width=0.125, stem="cifar")
        >>> net(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 5])
    """
    choice = build(ModelChoice, name if not options else {"name": name, **options}, "model")
    task = Task(in_channels, pair_of(image_size), num_classes, _binarizations(binarization))
    return build_model(choice, task)


def create_network(
    genotype: str | Path | Mapping[str, Any] | AnyGenotype,
    *,
    num_classes: int,
    in_channels: int = 3,
    binarization: Any = None,
    **settings: Any,
) -> nn.Module:
    """The network that a genotype stands for, with fresh weights.

    Args:
        genotype: as of `load_genotype`.
        num_classes, in_channels: of the data.
        binarization: None: that of the genotype's space.
        settings: changes to depth and width of cells: num_cells, init_channels, reductions, …
    Shape: (N, in_channels, H, W) -> (N, num_classes).

    Example:
        >>> import torch, binas
        >>> net = binas.create_network("bnas_latest_cell", num_classes=5, num_cells=3, init_channels=4)
        >>> net(torch.randn(2, 3, 16, 16)).shape
        torch.Size([2, 5])
    """
    found = load_genotype(genotype)
    changed = None
    if settings:
        cells = cells_only(found, "create_network", f"{', '.join(settings)}: change its stages instead")
        own = genotype_space(cells).network.model_dump()
        changed = build(NetworkSettings, merged(own, settings), "network")
    return genotype_network(
        found, in_channels, num_classes, settings=changed, binarizations=_binarizations(binarization)
    )


def _binarizations(given: Any) -> tuple[Binarization, ...]:
    if given is None:
        return ()
    if isinstance(given, Mapping):
        given = {key: {"name": value} if isinstance(value, str) else value for key, value in given.items()}
    return (build(Binarization, given, "binarization"),)


def pair_of(size: Sizes) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
