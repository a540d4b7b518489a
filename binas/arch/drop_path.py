"""Drop-path: the regularisation of networks of cells."""

from __future__ import annotations

import torch
from torch import Tensor


def drop_path(x: Tensor, rate: float) -> Tensor:
    """x with whole images zeroed at that rate, the others scaled up to keep the mean."""
    keep = torch.rand(x.shape[0], 1, 1, 1, device=x.device) >= rate
    return x * keep / (1 - rate)
