"""The scales of least squared error for two binary bases and for three levels, row by row."""

from __future__ import annotations

import torch
from torch import Tensor


def best_two_bases(rows: Tensor, samples: int | None = None) -> tuple[Tensor, Tensor]:
    """v₁ >= v₂ >= 0 for which v₁·s₁ + v₂·s₂ is nearest to each row, s₁ = sign(x), s₂ = sign(x − v₁·s₁).

    The magnitudes then take the values v₁ − v₂ and v₁ + v₂, split at v₁: the two means of |x| in one
    dimension, whose best split is found exactly by trying each place of the sorted magnitudes.

    Args:
        rows: without gradient.
        samples: of longer rows only about so many evenly spaced values are sorted, and the means are then
            taken once over the whole row; None sorts all.
    Shape: (R, n) -> (R,), (R,).
    """
    ordered = _magnitudes(rows, samples).sort(dim=1).values
    n = ordered.shape[1]
    if n == 1:
        return ordered[:, 0].to(rows.dtype), torch.zeros_like(rows[:, 0])
    sums = ordered.cumsum(dim=1)
    total, low_sum = sums[:, -1:], sums[:, :-1]
    count = torch.arange(1, n, device=rows.device)
    score = low_sum.square() / count + (total - low_sum).square() / (n - count)
    split = score.argmax(dim=1, keepdim=True)
    low = low_sum.gather(1, split) / (split + 1)
    high = (total - low_sum.gather(1, split)) / (n - split - 1)
    if n < rows.shape[1]:
        low, high = _means_beside((low + high) / 2, rows, low, high)
    return ((high + low) / 2)[:, 0].to(rows.dtype), ((high - low) / 2)[:, 0].to(rows.dtype)


def best_ternary(rows: Tensor, samples: int | None = None) -> Tensor:
    """a >= 0 for which −a, 0, +a, split at ±a/2, is nearest to each row.

    Keeping the k largest magnitudes is best with a their mean, and lowers the squared error by
    (their sum)²/k: the best k is found exactly by trying all.

    Args:
        rows: without gradient.
        samples: as for `best_two_bases`.
    Shape: (R, n) -> (R,).
    """
    ordered = _magnitudes(rows, samples).sort(dim=1, descending=True).values
    n = ordered.shape[1]
    sums = ordered.cumsum(dim=1)
    count = torch.arange(1, n + 1, device=rows.device)
    best = (sums.square() / count).argmax(dim=1, keepdim=True)
    level = sums.gather(1, best) / (best + 1)
    if n < rows.shape[1]:
        _, level = _means_beside(level / 2, rows, torch.zeros_like(level), level)
    return level[:, 0].to(rows.dtype)


def _magnitudes(rows: Tensor, samples: int | None) -> Tensor:
    step = 1 if samples is None else -(-rows.shape[1] // samples)
    return rows[:, ::step].abs().double()


def _means_beside(split: Tensor, rows: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Means of the magnitudes below and above the split; the old values where there are none."""
    magnitudes = rows.abs().double()
    above = magnitudes > split
    count = above.sum(dim=1, keepdim=True)
    high_sum = (magnitudes * above).sum(dim=1, keepdim=True)
    below = rows.shape[1] - count
    low_sum = magnitudes.sum(dim=1, keepdim=True) - high_sum
    return (
        torch.where(below > 0, low_sum / below.clamp_min(1), low),
        torch.where(count > 0, high_sum / count.clamp_min(1), high),
    )
