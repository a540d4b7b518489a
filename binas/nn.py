"""Binary layers for networks of your own, with short arguments, and a float network made binary."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from binas.binarize import (
    ACTIVATION_BINARIZERS,
    WEIGHT_BINARIZERS,
    ActivationBinarizer,
    Binarization,
    BinarizerSpec,
    RealActivation,
    WeightBinarizer,
    after_optimizer_step,
)
from binas.binarize import BinaryConv2d as _BinaryConv2d
from binas.binarize import BinaryLinear as _BinaryLinear
from binas.binarize import set_precision as _set_precision
from binas.config import build
from binas.errors import UserError
from binas.registry import Registry, nearest

__all__ = ["BinaryConv2d", "BinaryLinear", "ChannelBias", "after_step", "binarize", "set_precision"]

Activation = str | Mapping[str, Any] | BinarizerSpec | ActivationBinarizer
"""A name, a mapping of a name and options, or an instance."""
Weight = str | Mapping[str, Any] | BinarizerSpec | WeightBinarizer
Layer = TypeVar("Layer", bound=_BinaryConv2d)
INSTANCE = "given_instance"
FIRST, LAST = "first", "last"


class BinaryConv2d(_BinaryConv2d):
    """A convolution of binarized inputs with binarized weights.

    forward   y = α · conv(sign of x, sign of the latent weight), α and signs by the binarizers
    backward  by the estimators of the binarizers

    Args:
        in_channels, out_channels, kernel_size: as in `torch.nn.Conv2d`, integers.
        stride, padding, dilation, groups: likewise; there is no bias, batch-norm follows.
        activation: binarizer of the input: a registered name ("sign", "approx_sign", "rsign"), a mapping
            with options ({"name": "sign", "window": 1.25}), or an instance.
        weight: binarizer of the latent weight, likewise ("xnor", "sign", {"name": "xnor", "center": True}).
        pad_value: what surrounds the binary input: 0 adds a third value, −1 and +1 keep two.
    Shape: (N, C_in, H, W) -> (N, C_out, H', W').
    Raises:
        UserError: a name or an option is unknown.

    Example:
        >>> import torch, binas
        >>> layer = binas.nn.BinaryConv2d(16, 32, 3, padding=1, activation="approx_sign")
        >>> layer(torch.randn(2, 16, 8, 8)).shape
        torch.Size([2, 32, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        activation: Activation = "sign",
        weight: Weight = "xnor",
        pad_value: float = 0.0,
    ) -> None:
        chosen = _binarization(activation, weight, pad_value)
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, binarizations=(chosen,)
        )
        _take_instances(self, activation, weight)


