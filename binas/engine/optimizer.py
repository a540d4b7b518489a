"""Optimizers and learning-rate curves, as settings and as objects."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.optim import Optimizer

from binas.binarize import BinaryConv2d, binary_convolutions
from binas.binarize.schemes import bop as bop_scheme
from binas.binarize.schemes.binary_connect import glorot_limit
from binas.config import Config
from binas.engine.bop import Bop
from binas.errors import UserError

Shape = Literal["constant", "linear", "cosine", "exponential"]
Name = Literal[
    "sgd", "adam", "momentum", "nesterov", "adamw", "radam", "rmsprop", "adagrad", "adadelta", "bop"
]


OWN_KEYS: dict[str, frozenset[str]] = {
    "sgd": frozenset({"momentum", "nesterov"}),
    "momentum": frozenset({"momentum"}),
    "nesterov": frozenset({"momentum"}),
    **dict.fromkeys(("adam", "adamw", "radam"), frozenset({"betas", "epsilon"})),
    "rmsprop": frozenset({"momentum", "smoothing", "epsilon"}),
    "adagrad": frozenset({"epsilon"}),
    "adadelta": frozenset({"smoothing", "epsilon"}),
}
"""What each optimizer reads beside its learning rate and weight decay."""


class OptimizerConfig(Config):
    """An optimizer and its hyper-parameters."""

    name: Name = "adam"
    """Which one; momentum and nesterov are sgd with them; bop flips binary weights (weight: {name: bop})."""
    learning_rate: float = Field(1e-3, gt=0, le=1e37)
    """Highest learning rate, at the start of the curve."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of sgd, momentum, nesterov and rmsprop; 0 is none."""
    nesterov: bool = False
    """Of sgd."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of adam, adamw and radam."""
    smoothing: float | None = Field(None, ge=0, lt=1)
    """Weight of the old average of squares in rmsprop (null: 0.99) and adadelta (null: 0.9)."""
    epsilon: float | None = Field(None, gt=0)
    """What is added to denominators of the adaptive ones; null: PyTorch's own."""
    rate_scaling: Literal["none", "glorot", "glorot_squared"] = "none"
    """What multiplies the rate of binary weights: 1/√(1.5/(fan in + fan out)), its square, or nothing."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty; 0 is usual where weights are binary."""
    gamma: float = Field(1e-4, gt=0, le=1)
    """Of bop: weight of the new gradient in the average; it follows the learning-rate curve."""
    threshold: float = Field(1e-8, ge=0)
    """Of bop: a weight flips where the average of its gradient is at least so large."""
    others: Name = "adam"
    """Of bop: the optimizer of all other parameters; learning_rate and the rest are its own."""

    @model_validator(mode="after")
    def _fits_together(self) -> OptimizerConfig:
        if self.name == "bop" and self.rate_scaling != "none":
            raise ValueError("rate_scaling is for latent weights, and optimizer bop has none; leave it out")
        if self.others == "bop":
            raise ValueError("others: bop flips binary weights only; name an ordinary optimizer")
        kind = self.others if self.name == "bop" else self.name
        if self.momentum == 0 and (kind == "nesterov" or (kind == "sgd" and self.nesterov)):
            raise ValueError("nesterov needs a momentum above 0")
        return self

    def unused_keys(self) -> Iterator[tuple[str, str]]:
        """Hyper-parameters of other optimizers."""
        used = OWN_KEYS[self.others if self.name == "bop" else self.name]
        if self.name == "bop":
            used = used | {"gamma", "threshold", "others"}
        for key in frozenset[str]().union(*OWN_KEYS.values(), ("gamma", "threshold", "others")) - used:
            if self.is_set(key):
                yield key, f"optimizer '{self.name}'"

    def build(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """The optimizer over these parameters."""
        return self._plain([{"params": list(parameters)}], self.name)

    def build_for(self, model: nn.Module, more: Iterable[nn.Parameter] = ()) -> Optimizer:
        """The optimizer over what a network trains, with the rates that its weight binarizers ask for.

        Args:
            model: the network; parameters without gradient are left out.
            more: other parameters.
        Raises:
            UserError: bop is to flip weights that their binarizer does not take as they are.
        """
        own: dict[nn.Parameter, float] = {}
        flipped: list[nn.Parameter] = []
        for name, conv in binary_convolutions(model):
            binarizer = conv.weight_binarizer
            if not (conv.binarize_weights and conv.weight.requires_grad):
                continue
            if self.name == "bop":
                if not isinstance(binarizer, bop_scheme.Bop):
                    raise UserError(
                        f"optimizer 'bop': '{name}' binarizes latent weights; the stage needs"
                        " binarization.weight: {name: bop}"
                    )
                flipped.append(conv.weight)
                continue
            scale = binarizer.learning_rate_scale * self._layer_scale(conv)
            if scale != 1:
                own[conv.weight] = scale
        taken = set(flipped)
        rest = [p for p in (*model.parameters(), *more) if p.requires_grad and p not in taken]
        groups: list[dict[str, Any]] = []
        for scale in dict.fromkeys((1.0, *own.values())):
            group = [parameter for parameter in rest if own.get(parameter, 1.0) == scale]
            if group:
                groups.append({"params": group, "lr": self.learning_rate * scale, "scale": scale})
        if self.name != "bop":
            return self._plain(groups, self.name)
        if not flipped:
            raise UserError("optimizer 'bop': the stage has no binary weights to flip; name another one")
        others = self._plain(groups or [{"params": []}], self.others)
        return Bop(flipped, self.gamma, self.threshold, others)

    def _layer_scale(self, conv: BinaryConv2d) -> float:
        power = {"none": 0, "glorot": 1, "glorot_squared": 2}[self.rate_scaling]
        return glorot_limit(conv.weight.shape) ** -power

    def _plain(self, groups: list[dict[str, Any]], name: Name) -> Optimizer:
        shared: dict[str, Any] = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        adaptive = shared | ({} if self.epsilon is None else {"eps": self.epsilon})
        old = self.smoothing
        parameters = [parameter for group in groups for parameter in group["params"]]
        # one kernel for all of them; None leaves the choice to torch
        fused = True if parameters and all(p.device.type == "cuda" for p in parameters) else None
        match name:
            case "sgd" | "momentum" | "nesterov":
                nesterov = name == "nesterov" or (name == "sgd" and self.nesterov)
                return torch.optim.SGD(
                    groups, momentum=self.momentum, nesterov=nesterov, fused=fused, **shared
                )
            case "adam":
                return torch.optim.Adam(groups, betas=self.betas, fused=fused, **adaptive)
            case "adamw":
                return torch.optim.AdamW(groups, betas=self.betas, fused=fused, **adaptive)
            case "radam":
                return torch.optim.RAdam(groups, betas=self.betas, **adaptive)
            case "rmsprop":
                smoothing = 0.99 if old is None else old
                return torch.optim.RMSprop(groups, momentum=self.momentum, alpha=smoothing, **adaptive)
            case "adagrad":
                return torch.optim.Adagrad(groups, **adaptive)
            case "adadelta":
                return torch.optim.Adadelta(groups, rho=0.9 if old is None else old, **adaptive)
            case "bop":
                raise UserError(
                    "optimizer 'bop' flips the weights of binary convolutions and nothing else; name"
                    " another one"
                )


class Curve(Config):
    """How a value goes from one end of training to the other."""

    shape: Shape | Literal["steps"] = "cosine"
    """constant, linear, cosine, exponential or steps."""
    final: float = Field(0.0, ge=0)
    """Value at the end, as a fraction of that at the start (exponential: above 0; steps: unused)."""
    at: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Of steps: after which parts of training they come, e.g. [0.5, 0.75]."""
    by: float = Field(0.1, gt=0, lt=1)
    """Of steps: what each multiplies the value by."""

    @model_validator(mode="after")
    def _steps_have_places(self) -> Curve:
        if (self.shape == "steps") != bool(self.at):
            raise ValueError("at: says where steps are, and shape: steps needs it; give both or none")
        return self

    def unused_keys(self) -> Iterator[tuple[str, str]]:
        """Settings of other shapes."""
        for key, shapes in (("final", ("linear", "cosine", "exponential")), ("by", ("steps",))):
            if self.shape not in shapes and self.is_set(key):
                yield key, f"shape '{self.shape}'"

    def factor(self, progress: float) -> float:
        """What the starting value is multiplied by after this part of training, in [0, 1]."""
        if self.shape == "steps":
            return float(self.by ** sum(progress >= part for part in self.at))
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


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Give all parameter groups this learning rate, times a group's own scale where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("scale", 1.0)
