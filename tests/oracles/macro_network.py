"""The slow, obvious network of a macro genotype: signs, loops over channels and float64, block by block.

It reads genotype and tensors alone. `logits` gives what is differentiated: torch's autograd goes through it.
Only XNOR weights and the signs `sign` and `rsign` are known.
Paper: the block of Lin et al., NAS-BNN, arXiv:2408.15484.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from oracles.binary_layers import approx_sign, ste_sign

EPSILON = 1e-5


def logits(genotype: Any, state: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """The logits in training: batch-norms take the statistics of the batch. Shape: (N, C, H, W) -> (N, K)."""
    x = F.conv2d(images, state["stem.0.weight"], stride=genotype.stem.stride, padding=1)
    x = normalized(x, state, "stem.1")
    for number, stage in enumerate(genotype.stages):
        for position, block in enumerate(stage.blocks):
            prefix = f"stages.{number}.{position}"
            stride = stage.stride if position == 0 else 1
            x = half(x, state, f"{prefix}.spatial", block, stride, block.groups)
            x = half(x, state, f"{prefix}.pointwise", block, 1, 1)
    return x.mean(dim=(2, 3)) @ state["classifier.weight"].T + state["classifier.bias"]


def half(x: Tensor, state: Mapping[str, Tensor], prefix: str, block: Any, stride: int, groups: int) -> Tensor:
    """One convolution with what surrounds it."""
    latent = state[f"{prefix}.conv.weight"]
    if latent.shape[1] >= 4:  # fewer weights are not centred
        latent = latent - latent.mean(dim=1, keepdim=True)
    thresholds = [v for k, v in state.items() if k.startswith(f"{prefix}.conv.activation_binarizers")]
    codes = approx_sign(x - thresholds[0].reshape(1, -1, 1, 1)) if thresholds else ste_sign(x, 1.0)
    scale = latent.abs().mean(dim=(1, 2, 3), keepdim=True)
    y = F.conv2d(codes, ste_sign(latent, 1.0), None, stride, latent.shape[-1] // 2, 1, groups)
    y = normalized(y * scale.reshape(1, -1, 1, 1), state, f"{prefix}.norm")
    if block.skip != "none":
        y = y + shortcut(x, state, prefix, block.skip, stride, latent.shape[0])
    return activated(y, state, f"{prefix}.activation", block.activation)


def shortcut(
    x: Tensor, state: Mapping[str, Tensor], prefix: str, kind: str, stride: int, out_channels: int
) -> Tensor:
    """The pooled input, its channels repeated one by one; or projected by a real-valued convolution."""
    changes = stride == 2 or x.shape[1] != out_channels
    if stride == 2:
        rows, columns = (-(-length // 2) for length in x.shape[2:])
        pixels = []
        for row in range(rows):
            for column in range(columns):
                patch = x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten(2)
                pixels.append(patch.max(dim=2).values if kind == "max" else patch.mean(2))
        x = torch.stack(pixels, dim=2).reshape(*x.shape[:2], rows, columns)
    if kind == "real" and changes:
        x = F.conv2d(x, state[f"{prefix}.shortcut.project.0.weight"])
        return normalized(x, state, f"{prefix}.shortcut.project.1")
    return torch.stack([x[:, channel % x.shape[1]] for channel in range(out_channels)], dim=1)


def normalized(x: Tensor, state: Mapping[str, Tensor], prefix: str) -> Tensor:
    """Batch-norm by the batch's own mean and variance."""
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
    weight, bias = (state[f"{prefix}.{name}"].reshape(1, -1, 1, 1) for name in ("weight", "bias"))
    return (x - mean) / torch.sqrt(variance + EPSILON) * weight + bias


def activated(x: Tensor, state: Mapping[str, Tensor], prefix: str, name: str) -> Tensor:
    """The activation by its formula."""
    if name == "relu":
        return torch.where(x > 0, x, torch.zeros_like(x))
    values = {k.removeprefix(f"{prefix}."): v for k, v in state.items() if k.startswith(f"{prefix}.")}
    values = {k: v.reshape(1, -1, 1, 1) for k, v in values.items()}
    if name == "prelu":
        return torch.where(x > 0, x, values["weight"] * x)
    if name == "rprelu":
        moved = x - values["gamma"]
        return torch.where(moved > 0, moved, values["beta"] * moved) + values["zeta"]
    raise ValueError(name)
