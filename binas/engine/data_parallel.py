"""Data-parallel training: every rank computes its part of a batch, gradients are averaged over all.

Alphas and weights are replicas that take the same steps, so they stay the same bits on every rank.

Deviation from torch's `DistributedDataParallel`: gradients are averaged after the backward pass by the same
collective, in one piece. That wrapper expects every parameter in every step, while an alpha step freezes the
weights, a single path leaves most of them out, a micro-batch runs backward several times in a step, and a
phase may end with another supernet; and it covers one module, not alphas, teacher and network. What is given
up is the overlap of communication with the backward pass, for a few megabytes of gradients.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from binas.run.distributed import all_reduce_sum, check_same, num_ranks


@torch.no_grad()
def average_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Replaces the gradients of an optimizer's parameters by their mean over all ranks.

    Parts of a batch are of one size, so that this is the gradient of the whole batch's mean loss. Ranks have
    the same parameters without gradient, since they run the same paths.
    """
    if num_ranks() == 1:
        return
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    gradients = [p.grad for p in parameters if p.grad is not None]
    for some, flat in _flat(gradients):
        all_reduce_sum(flat).div_(num_ranks())
        _put_back(some, flat)


@torch.no_grad()
def take_from_first(*modules: nn.Module) -> None:
    """Gives all ranks the parameters and buffers of rank 0."""
    if num_ranks() == 1:
        return
    for module in modules:
        for some, flat in _flat([*module.parameters(), *module.buffers()]):
            dist.broadcast(flat, 0)
            _put_back(some, flat)


@torch.no_grad()
def average_buffers(*modules: nn.Module) -> None:
    """Gives all ranks the same buffers: the mean of those that differ, such as running statistics.

    Those that are the same already keep every bit; of what is no real number, rank 0's is taken.
    """
    if num_ranks() == 1:
        return
    module = nn.ModuleList(modules)
    for some, flat in _flat([b for b in module.buffers() if b.is_floating_point()]):
        low, high = flat.clone(), flat.clone()
        dist.all_reduce(low, dist.ReduceOp.MIN)
        dist.all_reduce(high, dist.ReduceOp.MAX)
        mean = all_reduce_sum(flat.clone()).div_(num_ranks())
        _put_back(some, torch.where(low == high, flat, mean))
    for some, flat in _flat([b for b in module.buffers() if not b.is_floating_point()]):
        dist.broadcast(flat, 0)
        _put_back(some, flat)


def check_replicas(module: nn.Module, what: str, more: str = "") -> None:
    """Raises a `UserError` on every rank unless all have the same state, bit for bit.

    Args:
        what: is compared, in words.
        more: what must be the same too.
    """
    if num_ranks() == 1:
        return
    tensors = (t.detach().cpu().contiguous() for t in module.state_dict().values())
    values = b"".join(t.reshape(-1).view(torch.uint8).numpy().tobytes() for t in tensors if t.numel())
    remedy = "use machines of one kind, and the same versions of binas and torch on all"
    check_same(values + more.encode(), what, remedy)


def _flat(tensors: list[Tensor]) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Tensors of one type, and a copy of their values in one piece: a collective for each would take long."""
    for kind in dict.fromkeys((t.dtype, t.device) for t in tensors):
        some = [t for t in tensors if (t.dtype, t.device) == kind]
        yield some, torch.cat([t.detach().reshape(-1) for t in some])


def _put_back(tensors: list[Tensor], flat: Tensor) -> None:
    for tensor, part in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
        tensor.detach().copy_(part.view_as(tensor))
