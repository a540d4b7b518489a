"""Parts of a shared network: first channels, middles of kernels, connections that groups leave."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from binas.arch.slices import conv_part, leading, tensors
from binas.binarize import BinaryConv2d
from binas.errors import UserError


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
        fitting = leading(source[name], tensor) if name in source else None
        if fitting is None:
            raise UserError(
                f"evolve.evaluation: shared: '{name}' of a candidate is no part of the widest network's;"
                " use evaluation: short"
            )
        wide = whole.get(owner)
        if leaf == "weight" and isinstance(conv, BinaryConv2d) and isinstance(wide, BinaryConv2d):
            found = conv_part(source[name], conv, wide)
            if found is None:
                raise UserError(
                    "evolve.evaluation: shared: groups of a candidate cross those of the network that is"
                    " shared; let the candidates of evolve.groups.groups divide each other, or use"
                    " evaluation: short"
                )
            part[name] = found
        else:
            part[name] = fitting
    return part


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
