"""What follows a binary convolution, by name: `activation` in a search space.

A factory for a number of channels that gives a module from (N, C, H, W) to the same shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binas.errors import UserError
from binas.registry import Registry

NONLINEARITIES: Registry[Callable[[int], nn.Module]] = Registry("activation")
register_nonlinearity = NONLINEARITIES.register


def build_nonlinearity(name: str, channels: int) -> nn.Module:
    """The activation of that name for so many channels."""
    module = NONLINEARITIES[name](channels)
    if not isinstance(module, nn.Module):
        raise UserError(
            f"activation '{name}': its factory gave {type(module).__name__}, not a torch.nn.Module"
        )
    return module


@NONLINEARITIES.register("relu")
def relu(channels: int) -> nn.Module:
    """max(x, 0)."""
    return nn.ReLU()


@NONLINEARITIES.register("prelu")
def prelu(channels: int) -> nn.Module:
    """x where it is above 0, else β·x with β learned per channel, ¼ at first.

    Reference: He et al., Delving Deep into Rectifiers, arXiv:1502.01852.
    """
    return nn.PReLU(channels)


@NONLINEARITIES.register("none")
def none(channels: int) -> nn.Module:
    """Nothing: the input itself."""
    return nn.Identity()


@NONLINEARITIES.register("rprelu")
class RPReLU(nn.Module):
    """PReLU whose kink is shifted to a learned point, all three numbers learned per channel.

    forward   y = x − γ + ζ if x > γ else β·(x − γ) + ζ
    backward  dy/dx = 1 if x > γ else β;  dy/dβ = (x − γ) where x <= γ;
              dy/dγ = −1 if x > γ else −β;  dy/dζ = 1

    Args:
        channels: of the input.
    Shape: (N, C, H, W) -> same.
    Reference: Liu et al., ReActNet, arXiv:2003.03488, eqs. 4-10; β begins at ¼, γ and ζ at 0.
    """

    why_real = "learned slope and shifts of an activation, three for each channel"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.full((channels,), 0.25))
        self.gamma = nn.Parameter(torch.zeros(channels, 1, 1))
        self.zeta = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return F.prelu(x - self.gamma, self.beta) + self.zeta


class _Clip(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.abs() <= 1)
        return x.clamp(-1, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        inside: Tensor = ctx.saved_tensors[0]
        return gradient * inside


@NONLINEARITIES.register("hard_tanh")
class HardTanh(nn.Module):
    """The input clipped to [−1, 1].

    forward   y = max(−1, min(1, x))
    backward  dy/dx = 1 if |x| <= 1 else 0

    Args:
        channels: not used.
    Shape: any -> same.
    Reference: Hubara et al., Binarized Neural Networks, arXiv:1602.02830, sec. 1.3.
    Deviation: the gradient at ±1 is 1 as the paper has it; that of PyTorch's own is 0 there.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return _Clip.apply(x)  # type: ignore[no-any-return]
