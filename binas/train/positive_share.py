"""The share of +1 in what each binary convolution reads: a pool of signs pushes it towards 1.

Alizadeh et al., An Empirical Study of Binary Neural Networks' Optimisation, ICLR 2019, on where pools stand.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from binas.binarize import binary_convolutions
from binas.binarize.contract import Bases
from binas.run.distributed import all_reduce_sum


class PositiveShares:
    """Counts positive codes while a network runs inside the `with` block.

    Args:
        network: whose binary convolutions are watched; those that read real values give nothing. None:
            nothing is watched.
    """

    def __init__(self, network: nn.Module | None) -> None:
        self.network = network
        self._positive: dict[str, Tensor] = {}
        self._count: dict[str, int] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        for name, conv in binary_convolutions(self.network) if self.network is not None else ():
            self._handles.append(conv.activation_binarizer.register_forward_hook(self._hook(name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, name: str) -> Any:
        @torch.no_grad()
        def count(module: nn.Module, given: tuple[Any, ...], bases: Bases) -> None:
            codes = bases[0][0]
            positive = (codes > 0).sum()  # read from the device once, at the end
            self._positive[name] = self._positive.get(name, torch.zeros_like(positive)) + positive
            self._count[name] = self._count.get(name, 0) + codes.numel()

        return count

    def figures(self) -> dict[str, float]:
        """`positive_share/LAYER` for each layer that has read codes; of several bases the first."""
        counts = [[float(positive), self._count[name]] for name, positive in self._positive.items()]
        counts = all_reduce_sum(torch.tensor(counts, dtype=torch.float64)).tolist() if counts else []
        return {
            f"positive_share/{name}": positive / count
            for name, (positive, count) in zip(self._positive, counts, strict=True)
        }
