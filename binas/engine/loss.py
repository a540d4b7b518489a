"""Losses, by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from binas.config import Config


class LossConfig(Config):
    """A loss and its settings."""

    name: Literal["cross_entropy", "squared_hinge"] = "cross_entropy"
    """Which one."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Part of the target that is spread over all classes (cross-entropy)."""

    def unused_keys(self) -> Iterator[tuple[str, str]]:
        """Label smoothing, where the loss has none."""
        if self.name == "squared_hinge" and self.label_smoothing:
            yield "label_smoothing", "loss 'squared_hinge'"

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss over a batch. Shape: (N, classes), (N,) -> ()."""
        if self.name == "squared_hinge":
            return squared_hinge(logits, labels)
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)


def squared_hinge(logits: Tensor, labels: Tensor) -> Tensor:
    """mean of max(0, 1 − t·y)² with t = +1 for the right class and −1 for the others.

    Shape: (N, classes), (N,) -> ().
    Reference: Courbariaux et al., BinaryConnect, arXiv:1511.00363; Alizadeh et al., ICLR 2019, sec. 3.
    """
    targets = 2 * F.one_hot(labels, logits.shape[1]).to(logits.dtype) - 1
    return (1 - targets * logits).clamp_min(0).square().mean()
