"""Parts of a shared network: first channels, middles of kernels, connections that groups leave."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from binas.binarize import BinaryConv2d
from binas.errors import UserError


def tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def part_of(shared: nn.Module, candidate: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network with fewer channels, connections or blocks, as views of the shared ones.

    Of every dimension the first entries; of a smaller kernel the middle of the larger one; of a convolution
    with more groups each output's own connections, as a copy. Buffers of statistics are views as well, so
    that training moves them in place.

    Raises:
        UserError: it is no part of the shared network.
    """
    source = tensors(shared)
    modules = dict(candidate.named_modules())
    whole = dict(shared.named_modules())
    part = {}
    for name, tensor in tensors(candidate).items():
        owner, _, leaf = name.rpartition(".")
        conv = modules[owner]
        if name not in source or any(a > b for a, b in zip(tensor.shape, source[name].shape, strict=False)):
            raise UserError(
                f"evolve.evaluation: shared: '{name}' of a candidate is no part of the widest network's;"
                " use evaluation: short"
            )
        wide = whole.get(owner)
        if leaf == "weight" and isinstance(conv, BinaryConv2d) and isinstance(wide, BinaryConv2d):
            part[name] = conv_part(source[name], conv, wide)
        else:
            part[name] = source[name][tuple(slice(0, length) for length in tensor.shape)]
    return part


def conv_part(weight: Tensor, conv: BinaryConv2d, shared: BinaryConv2d) -> Tensor:
    """The weights of a convolution inside those of a shared one with at most as many groups, or depthwise.

    Connection (output o, input i) keeps its weight; those across the convolution's groups are left out.

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
        raise UserError(
            "evolve.evaluation: shared: groups of a candidate cross those of the network that is shared; let"
            " the candidates of evolve.groups.groups divide each other, or use evaluation: short"
        )
    rows = torch.arange(outputs)[:, None]
    return weight[rows.to(weight.device), columns.to(weight.device)]


def assembled(template: nn.Module, blocks: Mapping[str, nn.Module]) -> nn.Module:
    """A network like the template, a chain, with these blocks in place of all that lie beside them there.

    Args:
        blocks: by path, `stages.0.1` for example; what holds them is a chain as well.
    """
    tree: dict[str, Any] = {}
    for path, block in blocks.items():
        *holders, name = path.split(".")
        branch = tree
        for holder in holders:
            branch = branch.setdefault(holder, {})
        branch[name] = block
    return _chain({**dict(template.named_children()), **tree})


def _chain(tree: Mapping[str, Any]) -> nn.Sequential:
    children = ((name, one if isinstance(one, nn.Module) else _chain(one)) for name, one in tree.items())
    return nn.Sequential(OrderedDict(children))
