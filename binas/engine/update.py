"""One update of what an optimizer trains: gradients of a batch in parts, over all ranks, then its step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from binas.engine.acceleration import MixedPrecision
from binas.engine.capture import Backward, Forward, GraphedBackward, compiled
from binas.engine.data_parallel import average_gradients
from binas.engine.micro_batch import Batch, backward_in_parts


class Update:
    """Moves what an optimizer trains by a batch; called by each kind of training alike.

    Args:
        forward: gives the loss of a batch, and the values to report.
        optimizer: whose parameters are moved.
        modules: run by `forward`; a captured pass leaves their buffers as an ordinary one does.
        precision: arithmetic of the pass and of the step.
        micro_batch: largest number of images that are computed at a time; None: all of a batch.
        capture: how the pass is launched, from `capture_choice`.
        clipped, clip_grad_norm: parameters whose whole gradient is clipped, to which norm; None: not clipped.
    """

    def __init__(
        self,
        forward: Forward,
        optimizer: torch.optim.Optimizer,
        modules: Iterable[nn.Module],
        precision: MixedPrecision,
        *,
        micro_batch: int | None = None,
        capture: Literal["off", "cuda_graphs", "compile"] = "off",
        clipped: Callable[[], Iterable[nn.Parameter]] = tuple,
        clip_grad_norm: float | None = None,
    ) -> None:
        self.optimizer, self.precision, self.micro_batch = optimizer, precision, micro_batch
        self.clipped, self.clip_grad_norm = clipped, clip_grad_norm
        self._forward = compiled(forward) if capture == "compile" else forward
        self._backward: Backward = self.backward
        if capture == "cuda_graphs":
            trained = [p for group in optimizer.param_groups for p in group["params"]]
            self._backward = GraphedBackward(self.backward, nn.ModuleList(modules), trained)

    def __call__(self, batch: Batch) -> Mapping[str, Tensor]:
        """One update; gives the mean of each value that `forward` reports."""
        self.optimizer.zero_grad(set_to_none=True)
        values = self._backward(batch)
        average_gradients(self.optimizer)
        self.precision.step(self.optimizer, self.clipped(), self.clip_grad_norm)
        return values

    def backward(self, batch: Batch) -> dict[str, Tensor]:
        """Adds the gradient of a batch to what is there, without any step."""
        return backward_in_parts(batch, self.micro_batch, self._forward, self.precision.scale)
