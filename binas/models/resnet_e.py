"""ResNetE: a residual network with one extra shortcut per convolution and real-valued down-sampling.

Bethge et al., Back to Simplicity, arXiv:1906.08637; grouped stem from MeliusNet, arXiv:2001.05936.
"""

from __future__ import annotations

from torch import nn

from binas.binarize import Binarization, BinarizerSpec
from binas.models.layers import stem
from binas.models.model_registry import Task, register_models
from binas.models.residual import (
    DEPTHS,
    ResidualNet,
    ShortcutOptions,
    last_channels,
    residual_stages,
    stem_channels,
)

BINARIZATION = Binarization(
    activation=BinarizerSpec(name="sign", window=1.25),
    weight=BinarizerSpec(name="bnn", window=1.25, clip=1.25),
)


def resnet_e(options: ShortcutOptions, task: Task) -> nn.Module:
    """Blocks of one convolution, batch-norm and shortcut; a second batch-norm after the stem's pool."""
    first = stem(options.stem, task.in_channels, stem_channels(options), norm_after_pool=True)
    body, channels = residual_stages(options, task), last_channels(options)
    return ResidualNet(first, body, channels, task.num_classes, (nn.ReLU(),))


register_models(
    resnet_e,
    {f"resnete{depth}": ShortcutOptions(blocks=DEPTHS[depth]) for depth in (18, 34)},
    BINARIZATION,
    "Bethge et al., Back to Simplicity, arXiv:1906.08637",
)