class BinaryLinear(_BinaryLinear):
    """A fully connected layer with binarized inputs and weights, without bias.

    Args:
        in_features, out_features: numbers of inputs and outputs.
        activation, weight: binarizers, as of `BinaryConv2d`.
    Shape: (N, in_features) -> (N, out_features).
    Raises:
        UserError: a name or an option is unknown.

    Example:
        >>> import torch, binas
        >>> binas.nn.BinaryLinear(64, 10)(torch.randn(2, 64)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        activation: Activation = "sign",
        weight: Weight = "xnor",
    ) -> None:
        super().__init__(in_features, out_features, (_binarization(activation, weight, 0.0),))
        _take_instances(self, activation, weight)


class ChannelBias(nn.Module):
    """The bias of a convolution that has become binary: a real number added to each channel.

    Shape: (N, C, …) -> (N, C, …).
    """

    why_real = "the bias of the float layer that was here"

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """x + bias."""
        return x + self.bias.view(-1, *(1,) * (x.dim() - 2))


def set_precision(
    model: nn.Module,
    *,
    activations: bool = True,
    weights: bool = True,
    real_activation: RealActivation = "none",
) -> None:
    """Switches what is binary in all binary layers of a model, as stages of a training do.

    Args:
        model: any module.
        activations: whether inputs of binary layers are binarized.
        weights: whether latent weights are binarized; otherwise they are used raw.
        real_activation: what inputs pass through while they are not binarized: none, relu, or clip to ±1.

    Example:
        >>> import binas
        >>> layer = binas.nn.BinaryConv2d(4, 4, 3)
        >>> binas.nn.set_precision(layer, weights=False)  # the first stage: binary inputs, real weights
    """
    _set_precision(model, activations, weights, real_activation=real_activation)


def after_step(model: nn.Module, *, weight_clipping: float | None = None) -> None:
    """What follows each optimizer step in a training loop of one's own.

    Args:
        model: any module with binary layers.
        weight_clipping: keeps latent weights within plus and minus this; None: free.
    """
    after_optimizer_step(model, weight_clipping)


def binarize(
    float_model: nn.Module,
    *,
    keep: Sequence[str] = (FIRST, LAST),
    linear: bool = False,
    normalize: bool = True,
    activation: Activation = "sign",
    weight: Weight = "xnor",
    pad_value: float = 0.0,
) -> nn.Module:
    """A copy of a float network whose convolutions are binary, their weights carried over.

    A post-ReLU input has no negative values, and its sign would be +1 everywhere: with `normalize` a
    batch-norm without parameters stands before each binary layer, so that signs split about the mean.

    Args:
        float_model: the network; it stays as it is.
        keep: layers that stay real-valued: "first" and "last" (of convolutions and linear layers, in the
            order of modules), or patterns of their paths ("layer1.*").
        linear: whether fully connected layers become binary too.
        normalize: see above; False where the network itself centres what enters its convolutions.
        activation, weight, pad_value: as of `BinaryConv2d`; an instance is copied for each layer.
    Raises:
        UserError: a layer cannot be binary (a kernel that is not square, a padding that is not zeros or not
            the same on all sides); names it with the reason, for `keep`. Or nothing would be binary.

    Example:
        >>> import torch, binas
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3))
        >>> binary = binas.nn.binarize(net, keep=("first",))
        >>> [type(module).__name__ for module in binary[2]]
        ['BatchNorm2d', 'BinaryConv2d', 'ChannelBias']
    """
    model = copy.deepcopy(float_model)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, _FLOAT_LAYERS)}
    kept = _kept(list(layers), keep)
    chosen = {
        name: module
        for name, module in layers.items()
        if name not in kept and (linear or isinstance(module, nn.Conv2d))
    }
    refused = [
        f"{name or 'the module'}: {why}" for name, module in chosen.items() if (why := _why_not(module))
    ]
    if refused:
        raise UserError(f"binarize: cannot be binary: {'; '.join(refused)}; name them in keep")
    if not chosen:
        raise UserError(
            "binarize: no layer would become binary; there are too few, or keep names all of them"
        )
    for name, module in chosen.items():
        binary = _binary_twin(module, copy.deepcopy(activation), copy.deepcopy(weight), pad_value)
        parts: list[nn.Module] = [_norm(module), binary] if normalize else [binary]
        if module.bias is not None:
            parts.append(ChannelBias(module.bias))
        new = parts[0] if len(parts) == 1 else nn.Sequential(*parts)
        if not name:
            return new.train(float_model.training)
        parent, _, key = name.rpartition(".")
        setattr(model.get_submodule(parent), key, new.train(module.training))
    return model


_FLOAT_LAYERS = (nn.Conv2d, nn.Linear)


def _kept(names: list[str], keep: Sequence[str]) -> set[str]:
    kept = set()
    for pattern in (keep,) if isinstance(keep, str) else keep:
        if pattern in (FIRST, LAST):
            found = names[:1] if pattern == FIRST else names[-1:]
        else:
            found = fnmatch.filter(names, pattern)
            if not found:
                raise UserError(f"binarize: keep: no layer '{pattern}';{nearest(pattern, names)}")
        kept.update(found)
    return kept


def _why_not(module: nn.Module) -> str:
    """Why a layer cannot be binary; empty where it can."""
    if isinstance(module, nn.Linear):
        return ""
    conv = cast(nn.Conv2d, module)
    if isinstance(conv.padding, str):
        return f"padding '{conv.padding}' is none in pixels"
    for word in ("kernel_size", "stride", "padding", "dilation"):
        value = getattr(conv, word)
        if len(set(value)) > 1:
            return f"its {word.replace('_', ' ')} is {value}, not square"
    if conv.padding_mode != "zeros" and any(conv.padding):
        return f"its padding is {conv.padding_mode}, not zeros"
    return ""


def _binary_twin(
    module: nn.Conv2d | nn.Linear, activation: Activation, weight: Weight, pad_value: float
) -> nn.Module:
    """A binary layer of the same sizes, with the float layer's weights, on its device and of its type."""
    twin: _BinaryConv2d
    if isinstance(module, nn.Linear):
        twin = BinaryLinear(module.in_features, module.out_features, activation=activation, weight=weight)
    else:
        stride, padding, dilation = ((int(v[0])) for v in (module.stride, module.padding, module.dilation))
        twin = BinaryConv2d(
            module.in_channels,
            module.out_channels,
            module.kernel_size[0],
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=module.groups,
            activation=activation,
            weight=weight,
            pad_value=pad_value,
        )
    twin.to(module.weight.device, module.weight.dtype)
    with torch.no_grad():
        twin.weight.copy_(module.weight.reshape(twin.weight.shape))
        twin.weight_binarizer.restart(twin.weight)
    return twin


def _norm(module: nn.Conv2d | nn.Linear) -> nn.Module:
    norm: nn.Module
    if isinstance(module, nn.Linear):
        norm = nn.BatchNorm1d(module.in_features, affine=False)
    else:
        norm = nn.BatchNorm2d(module.in_channels, affine=False)
    return norm.to(module.weight.device, module.weight.dtype)


def _binarization(activation: Activation, weight: Weight, pad_value: float) -> Binarization:
    plain = {
        "activation": _spec(activation, ActivationBinarizer, ACTIVATION_BINARIZERS),
        "weight": _spec(weight, WeightBinarizer, WEIGHT_BINARIZERS),
        "pad_value": pad_value,
    }
    return build(Binarization, plain, "binary layer")


def _spec(value: Any, kind: type, registry: Registry[Callable[..., Any]]) -> Any:
    if isinstance(value, str):
        value = {"name": value}
    if isinstance(value, kind):
        # a stand-in that is built, and replaced by the instance at once
        return {"name": "sign"} if kind is ActivationBinarizer else {"name": "xnor"}
    if isinstance(value, BinarizerSpec):
        return value
    if not isinstance(value, Mapping):
        raise UserError(f"{registry.kind}: a name, a mapping or an instance is needed, not {value!r:.80}")
    return dict(value)


def _take_instances(layer: _BinaryConv2d, activation: Activation, weight: Weight) -> None:
    """Puts instances that were given in the place of what was built."""
    keys = list(layer._active)
    if isinstance(activation, ActivationBinarizer):
        activation.bind(layer.geometry)
        keys[0] = INSTANCE
        layer.activation_binarizers = nn.ModuleDict({INSTANCE: activation})
    if isinstance(weight, WeightBinarizer):
        with torch.no_grad():
            weight.initialise(layer.weight)
        keys[1] = INSTANCE
        layer.weight_binarizers = nn.ModuleDict({INSTANCE: weight})
    layer._active = (keys[0], keys[1])
