"""Switches that make training faster on a GPU without changing what is trained, and 16-bit arithmetic."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from binas.config import Config

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class Acceleration(Config):
    """What a device may do to be faster; `auto` never changes a result by more than rounding in float32."""

    mixed_precision: Literal["auto", "off", "float16", "bfloat16"] = "auto"
    """Type of real-valued layers; ±1 sums that it cannot hold exactly stay float32; auto: off."""
    capture: Literal["auto", "off", "cuda_graphs", "compile"] = "auto"
    """How a step's many small kernels are launched at once; auto: cuda_graphs on CUDA, where possible."""
    data_on_device: Literal["auto", "on", "off"] = "auto"
    """Whether images wait on the device; auto: where they take at most a quarter of its free memory."""
    check_interval: int = Field(50, ge=1)
    """Steps between two looks at the loss; each look waits for the device."""

    def precision(self, device: torch.device) -> MixedPrecision:
        """The arithmetic of one optimizer's steps."""
        return MixedPrecision(DTYPES.get(self.mixed_precision), device)


class MixedPrecision:
    """16-bit real-valued layers, with the scaled loss that float16 needs; float32 where there is no type.

    Batch-norm keeps float32 statistics, the loss is computed in float32, and binary convolutions look after
    themselves (`binas.binarize.exact`).

    Args:
        dtype: float16 or bfloat16; None changes nothing.
        device: where training runs.
    Reference: Micikevicius et al., Mixed Precision Training, arXiv:1710.03740.
    """

    def __init__(self, dtype: torch.dtype | None = None, device: torch.device | None = None) -> None:
        self.dtype = dtype
        self.kind = "cpu" if device is None else device.type
        self.scaler = torch.amp.GradScaler(self.kind) if dtype == torch.float16 else None

    def autocast(self) -> AbstractContextManager[Any]:
        """The region in which the network runs forward."""
        if self.dtype is None:
            return nullcontext()
        # a cache would keep casts of one pass alive in a captured graph
        return torch.autocast(self.kind, self.dtype, cache_enabled=False)

    def full(self, logits: Tensor) -> Tensor:
        """Logits as the loss wants them."""
        return logits if self.dtype is None else logits.float()

    def scale(self, loss: Tensor) -> Tensor:
        """The loss whose gradient is taken."""
        return loss if self.scaler is None else self.scaler.scale(loss)

    def step(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Iterable[nn.Parameter] = (),
        max_norm: float | None = None,
    ) -> None:
        """An optimizer step with gradients of their true size, left out where one has overflowed.

        Args:
            parameters, max_norm: whose whole gradient is clipped, to which norm; None: not clipped.
        """
        trained = any(p.grad is not None for group in optimizer.param_groups for p in group["params"])
        if self.scaler is not None and trained:
            self.scaler.unscale_(optimizer)
        if max_norm is not None:
            nn.utils.clip_grad_norm_(parameters, max_norm)
        if self.scaler is None:
            optimizer.step()
        elif trained:
            self.scaler.step(optimizer)
            self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """The scale and how long it has held; empty without one."""
        return {} if self.scaler is None else self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Go on from a state; None or an empty one starts afresh."""
        if self.scaler is not None and state:
            self.scaler.load_state_dict(state)
