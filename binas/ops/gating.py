"""Learned channel gating: each channel of a binary convolution is rescaled by what its real input says."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from binas.config import Config

WHY_GATE = "channel gate: few weights, on averages over pixels"


class GatingConfig(Config):
    """Settings of the channel gating that follows each binary convolution of an operation."""

    reduction: int = Field(8, ge=1)
    """Channels of the block divided by those between the gate's two linear layers."""


class ChannelGate(nn.Module):
    """Multiplies each channel of a binary convolution's output by a number in (0, 1) from its real input.

    forward   y' = y · σ(W2 · relu(W1 · mean of A over pixels)), A the input before it is binarized

    Args:
        in_channels, out_channels: of the convolution.
        reduction: in_channels divided by the channels between W1 and W2, of which at least one is left.
    Shape: y (N, C_out, H', W'), A (N, C_in, H, W) -> (N, C_out, H', W').
    Reference: Martinez et al., Real-to-Binary, arXiv:2003.11535, sec. 4.3 (data-driven channel rescaling).
    Deviation: A is the batch-normalised input of the sign; the paper's formula has no biases, so there
        are none. The reduction of 8 is not confirmed by the text that we read.
    """

    def __init__(self, in_channels: int, out_channels: int, reduction: int) -> None:
        super().__init__()
        hidden = max(1, in_channels // reduction)
        self.squeeze = nn.Linear(in_channels, hidden, bias=False)
        self.expand = nn.Linear(hidden, out_channels, bias=False)
        for layer in (self.squeeze, self.expand):
            layer.why_real = WHY_GATE  # type: ignore[assignment]

    def forward(self, y: Tensor, a: Tensor) -> Tensor:
        """See the class."""
        gate = torch.sigmoid(self.expand(torch.relu(self.squeeze(a.mean(dim=(2, 3))))))
        return y * gate[:, :, None, None]
