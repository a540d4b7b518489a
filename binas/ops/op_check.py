"""The contract of an operation, tried on real tensors: what `binas ops check` runs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from binas.errors import UserError
from binas.ops.contract import OpContext, OpFactory, build_op

SIZES = ((8, 8), (15, 15), (7, 9))


def check_op(op: str | OpFactory, channels: int = 16) -> Iterator[str]:
    """Yields a line for every promise that an operation keeps.

    Raises:
        UserError: at the first promise that it breaks: shape at stride 1 and 2, even and odd sizes and a
            batch of one; a finite gradient for every parameter; an undamaged input; equal outputs in
            evaluation; a state dict that loads.
    """
    for stride in (1, 2):
        for size in SIZES:
            module = _built(op, channels, stride)
            _check_forward(module, channels, stride, size)
            yield f"stride {stride}, {size[0]}×{size[1]}: shape, gradients and input are as promised"
        _check_state(op, channels, stride)
        yield f"stride {stride}: evaluation repeats itself, and its state loads strictly"


def check_shape(op: str, channels: int) -> None:
    """Raises a `UserError` where an operation does not give the shape that it should, at stride 1 or 2."""
    for stride in (1, 2):
        x = torch.zeros(2, channels, 8, 8)
        _check_shape(x, build_op(op, channels, stride, OpContext())(x), stride)


def _check_shape(x: torch.Tensor, y: torch.Tensor, stride: int) -> None:
    count, channels, height, width = x.shape
    expected = (count, channels, -(-height // stride), -(-width // stride))
    if tuple(y.shape) != expected:
        raise UserError(
            f"stride {stride}: {tuple(x.shape)} became {tuple(y.shape)}, expected {expected}:"
            " channels stay, height and width become ceil(size / stride)"
        )


def _built(op: str | OpFactory, channels: int, stride: int) -> nn.Module:
    try:
        return build_op(op, channels, stride, OpContext())
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"the factory raised {type(error).__name__} for {channels} channels, stride {stride}: {error}"
        ) from error


def _run(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    try:
        y = module(x)
    except Exception as error:
        raise UserError(f"forward raised {type(error).__name__} on {tuple(x.shape)}: {error}") from error
    if not isinstance(y, torch.Tensor):
        raise UserError(f"forward gave {type(y).__name__}, not a tensor")
    return y


def _check_forward(module: nn.Module, channels: int, stride: int, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, channels, *size, generator=generator, requires_grad=True)
    before = x.detach().clone()
    y = _run(module, x)
    _check_shape(x, y, stride)
    if not y.isfinite().all():
        raise UserError(f"stride {stride}: the output is not finite")
    if not torch.equal(before, x.detach()):
        raise UserError("the input was changed in place; work on a copy")
    if y.requires_grad:
        (y * torch.randn(y.shape, generator=generator)).sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in module.named_parameters():
        if parameter.grad is None or not parameter.grad.isfinite().all():
            what = "no" if parameter.grad is None else "a non-finite"
            raise UserError(f"stride {stride}: parameter '{name}' gets {what} gradient")


def _check_state(op: str | OpFactory, channels: int, stride: int) -> None:
    module = _built(op, channels, stride)
    x = torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(1))
    _run(module, x)
    module.eval()
    with torch.no_grad():
        first, second = _run(module, x), _run(module, x)
        if not torch.equal(first, second):
            raise UserError(f"stride {stride}: two evaluations of one input differ")
        alone = _run(module, x[:1])
        if alone.shape != first[:1].shape:
            raise UserError(f"stride {stride}: a batch of one became {tuple(alone.shape)}; keep its 4 axes")
        copy = _built(op, channels, stride)
        copy.load_state_dict(module.state_dict(), strict=True)
        if not torch.equal(_run(copy.eval(), x), first):
            raise UserError(f"stride {stride}: a copy with the same state gives another output")
