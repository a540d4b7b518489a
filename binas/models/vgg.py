"""Plain networks: VGG-small with ratio codes, and VGG-10 and the MLP of the optimisation study.

VGG-small: Cai et al., HWGQ, arXiv:1702.00953, as binarized in Shen et al., arXiv:1909.07378 (AutoBNN).
VGG-10 and MLP: Alizadeh et al., An Empirical Study of Binary Neural Networks' Optimisation, ICLR 2019.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import Field, field_validator
from torch import Tensor, nn

from binas.binarize import Binarization, BinarizerSpec
from binas.binarize.sign import straight_through_sign
from binas.models.layers import FIRST, PixelsToChannels, binary_conv, classifier, max_pool, real_conv, scaled
from binas.models.model_registry import ModelOptions, Task, WidthOptions, register_models
from binas.ops.nonlinearities import build_nonlinearity

SMALL_CHANNELS = (128, 128, 256, 256, 512, 512)
NORM_EPSILON = 1e-4
"""Of batch-norms in the optimisation study's code."""


class VggSmallOptions(WidthOptions):
    """Options of VGG-small."""

    ratios: tuple[float, ...] = (1.0,) * len(SMALL_CHANNELS)
    """What multiplies the channels of each of the six convolutions: AutoBNN's ratio code."""

    @field_validator("ratios")
    @classmethod
    def _one_for_each_layer(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(value) != len(SMALL_CHANNELS) or not min(value) > 0:
            raise ValueError(f"{len(SMALL_CHANNELS)} numbers above 0 are needed, one for each convolution")
        return value


def vgg_small(options: VggSmallOptions, task: Task) -> nn.Module:
    """Six 3×3 convolutions, a 2×2 pool after every second, and one linear layer.

    conv 128 - conv 128, pool - conv 256 - conv 256, pool - conv 512 - conv 512, pool - linear; batch-norm
    after convolution and pool; the first convolution and the linear layer are real-valued.

    Shape: (N, C, H, W) -> (N, num_classes).
    Reference: github.com/LaVieEnRoseSMZ/AutoBNN, vgg_small.py; its linear layer has 1024 outputs whatever
        the number of classes, a slip, and no bias.
    """
    channels = [
        max(1, int(scaled(count, options.width) * ratio))
        for count, ratio in zip(SMALL_CHANNELS, options.ratios, strict=True)
    ]
    layers: list[nn.Module] = [
        real_conv(task.in_channels, channels[0], 3, why=FIRST),
        nn.BatchNorm2d(channels[0]),
    ]
    for position, (before, after) in enumerate(pairwise(channels), start=1):
        layers.append(binary_conv(task, before, after, 3))
        layers += [max_pool()] if position % 2 else []
        layers.append(nn.BatchNorm2d(after))
    features = channels[-1] * pixels(task, 3)
    return nn.Sequential(*layers, nn.Flatten(), classifier(features, task.num_classes, bias=False))


def pixels(task: Task, num_pools: int) -> int:
    """Pixels that so many 2×2 pools leave."""
    height, width = task.image_size
    for _ in range(num_pools):
        height, width = -(-height // 2), -(-width // 2)
    return height * width


class StudyOptions(ModelOptions):
    """Options of the optimisation study's networks."""

    activation: Literal["none", "relu", "hard_tanh"] = "none"
    """After each batch-norm; relu for stages with binary weights and real activations, as in the study;
    hard_tanh for real-valued stages before binary activations, whose signs it leaves as they are."""
    binary_ends: bool = False
    """Whether the first and the last layer are binary as well, as in the study; the twin's are real."""

    @property
    def real_ends(self) -> bool:
        """Whether pixels are read, and classes scored, by real-valued layers."""
        return self.real or not self.binary_ends


class Vgg10Options(StudyOptions, WidthOptions):
    """Options of VGG-10."""

    pool_after: Literal["convolution", "activation", "sign"] = "convolution"
    """Where pools stand: right after the convolution, as the study advises; after batch-norm and activation;
    or after signs of these, so that the maximum is of values that are binary already."""


def vgg10(options: Vgg10Options, task: Task) -> nn.Module:
    """2×128C3 - MP2 - 2×256C3 - MP2 - 2×512C3 - MP2 - 1024FC - 1024FC - classes.

    Shape: (N, C, H, W) -> (N, num_classes).
    Deviation: the study binarizes weights of first and last layer too (`binary_ends`), and its main
        models have ReLU activations; by default both ends are real and activations binary.
    """
    layers: list[nn.Module] = []
    channels = task.in_channels
    for position, count in enumerate(SMALL_CHANNELS):
        after = scaled(count, options.width)
        conv = (
            binary_conv(task, channels, after, 3)
            if position or not options.real_ends
            else real_conv(channels, after, 3, why=FIRST)
        )
        followers = norm_and_activation(after, options)
        layers += [conv, *(pooled(followers, options) if position % 2 else followers)]
        channels = after
    hidden = scaled(1024, options.width)
    features = channels * pixels(task, 3)
    return nn.Sequential(
        *layers, PixelsToChannels(), *fully_connected(task, features, (hidden, hidden), options, first=False)
    )


def pooled(followers: list[nn.Module], options: Vgg10Options) -> list[nn.Module]:
    """A 2×2 pool and what follows a convolution, in the order of the options."""
    match options.pool_after:
        case "convolution":
            return [max_pool(), *followers]
        case "activation":
            return [*followers, max_pool()]
        case "sign":
            return [*followers, Signs(), max_pool()]


class Signs(nn.Module):
    """Signs with the clipped straight-through gradient, as a layer of their own, in every stage.

    forward   y = +1 if x >= 0 else −1
    backward  dy/dx = 1 if |x| <= 1 else 0

    Shape: any -> same.
    """

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return straight_through_sign(x, 1.0)


class MlpOptions(StudyOptions):
    """Options of the multi-layer perceptron."""

    hidden: tuple[int, ...] = Field((2048, 2048, 2048), min_length=1)
    """Units of each hidden layer."""


def mlp(options: MlpOptions, task: Task) -> nn.Module:
    """Three hidden layers of 2048 units, then the classes.

    Shape: (N, C, H, W) -> (N, num_classes).
    Deviation: see `vgg10`.
    """
    features = task.in_channels * task.image_size[0] * task.image_size[1]
    return nn.Sequential(PixelsToChannels(), *fully_connected(task, features, options.hidden, options, True))


def fully_connected(
    task: Task, features: int, hidden: tuple[int, ...], options: StudyOptions, first: bool
) -> list[nn.Module]:
    """Linear layers as 1×1 convolutions of a single pixel, batch-norms between, and the classifier.

    Args:
        first: whether the first of them is the network's first layer.
    """
    layers: list[nn.Module] = []
    for position, units in enumerate(hidden):
        is_real = first and not position and options.real_ends
        conv = real_conv(features, units, 1, why=FIRST) if is_real else binary_conv(task, features, units, 1)
        layers += [conv, *norm_and_activation(units, options)]
        features = units
    if not options.real_ends:
        scores = nn.BatchNorm2d(task.num_classes, NORM_EPSILON)
        return [*layers, binary_conv(task, features, task.num_classes, 1), scores, nn.Flatten()]
    return [*layers, nn.Flatten(), classifier(features, task.num_classes)]


def norm_and_activation(channels: int, options: StudyOptions) -> list[nn.Module]:
    """Batch-norm and what the options say."""
    norm = nn.BatchNorm2d(channels, NORM_EPSILON)
    if options.activation == "none":
        return [norm]
    return [norm, build_nonlinearity(options.activation, channels)]


STUDY = Binarization(
    activation=BinarizerSpec(name="sign"), weight=BinarizerSpec(name="bnn", window=1.0, clip=1.0)
)
STUDY_PAPER = "Alizadeh et al., An Empirical Study of Binary Neural Networks' Optimisation, ICLR 2019"
register_models(
    vgg_small,
    {
        "vgg_small": VggSmallOptions(),
        "autobnn_vgg_a": VggSmallOptions(ratios=(0.5, 2, 1, 1, 1, 0.5)),
        "autobnn_vgg_b": VggSmallOptions(ratios=(2, 2, 4, 2, 4, 0.5)),
    },
    Binarization(activation=BinarizerSpec(name="sign"), weight=BinarizerSpec(name="dorefa", bits=1)),
    "Shen et al., AutoBNN, arXiv:1909.07378",
)
register_models(vgg10, {"vgg10": Vgg10Options()}, STUDY, STUDY_PAPER)
register_models(mlp, {"mlp": MlpOptions()}, STUDY, STUDY_PAPER)
