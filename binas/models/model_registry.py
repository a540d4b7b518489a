"""Published networks by name: what each is built from, its options, its own binarization, its source.

A builder is called as `build(options, task)` and gives a module from (N, C, H, W) to (N, num_classes).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field
from torch import nn

from binas.binarize import Binarization, LayerRule
from binas.config import Config
from binas.registry import Registry


class ModelOptions(Config):
    """What every published network lets a recipe change."""

    real: bool = False
    """The full-precision twin: every binary convolution becomes a real-valued one."""


class WidthOptions(ModelOptions):
    """Options of networks whose channels all scale."""

    width: float = Field(1.0, gt=0, le=16)
    """Multiplies the channels of every layer, rounded to a multiple of 8."""


class StemOptions(WidthOptions):
    """Options of networks that were published for ImageNet."""

    stem: Literal["imagenet", "grouped", "cifar"] = "imagenet"
    """imagenet: 7×7 stride 2 and a pool; grouped: three 3×3 in its place; cifar: 3×3 stride 1, no pool."""


@dataclass(frozen=True)
class Task:
    """What a network is built for.

    Args:
        in_channels: of the images.
        image_size: height and width in pixels.
        num_classes: outputs.
        binarizations: of all training stages, the first one active at first; empty means the network's own,
            with its own rules for single layers, which `build_model` fills in.
        layers: rules of all stages for single layers, as many as binarizations; empty means none.
        auxiliary: whether a second classifier is wanted in training, where the network has one.
    Raises:
        ValueError: rules for layers that are not as many as binarizations.
    """

    in_channels: int
    image_size: tuple[int, int]
    num_classes: int
    binarizations: tuple[Binarization, ...] = ()
    layers: tuple[tuple[LayerRule, ...], ...] = ()
    auxiliary: bool = False

    def __post_init__(self) -> None:
        if self.layers and len(self.layers) != len(self.binarizations):
            raise ValueError(
                f"{len(self.layers)} lists of rules for layers and {len(self.binarizations)} binarizations;"
                " give as many of both"
            )


@dataclass(frozen=True)
class Model:
    """A published network.

    Args:
        build: gives the module for options and a task.
        options: those of the paper; their type says what else there is.
        binarization: the paper's, which a stage can replace.
        paper: short citation.
        twin_activation: what stands before each convolution of the full-precision twin in place of the
            sign: `relu`, or `none` where the network has activations of its own.
        has_cells: whether it consists of cells, whose operations can drop and which can have a second
            classifier.
        rules: gives the rules for single layers that follow from options; None: there are none.
    """

    build: Callable[[Any, Task], nn.Module]
    options: ModelOptions
    binarization: Binarization
    paper: str
    twin_activation: Literal["relu", "none"] = "relu"
    has_cells: bool = False
    rules: Callable[[Any], tuple[LayerRule, ...]] | None = None


MODELS: Registry[Model] = Registry("model", written_by=lambda model: model.build)


def register_models(
    build: Callable[[Any, Task], nn.Module],
    variants: Mapping[str, ModelOptions],
    binarization: Binarization,
    paper: str,
    twin_activation: Literal["relu", "none"] = "relu",
    has_cells: bool = False,
    rules: Callable[[Any], tuple[LayerRule, ...]] | None = None,
    *,
    replace: bool = False,
) -> None:
    """Register the variants of a family, each under its name with the options of its paper.

    Args:
        variants: names and options; the rest as of `Model`.
        replace: whether to take the place of another's network of that name.
    """
    for name, options in variants.items():
        model = Model(build, options, binarization, paper, twin_activation, has_cells, rules)
        MODELS.register(name, replace=replace)(model)


def register_model(
    name: str,
    *,
    options: ModelOptions | None = None,
    binarization: Binarization | None = None,
    paper: str = "",
    twin_activation: Literal["relu", "none"] = "relu",
    replace: bool = False,
) -> Callable[[Callable[[Any, Task], nn.Module]], Callable[[Any, Task], nn.Module]]:
    """Decorator that registers a function `build(options, task) -> nn.Module` as a network of that name.

    Args:
        options: what a recipe may change, of a type of your own; None: only `real`, the twin.
        binarization: the network's own; None: sign and XNOR-Net's weights.
        paper, twin_activation: as of `Model`.
        replace: whether to take the place of another's network of that name.
    """

    def decorate(build: Callable[[Any, Task], nn.Module]) -> Callable[[Any, Task], nn.Module]:
        variants = {name: options or ModelOptions()}
        register_models(
            build, variants, binarization or Binarization(), paper, twin_activation, replace=replace
        )
        return build

    return decorate
