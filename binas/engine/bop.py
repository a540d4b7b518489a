"""Bop, the binary optimizer: it flips weights that are −1 or +1 and has no latent ones.

All other parameters belong to an ordinary optimizer, which it carries inside, so that the training loop
and the checkpoint see a single one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from binas.binarize.sign import sign


class Bop(Optimizer):
    """Flips a binary weight when the average of its gradient points the same way strongly enough.

    step      m = (1 − γ)·m + γ·g;  w = −w where |m| >= τ and sign(m) = sign(w)
    state     m, of every binary weight, from 0

    Args:
        weights: binary weights; they are made −1 and +1 if they are not.
        gamma: γ, the adaptivity rate. It is the `lr` of its parameter group and follows the course of
            the learning rate.
        threshold: τ, in units of the gradient.
        others: the optimizer of all other parameters.
    Reference: Helwegen et al., Latent Weights Do Not Exist, arXiv:1906.02107, algorithm 1.
    Deviation: the paper lets γ and the other optimizer's rate decay each by its own schedule.
    """

    def __init__(
        self, weights: list[nn.Parameter], gamma: float, threshold: float, others: Optimizer
    ) -> None:
        scale = gamma / others.param_groups[0]["lr"]
        flipped = {"params": weights, "lr": gamma, "threshold": threshold, "scale": scale, "flips": True}
        self.others = others
        super().__init__([*others.param_groups, flipped], {})
        with torch.no_grad():
            for weight in weights:
                weight.copy_(sign(weight))
        self._share()

    def _share(self) -> None:
        """Both work on the same groups and the same state."""
        self.others.state = self.state
        self.others.param_groups = [group for group in self.param_groups if "flips" not in group]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of everything."""
        assert closure is None
        self.others.step()
        for group in self.param_groups:
            if "flips" in group:
                for weight in group["params"]:
                    if weight.grad is not None:
                        self._flip(weight, group["lr"], group["threshold"])

    def _flip(self, weight: Tensor, gamma: float, threshold: float) -> None:
        assert weight.grad is not None
        state = self.state[weight]
        if "mean" not in state:
            state["mean"] = torch.zeros_like(weight)
        mean = state["mean"].mul_(1 - gamma).add_(weight.grad, alpha=gamma)
        flips = (mean.abs() >= threshold) & (mean * weight > 0)
        weight.copy_(torch.where(flips, -weight, weight))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Also shares the loaded state with the optimizer inside."""
        super().load_state_dict(state_dict)
        self._share()
