"""The many small kernels of a backward pass launched at once: recorded as a CUDA graph, or compiled.

Only forward and backward are captured; optimizer steps, learning rates and sampling stay ordinary Python.
Whatever cannot be captured runs as before, and the log says why.
Reference: Nguyen et al., "Accelerating PyTorch with CUDA Graphs", pytorch.org/blog, 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from binas.engine.micro_batch import Batch
from binas.run.memory import is_out_of_memory
from binas.run.module_state import buffers_unchanged
from binas.run.progress import say

Backward = Callable[[Batch], dict[str, Tensor]]
"""Fills the gradients of parameters, from none, for a batch; gives scalar values."""
Forward = Callable[[Batch], tuple[Tensor, dict[str, Tensor]]]
"""The loss of a batch, and scalar values."""
WARM_UP = 3
"""Passes before a recording, in which libraries choose algorithms and take their workspaces."""


def capture_choice(
    wanted: Literal["auto", "off", "cuda_graphs", "compile"], device: torch.device, obstacle: str | None
) -> Literal["off", "cuda_graphs", "compile"]:
    """What is done about a wish for capturing.

    Args:
        wanted: the setting.
        obstacle: why these steps cannot be captured, in words; None where they can.
    """
    if wanted == "off":
        return "off"
    if wanted == "auto":
        return "cuda_graphs" if device.type == "cuda" and obstacle is None else "off"
    if wanted == "cuda_graphs" and device.type != "cuda":
        obstacle = "there are no CUDA graphs on the CPU"
    if obstacle is not None:
        say(f"note: acceleration.capture: {wanted} has no effect: {obstacle}")
        return "off"
    return wanted


def compiled(forward: Forward) -> Forward:
    """A forward pass through `torch.compile`, or as it is where compiling fails."""
    fast: list[Forward] = [torch.compile(forward)]

    def run(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        try:
            return fast[0](batch)
        except Exception as error:
            if fast[0] is forward or is_out_of_memory(error):
                raise
            say(f"note: acceleration.capture: compile failed, going on without it: {_first_line(error)}")
            fast[0] = forward
            return forward(batch)

    return run


class GraphedBackward:
    """A backward pass that is recorded with its first batch and replayed with all others of that shape.

    Args:
        backward: what is recorded; it must depend on nothing but tensors that stay where they are.
        module: whose buffers the recording leaves as one ordinary pass does.
        parameters: those that it gives gradients; these stay in place from then on.
    """

    def __init__(self, backward: Backward, module: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
        self.backward, self.module, self.parameters = backward, module, parameters
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: Batch | None = None
        self._values: dict[str, Tensor] = {}
        self._gradients: list[Tensor | None] = []
        self._failed = False

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """See the class."""
        if self._graph is None and not self._failed:
            self._record(batch)
        recorded = self._batch
        if self._graph is None or recorded is None or batch[0].shape != recorded[0].shape:
            self._forget_gradients()
            return self.backward(batch)
        for static, given in zip(recorded, batch, strict=True):
            static.copy_(given)
        self._graph.replay()
        for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return {name: value.clone() for name, value in self._values.items()}

    def _record(self, batch: Batch) -> None:
        static = (batch[0].clone(), batch[1].clone())
        try:
            with buffers_unchanged(self.module):
                side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
                side.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(side):
                    for _ in range(WARM_UP):
                        self._forget_gradients()
                        self.backward(static)
                torch.cuda.current_stream().wait_stream(side)
                self._forget_gradients()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    values = self.backward(static)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self._failed = True
            say(f"note: acceleration.capture: no CUDA graph, going on without: {_first_line(error)}")
            return
        self._graph, self._batch, self._values = graph, static, values
        self._gradients = [parameter.grad for parameter in self.parameters]

    def _forget_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
