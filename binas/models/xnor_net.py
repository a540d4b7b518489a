"""XNOR-Net: AlexNet and residual networks in the block order batch-norm, binarize, convolve, pool.

Rastegari et al., XNOR-Net, arXiv:1603.05279, sec. 4.2.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from binas.binarize import Binarization, BinarizerSpec
from binas.models.layers import (
    FIRST,
    PixelsToChannels,
    binary_conv,
    classifier,
    max_pool,
    real_conv,
    scaled,
    shortcut,
    stem,
)
from binas.models.model_registry import Task, WidthOptions, register_models
from binas.models.residual import DEPTHS, ResidualNet, ResidualOptions, last_channels, stages, stem_channels

BINARIZATION = Binarization(activation=BinarizerSpec(name="xnor_k"), weight=BinarizerSpec(name="xnor"))
PAPER = "Rastegari et al., XNOR-Net, arXiv:1603.05279"


class AlexNetOptions(WidthOptions):
    """Options of AlexNet."""

    stem: Literal["imagenet", "cifar"] = "imagenet"
    """imagenet: 11×11 with stride 4; cifar: 3×3 with stride 1; a pool follows either."""
    order: Literal["bacp", "cbap"] = "bacp"
    """Batch-norm, sign, convolution, pool, as published; or convolution, batch-norm, sign, pool."""


class XnorAlexNet(nn.Sequential):
    """AlexNet without groups: all but the first and the last layer binary, fully connected ones too.

    | layer | kernel | channels | then         |
    | conv1 | 11, /4 | 96       | BN ReLU pool |
    | conv2 | 5      | 256      | pool         |
    | conv3 | 3      | 384      |              |
    | conv4 | 3      | 384      |              |
    | conv5 | 3      | 256      | pool         |
    | fc6   | 6      | 4096     |              |
    | fc7   |        | 4096     | BN ReLU      |
    | fc8   |        | classes  |              |

    A batch-norm stands before every binary layer; fc6 reads whatever the last pool leaves, 6×6 pixels of
    an image of 224×224.

    `order: cbap` is what the paper compares with: a batch-norm follows each binary layer, and the pool the
    batch-norm. The maximum of signs is the sign of the maximum, so the pool stands before the sign here too.

    Shape: (N, C, H, W) -> (N, num_classes).
    Reference: the paper, sec. 4.2. Sizes, paddings and missing biases as in larq_zoo's XNORNet.
    """

    def __init__(self, options: AlexNetOptions, task: Task) -> None:
        c1, c2, c3, fc = (scaled(channels, options.width) for channels in (96, 256, 384, 4096))
        kernel, stride = (11, 4) if options.stem == "imagenet" else (3, 1)
        size = [-(-length // stride) for length in task.image_size]
        pools: list[nn.Module] = []
        for _ in range(3):
            pool, size = alexnet_pool(size)
            pools.append(pool)
        norm_first = options.order == "bacp"
        # signs of what has passed a ReLU would all be +1, so there is none where no batch-norm is between
        layers: list[nn.Module] = [
            real_conv(task.in_channels, c1, kernel, stride, why=FIRST),
            nn.BatchNorm2d(c1),
            *([nn.ReLU()] if norm_first else []),
            pools[0],
        ]
        plan: list[tuple[int, int, int, list[nn.Module]]]
        plan = [(c1, c2, 5, pools[1:2]), (c2, c3, 3, []), (c3, c3, 3, []), (c3, c2, 3, pools[2:])]
        for before, after, length, following in plan:
            conv = binary_conv(task, before, after, length)
            if norm_first:
                layers += [nn.BatchNorm2d(before), conv, *following]
            else:
                layers += [conv, nn.BatchNorm2d(after), *following]
        linear = (binary_conv(task, c2 * size[0] * size[1], fc, 1), binary_conv(task, fc, fc, 1))
        layers += [nn.BatchNorm2d(c2)] if norm_first else []
        layers.append(PixelsToChannels())
        for layer in linear:  # a batch-norm follows either way: that of the next layer, or its own
            layers += [layer, nn.BatchNorm2d(fc)]
        super().__init__(*layers, nn.ReLU(), nn.Flatten(), classifier(fc, task.num_classes, bias=False))


def alexnet_pool(size: list[int]) -> tuple[nn.MaxPool2d, list[int]]:
    """AlexNet's pool, 3×3 pixels at every second one without padding, and the size it leaves.

    Images too small for it are pooled over 2×2 pixels.
    """
    if min(size) < 3:
        return max_pool(), [-(-length // 2) for length in size]
    return nn.MaxPool2d(3, 2), [(length - 3) // 2 + 1 for length in size]


class XnorBlock(nn.Module):
    """Two times batch-norm, sign, binary 3×3 convolution, and one shortcut around them.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H/stride), ceil(W/stride)).
    """

    def __init__(
        self, task: Task, in_channels: int, out_channels: int, stride: int, options: ResidualOptions
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            binary_conv(task, in_channels, out_channels, 3, stride),
            nn.BatchNorm2d(out_channels),
            binary_conv(task, out_channels, out_channels, 3),
        )
        self.shortcut = shortcut(task, in_channels, out_channels, stride, options.downsampling)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.body(x) + self.shortcut(x)
        return y


def xnor_resnet(options: ResidualOptions, task: Task) -> nn.Module:
    """ResNet of XNOR blocks, with a shortcut around every two convolutions.

    Uncertain: the paper draws no residual block. Pre-activation order, and batch-norm and ReLU before the
    average, are our reading. Published sizes (33.7 Mbit for 18 layers in Bi-Real's table 3) fit real-valued
    down-sampling, published 1-bit operations (1.695e9 in BATS's table) binary down-sampling, which is
    `downsampling: binary`.
    """

    def block(in_channels: int, out_channels: int, stride: int) -> nn.Module:
        return XnorBlock(task, in_channels, out_channels, stride, options)

    channels = last_channels(options)
    first = stem(options.stem, task.in_channels, stem_channels(options))
    last = (nn.BatchNorm2d(channels), nn.ReLU())
    return ResidualNet(first, stages(options, block), channels, task.num_classes, last)


register_models(XnorAlexNet, {"xnor_alexnet": AlexNetOptions()}, BINARIZATION, PAPER)
register_models(
    xnor_resnet,
    {f"xnor_resnet{depth}": ResidualOptions(blocks=DEPTHS[depth]) for depth in (18, 34)},
    BINARIZATION,
    PAPER,
)
