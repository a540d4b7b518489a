"""How long a single layer takes on this machine, alone and for one image."""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

from binas.profile.cost import LayerCost

WARM_UP = 3
"""Runs of a layer before its time counts."""


def milliseconds(module: nn.Module, layer: LayerCost, runs: int) -> float:
    """The median time of a layer in evaluation mode, for one image of random numbers.

    Args:
        module: the layer.
        layer: its cost, which knows the shape of its input.
        runs: whose median counts.
    """
    image = torch.randn(1, *layer.input_shape)
    seconds = []
    with torch.inference_mode():
        for _ in range(WARM_UP + runs):
            start = time.perf_counter()
            module(image)
            seconds.append(time.perf_counter() - start)
    return round(statistics.median(seconds[WARM_UP:]) * 1000, 5)
