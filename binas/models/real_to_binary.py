"""Real-to-Binary: a residual network whose binary convolutions are rescaled per channel by their real input.

Martinez et al., Training Binary Neural Networks with Real-to-Binary Convolutions, arXiv:2003.11535.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from binas.binarize import Binarization, BinarizerSpec
from binas.models.layers import binary_conv, shortcut, stem
from binas.models.model_registry import Task, register_models
from binas.models.residual import DEPTHS, ResidualNet, ResidualOptions, last_channels, stages, stem_channels
from binas.ops.gating import ChannelGate

BINARIZATION = Binarization(
    activation=BinarizerSpec(name="sign"), weight=BinarizerSpec(name="bnn", window=1.0, clip=1.0)
)


class RealToBinaryOptions(ResidualOptions):
    """Options of Real-to-Binary networks."""

    reduction: int = Field(8, ge=1)
    """Channels of a block divided by those between the gate's two linear layers."""


class RealToBinaryBlock(nn.Module):
    """Batch-norm, binary 3×3 convolution, channel gate, PReLU, and a shortcut around them.

    y = act(conv(sign(a)) · gate(a)) + shortcut(x),  a = norm(x)

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H/stride), ceil(W/stride)).
    Reference: the paper, fig. 1 and sec. 4.3; order of layers as in larq_zoo's RealToBinaryNet.
    """

    def __init__(
        self, task: Task, in_channels: int, out_channels: int, stride: int, options: RealToBinaryOptions
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = binary_conv(task, in_channels, out_channels, 3, stride)
        self.gate = ChannelGate(in_channels, out_channels, options.reduction)
        self.activation = nn.PReLU(out_channels)
        self.shortcut = shortcut(task, in_channels, out_channels, stride, options.downsampling)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        a = self.norm(x)
        y: Tensor = self.activation(self.gate(self.conv(a), a)) + self.shortcut(x)
        return y


def real_to_binary_resnet(options: RealToBinaryOptions, task: Task) -> nn.Module:
    """Residual network of gated blocks with one convolution each; PReLU in the stem, as larq_zoo has it."""

    def block(in_channels: int, out_channels: int, stride: int) -> nn.Module:
        return RealToBinaryBlock(task, in_channels, out_channels, stride, options)

    first = stem(options.stem, task.in_channels, stem_channels(options), "prelu")
    return ResidualNet(first, stages(options, block, 2), last_channels(options), task.num_classes)


register_models(
    real_to_binary_resnet,
    {"real_to_binary_resnet18": RealToBinaryOptions(blocks=DEPTHS[18])},
    BINARIZATION,
    "Martinez et al., Real-to-Binary, arXiv:2003.11535",
    twin_activation="none",
)
