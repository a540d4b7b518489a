"""ResNetE: a residual network with one extra shortcut per convolution and real-valued down-sampling.

Bethge et al., Back to Simplicity, arXiv:1906.08637; grouped stem from MeliusNet, arXiv:2001.05936.
"""

from __future__ import annotations

from torch import nn

from binas.binarize import Binarization, BinarizerSpec
from binas.models.layers import stem
from binas.models.registry import Task, register_models
from binas.models.residual import (
    DEPTHS,
    ResidualConv,
    ResidualNet,
    ResidualOptions,
    last_channels,
    stages,
    stem_channels,
)

BINARIZATION = Binarization(
    activation=BinarizerSpec(name="sign", window=1.25),
    weight=BinarizerSpec(name="bnn", window=1.25, clip=1.25),
)


def resnet_e(options: ResidualOptions, task: Task) -> nn.Module:
    """Blocks of one convolution, batch-norm and shortcut; a second batch-norm after the stem's pool."""

    def block(in_channels: int, out_channels: int, stride: int) -> nn.Module:
        return ResidualConv(task, in_channels, out_channels, stride, options.downsampling)

    first = stem(options.stem, task.in_channels, stem_channels(options), norm_after_pool=True)
    channels = last_channels(options)
    return ResidualNet(first, stages(options, block, 2), channels, task.num_classes, (nn.ReLU(),))


register_models(
    resnet_e,
    {f"resnete{depth}": ResidualOptions(blocks=DEPTHS[depth]) for depth in (18, 34)},
    BINARIZATION,
    "Bethge et al., Back to Simplicity, arXiv:1906.08637",
)
