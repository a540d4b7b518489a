"""Optimizers and learning-rate curves, as settings and as objects."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from binas.config import Config

Shape = Literal["constant", "linear", "cosine", "exponential"]


class OptimizerConfig(Config):
    """An optimizer and its hyper-parameters."""

    name: Literal["sgd", "adam", "adamw", "rmsprop", "adagrad", "adadelta"] = "adam"
    """Which one."""
    learning_rate: float = Field(1e-3, gt=0, le=1e37)
    """Highest learning rate, at the start of the curve."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of sgd and rmsprop."""
    nesterov: bool = False
    """Of sgd."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of adam and adamw."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty; 0 is usual where weights are binary."""

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer over these parameters."""
        given = list(parameters)
        shared: dict[str, Any] = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        match self.name:
            case "sgd":
                return torch.optim.SGD(given, momentum=self.momentum, nesterov=self.nesterov, **shared)
            case "adam":
                return torch.optim.Adam(given, betas=self.betas, **shared)
            case "adamw":
                return torch.optim.AdamW(given, betas=self.betas, **shared)
            case "rmsprop":
                return torch.optim.RMSprop(given, momentum=self.momentum, **shared)
            case "adagrad":
                return torch.optim.Adagrad(given, **shared)
            case "adadelta":
                return torch.optim.Adadelta(given, **shared)


class Curve(Config):
    """How a value goes from one end of training to the other."""

    shape: Shape = "cosine"
    """constant, linear, cosine or exponential."""
    final: float = Field(0.0, ge=0)
    """Value at the end, as a fraction of that at the start (exponential: above 0)."""

    def factor(self, progress: float) -> float:
        """What the starting value is multiplied by after this part of training, in [0, 1]."""
        return anneal(1.0, self.final, progress, self.shape)


def anneal(start: float, end: float, progress: float, shape: Shape) -> float:
    """The value on the way from start to end at progress in [0, 1]; `constant` stays at the start."""
    progress = min(max(progress, 0.0), 1.0)
    match shape:
        case "constant":
            return start
        case "linear":
            return start + (end - start) * progress
        case "cosine":
            return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
        case "exponential":
            # a curve to zero would never move; a thousandth of the start stands in for it
            return float(start * (max(end, 1e-3 * start) / start) ** progress)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give all parameter groups this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
