"""Slices of a shared tensor: first channels, middles of kernels, connections that groups leave."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from binas.binarize import BinaryConv2d


def tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def leading(shared: Tensor, like: Tensor) -> Tensor | None:
    """Of every dimension the first entries, as a view; None where the shared tensor has fewer."""
    if any(wanted > there for wanted, there in zip(like.shape, shared.shape, strict=False)):
        return None
    return shared[tuple(slice(0, length) for length in like.shape)]


def conv_part(weight: Tensor, conv: BinaryConv2d, shared: BinaryConv2d) -> Tensor | None:
    """The weights of a convolution inside those of a shared one with at most as many groups, or depthwise.

    Connection (output o, input i) keeps its weight; those across the convolution's groups are left out. A
    smaller kernel is the middle of the larger one.

    Returns:
        None where groups of the convolution cross those of the shared one.
    Shape: (O', I'/G', k', k') -> (O, I/G, k, k).
    """
    outputs, inputs = conv.weight.shape[:2]
    margin = (shared.kernel_size - conv.kernel_size) // 2
    inner = slice(margin, margin + conv.kernel_size)
    weight = weight[:, :, inner, inner]
    depthwise = all(one.groups == one.in_channels == one.out_channels for one in (conv, shared))
    if conv.groups == shared.groups or depthwise:
        return weight[:outputs, :inputs]
    own = torch.arange(outputs) // (outputs // conv.groups) * inputs
    wide = torch.arange(outputs) // (shared.out_channels // shared.groups) * weight.shape[1]
    columns = (own - wide)[:, None] + torch.arange(inputs)
    if int(columns.min()) < 0 or int(columns.max()) >= weight.shape[1]:
        return None
    rows = torch.arange(outputs)[:, None]
    return weight[rows.to(weight.device), columns.to(weight.device)]
