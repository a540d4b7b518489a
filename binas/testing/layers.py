"""Cases for what stands inside networks: operations, non-linearities, binarizers."""

from __future__ import annotations

import torch

from binas.binarize.binarizer_check import check_binarizer
from binas.ops import NONLINEARITIES, OPS
from binas.ops.contract import KINDS, OpContext, build_op
from binas.ops.kind import operation_kind
from binas.ops.nonlinearities import build_nonlinearity
from binas.ops.op_check import check_op
from binas.profile.executed import executed_layers
from binas.profile.formulas import Place
from binas.profile.operations import op_cost
from binas.testing.promises import promise, told_of

TOTALS = ("parameters", "flops", "bops", "bits")


def check_operation(name: str, *, channels: int = 16) -> None:
    """An operation keeps its contract, its kind is one, and the cost that it declares is what runs.

    Args:
        name: registered.
        channels: to build it with.
    """
    what = f"operation '{name}'"
    with told_of(what):
        list(check_op(name, channels))
        for stride in (1, 2):
            kind = operation_kind(name, stride, channels)
            promise(kind in KINDS, what, f"kind '{kind}' is none of {', '.join(KINDS)}")
    if hasattr(OPS[name], "cost"):
        _check_cost(name, channels)


def _check_cost(name: str, channels: int) -> None:
    for stride in (1, 2):
        context = OpContext()
        declared = op_cost(name, Place("op", (channels, 9, 9), stride, context)).layers
        module = build_op(name, channels, stride, context)
        executed = executed_layers(module, torch.zeros(1, channels, 9, 9), "op")
        for total in TOTALS:
            ours, theirs = (sum(getattr(layer, total) for layer in layers) for layers in (declared, executed))
            promise(
                ours == theirs,
                f"operation '{name}'",
                f"stride {stride}: cost declares {total} {ours}, and {theirs} run",
            )


def check_nonlinearity(name: str, *, channels: int = 6) -> None:
    """A non-linearity keeps shape and type, has finite gradients, repeats itself, and loads its state.

    Args:
        name: registered.
        channels: to build it for.
    """
    what = f"activation '{name}'"
    promise(name in NONLINEARITIES, what, "is not registered")
    with told_of(what):
        module = build_nonlinearity(name, channels)
        copy = build_nonlinearity(name, channels)
    for dtype in (torch.float32, torch.float64):
        module, copy = module.to(dtype), copy.to(dtype)
        x = torch.randn(3, channels, 5, 7, dtype=dtype, generator=torch.Generator().manual_seed(0))
        before = x.clone()
        given = x.clone().requires_grad_()
        y = module(given)
        promise(y.shape == x.shape, what, f"{tuple(x.shape)} became {tuple(y.shape)}; the shape stays")
        promise(y.dtype == dtype, what, f"{dtype} became {y.dtype}; the type stays")
        promise(bool(y.isfinite().all()), what, "its output is not finite")
        if y.requires_grad:
            y.square().sum().backward()
            promise(given.grad is not None, what, "no gradient reaches its input")
        promise(torch.equal(given.detach(), before), what, "the input was changed in place; work on a copy")
        for key, parameter in module.named_parameters():
            found = parameter.grad is not None and bool(parameter.grad.isfinite().all())
            promise(found, what, f"parameter '{key}' gets no finite gradient")
        module.eval()
        with torch.no_grad():
            promise(torch.equal(module(x), module(x)), what, "two evaluations of one input differ")
            copy.load_state_dict(module.state_dict(), strict=True)
            same = torch.equal(copy.eval()(x), module(x))
            promise(same, what, "a copy with the same state gives another output")
        module.train()
        module.zero_grad(set_to_none=True)


def check_activation_binarizer(name: str) -> None:
    """An activation binarizer keeps its contract in layers of every kind, for each of its variants."""
    _check_binarizer("activation", name)


def check_weight_binarizer(name: str) -> None:
    """A weight binarizer keeps its contract in layers of every kind, for each of its variants."""
    _check_binarizer("weight", name)


def _check_binarizer(kind: str, name: str) -> None:
    with told_of(f"{kind} binarizer '{name}'"):
        list(check_binarizer(kind, name))
