"""One call from a genotype, a published network or any module to its `Profile`.

What a search or an evolution takes as objective or constraint: nothing is trained, a genotype of cells is
counted without being built, other networks are built and run once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import nn

from binas.arch.genotype import AnyGenotype, Genotype
from binas.arch.kinds import genotype_network, space_of
from binas.arch.macro_genotype import MacroGenotype
from binas.arch.network import Network
from binas.arch.space import NetworkSettings
from binas.binarize import Binarization, LayerRule, binary_convolutions, set_precision
from binas.config import build
from binas.errors import UserError
from binas.models import ModelChoice, Task, build_model
from binas.profile.closed_form import profile_genotype
from binas.profile.cost import Profile, Total
from binas.profile.executed import profile_module

TOTALS: tuple[Total, ...] = get_args(Total)
FEW_PIXELS = 2**12
"""Up to here a network runs faster in real numbers than on torch's meta device, which holds none."""


def count(
    what: AnyGenotype | ModelChoice | str | nn.Module,
    image_size: tuple[int, int] = (32, 32),
    num_classes: int = 10,
    in_channels: int = 3,
    settings: NetworkSettings | None = None,
    **stage: Any,
) -> Profile:
    """What a network costs for one image.

    Args:
        what: a genotype of either kind, a published network or its name, or a module, whose own classes
            then count.
        image_size: height and width in pixels.
        num_classes: outputs.
        in_channels: of the images.
        settings: depth and width of a network of cells; None means those of its space.
        stage: `binarization`, `binarize_activations`, `binarize_weights` and `layers` of the training
            stage that counts, for a genotype; without them what its space says.
    Raises:
        UserError: an option of a published network does not fit, an operation cannot be counted, or
            settings or a stage are given for something that has its own.
    """
    if isinstance(what, Genotype):
        return profile_genotype(what, in_channels, image_size, num_classes, settings, **stage)
    if settings is not None:
        raise UserError("count: settings are for genotypes of cells; a macro genotype or network has its own")
    if isinstance(what, MacroGenotype):
        return _count_chain(what, in_channels, image_size, num_classes, **stage)
    if stage:
        raise UserError("count: stages are for genotypes; a network has its own")
    if isinstance(what, nn.Module):
        return profile_module(what, in_channels, image_size)
    choice = build(ModelChoice, what, "count") if isinstance(what, str) else what
    task = Task(in_channels, image_size, num_classes, ())
    own = {"binarization": choice.binarization, "layers": choice.layers}
    return count_built(lambda: build_model(choice, task), task, **own)


def _count_chain(
    genotype: MacroGenotype,
    in_channels: int,
    image_size: tuple[int, int],
    num_classes: int,
    *,
    binarization: Binarization | None = None,
    binarize_activations: bool = True,
    binarize_weights: bool = True,
    layers: tuple[LayerRule, ...] | None = None,
) -> Profile:
    """The count of a macro genotype's network: it is built and run once, without memory for large images."""
    binarizations = () if binarization is None else (binarization,)
    if layers is not None and binarization is None:
        binarizations = (space_of(genotype).binarization,)

    def network() -> nn.Module:
        built = genotype_network(
            genotype,
            in_channels,
            num_classes,
            binarizations=binarizations,
            layers=() if layers is None else (layers,),
        )
        set_precision(built, binarize_activations, binarize_weights)
        return built

    return profile_built(
        network, lambda built: profile_module(built, in_channels, image_size), count_device(image_size)
    )


def count_built(network: Callable[[], nn.Module], task: Task, **stage: Any) -> Profile:
    """The count of a network that is built here: without running where it is that of a genotype, else as run.

    Args:
        network: builds it, on whatever device is the default one.
        task: sizes of images, and classes.
        stage: see `count`.
    """
    return profile_built(
        network, lambda built: _count_built(built, task, stage), count_device(task.image_size)
    )


def count_device(image_size: tuple[int, int]) -> str:
    """Where a network for images of that size is counted fastest: CPU or torch's meta device."""
    return "cpu" if math.prod(image_size) <= FEW_PIXELS else "meta"


def profile_built(
    network: Callable[[], nn.Module], profile: Callable[[nn.Module], Profile], device: str
) -> Profile:
    """The count of a network that is built without memory, or on another device, if it can be."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device(device):
                return profile(network())
        except UserError:
            raise
        except Exception:  # some binarizers read numbers, which the meta device does not have
            return profile(network())


def _count_built(built: nn.Module, task: Task, stage: dict[str, Any]) -> Profile:
    sizes = (task.in_channels, task.image_size)
    if type(built) is Network and any(binary_convolutions(built)):
        return profile_genotype(built.genotype, *sizes, task.num_classes, built.settings, **stage)
    return profile_module(built, *sizes)
