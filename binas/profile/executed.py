"""The count of what really runs: a forward pass of any module, watched operator by operator.

Every tensor operator is charged to the innermost module that is running, so that a module's own
arithmetic (`x + y` in a cell) is seen as well. Knows nothing of genotypes: the closed form is checked
against it, and networks that have no closed form are counted by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from binas.binarize import ActivationBinarizer, BinaryConv2d, WeightBinarizer
from binas.profile.cost import MAX_BITWISE, REAL_BITS, Kernel, LayerCost, Profile, Shape

ROOT = "network"
"""The name under which the outermost module's own operations stand."""


def profile_module(module: nn.Module, in_channels: int, image_size: tuple[int, int]) -> Profile:
    """The profile of a network, from one image sent through it in evaluation mode.

    Raises what the module's forward raises. A layer says why it is real in an attribute `why_real`.
    """
    parameter = next(module.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    image = torch.zeros(1, in_channels, *image_size, device=device)
    return Profile(tuple(executed_layers(module, image)))


def executed_layers(module: nn.Module, x: Tensor, name: str = "") -> Sequence[LayerCost]:
    """The layers of a module in the order in which they finish, for a batch of one.

    Args:
        x: (1, C, H, W).
        name: what stands before the names of layers.
    """
    watcher = _Watcher()
    was_training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad(), _hooks(module, name, watcher), watcher:
            module(x)
    finally:
        for part, training in was_training.items():
            part.training = training
    return list(watcher.layers.values())


@dataclass
class _Frame:
    """A running module and what its own operators have cost so far."""

    name: str
    module: nn.Module
    macs: int = 0
    bitwise_macs: int = 0
    kind: str = ""
    kernel: Kernel | None = None
    extra: int = 0
    scale_bits: int = 0
    num_weight_bases: int = 1
    num_input_bases: int = 1
    kernel_scales: int = 0


class _Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.frames: list[_Frame] = []
        self.layers: dict[tuple[str, str], LayerCost] = {}
        self.owned: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, and wrapping would import torch's compiler: 1.4 s of every command."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.frames and not any(_is_binarizer(frame.module) for frame in self.frames):
            self._charge(self.frames[-1], func.overloadpacket.__name__.removesuffix("_"), args, out)
        return out

    def _charge(self, frame: _Frame, operator: str, args: tuple[Any, ...], out: Any) -> None:
        if operator in _MACS:
            frame.kind, count = _MACS[operator]
            frame.kernel = _kernel(args) if frame.kind == "convolution" else None
            macs = count(args, out)
            if _is_bitwise(frame.module):
                frame.bitwise_macs += macs
            else:
                frame.macs += macs
        elif operator in _EXTRA:
            kind, extra = _EXTRA[operator]
            frame.extra += extra(args, out)
            frame.kind = frame.kind or kind

    def enter(self, name: str, module: nn.Module) -> None:
        self.frames.append(_Frame(name, module))

    def leave(self, inputs: tuple[Any, ...], output: Any) -> None:
        frame = self.frames.pop()
        if _is_binarizer(frame.module):
            self._leave_binarizer(frame, inputs[0], output)
            return
        if any(_is_binarizer(outer.module) for outer in self.frames):
            return
        layer = self._layer(frame, _shape(inputs), _shape((output,)))
        if layer is not None:
            before = self.layers.pop((layer.name, layer.kind), None)
            self.layers[layer.name, layer.kind] = layer if before is None else _added(before, layer)

    def _leave_binarizer(self, frame: _Frame, x: Tensor, bases: Any) -> None:
        owner = self.frames[-1]
        if isinstance(frame.module, ActivationBinarizer):
            owner.extra += x.numel() * len(bases)
            owner.num_input_bases = len(bases)
        else:
            owner.num_weight_bases = len(bases)
            owner.scale_bits += REAL_BITS * sum(scale.numel() for _, scale in bases if scale is not None)
            if isinstance(frame.module, WeightBinarizer) and frame.module.scales == "kernel":
                scaled = [(codes, scale) for codes, scale in bases if scale is not None]
                owner.kernel_scales += sum(scale.numel() for _, scale in scaled)
                # the layer multiplies them into the kernel, but integer sums are scaled place by place
                owner.extra -= sum(codes.numel() for codes, _ in scaled)

    def _layer(self, frame: _Frame, input_shape: Shape, output_shape: Shape) -> LayerCost | None:
        module, name = frame.module, frame.name or ROOT
        binary, real, norm = self._parameters(module)
        if not (frame.kind or binary or real or norm):
            return None
        input_bits, weight_bits = _bits(module)
        kernel_scalings = frame.kernel_scales * frame.num_input_bases * math.prod(output_shape)
        return LayerCost(
            name,
            frame.kind or "parameters",
            input_shape,
            output_shape,
            input_bits=input_bits,
            weight_bits=weight_bits * frame.num_weight_bases,
            binary_parameters=binary,
            real_parameters=real,
            norm_parameters=norm,
            flops=frame.macs,
            bops=frame.bitwise_macs * input_bits * weight_bits,
            extra_operations=frame.extra + kernel_scalings,
            scale_bits=frame.scale_bits,
            why_real=str(getattr(module, "why_real", "")),
            kernel=frame.kernel,
            input_bases=frame.num_input_bases,
            weight_bases=frame.num_weight_bases,
        )

    def _parameters(self, module: nn.Module) -> tuple[int, int, int]:
        own = list(module.parameters(recurse=False))
        if isinstance(module, BinaryConv2d):
            own += module.activation_binarizer.parameters()
            own += module.weight_binarizer.parameters()
        new = {id(parameter): parameter.numel() for parameter in own if id(parameter) not in self.owned}
        self.owned |= new.keys()
        total = sum(new.values())
        if isinstance(module, _BatchNorm):
            return 0, 0, total
        binary = new.get(id(module.weight), 0) if isinstance(module, BinaryConv2d) else 0
        binary = binary if getattr(module, "binarize_weights", False) else 0
        return binary, total - binary, 0


@contextmanager
def _hooks(module: nn.Module, prefix: str, watcher: _Watcher) -> Iterator[None]:
    handles = []
    for path, part in module.named_modules():
        name = ".".join(word for word in (prefix, path) if word)

        def enter(part: nn.Module, inputs: Any, name: str = name) -> None:
            watcher.enter(name, part)

        def leave(part: nn.Module, inputs: Any, output: Any) -> None:
            watcher.leave(inputs, output)

        handles += [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_binarizer(module: nn.Module) -> bool:
    return isinstance(module, ActivationBinarizer | WeightBinarizer)


def _bits(module: nn.Module) -> tuple[int, int]:
    """Width of the codes of inputs and weights that a module multiplies."""
    if not isinstance(module, BinaryConv2d):
        return REAL_BITS, REAL_BITS
    return (
        module.activation_binarizer.bits if module.binarize_activations else REAL_BITS,
        module.weight_binarizer.bits if module.binarize_weights else REAL_BITS,
    )


def _is_bitwise(module: nn.Module) -> bool:
    return max(_bits(module)) <= MAX_BITWISE


def _shape(values: tuple[Any, ...]) -> Shape:
    """Of the first tensor, or of the first in a tuple of them."""
    flat = (part for value in values for part in (value if isinstance(value, tuple) else (value,)))
    first = next((value for value in flat if isinstance(value, Tensor)), None)
    return () if first is None else tuple(first.shape[1:])


def _added(first: LayerCost, second: LayerCost) -> LayerCost:
    """A layer that ran twice: its work twice, its parameters once."""
    parameters = ("binary_parameters", "real_parameters", "norm_parameters")
    summed = (*parameters, "flops", "bops", "extra_operations", "runs")
    sums = {key: getattr(first, key) + getattr(second, key) for key in summed}
    return replace(first, **sums)


Count = Callable[[tuple[Any, ...], Any], int]


def _conv_macs(args: tuple[Any, ...], out: Any) -> int:
    weight, transposed = args[1], args[6]
    driver: Tensor = args[0] if transposed else out
    per_element: int = math.prod(weight.shape[1:])
    return driver.numel() * per_element


def _kernel(args: tuple[Any, ...]) -> Kernel:
    size, stride, dilation = (tuple(lengths) for lengths in (args[1].shape[2:], args[3], args[5]))
    return Kernel(size, stride, dilation, args[8])


def _first(out: Any) -> Tensor:
    tensor: Tensor = out[0] if isinstance(out, tuple | list) else out
    return tensor


def _per_output(args: tuple[Any, ...], out: Any) -> int:
    return _first(out).numel()


def _per_input(args: tuple[Any, ...], out: Any) -> int:
    return int(args[0].numel())


def _pooled(args: tuple[Any, ...], out: Any) -> int:
    kernel = args[1] if len(args[1]) == 2 else [args[1][0]] * 2
    pixels: int = math.prod(kernel)
    return _first(out).numel() * pixels


_MACS: dict[str, tuple[str, Count]] = {
    "convolution": ("convolution", _conv_macs),
    "addmm": ("linear", lambda args, out: out.numel() * args[1].shape[-1]),
    "mm": ("linear", lambda args, out: out.numel() * args[0].shape[-1]),
    "bmm": ("linear", lambda args, out: out.numel() * args[0].shape[-1]),
}

_NORMS = [
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "native_layer_norm",
    "native_group_norm",
]
_ACTIVATIONS = [
    "relu",
    "_prelu_kernel",
    "leaky_relu",
    "elu",
    "gelu",
    "silu",
    "sigmoid",
    "tanh",
    "hardtanh",
    "hardswish",
    "hardsigmoid",
    "softplus",
    "clamp",
    "clamp_min",
    "clamp_max",
    "mish",
    "log_sigmoid_forward",
]
_ARITHMETIC = ["add", "sub", "rsub", "mul", "div", "maximum", "minimum"]

_EXTRA: dict[str, tuple[str, Count]] = {
    **dict.fromkeys(_NORMS, ("batch_norm", _per_output)),
    **dict.fromkeys(_ACTIVATIONS, ("activation", _per_output)),
    **dict.fromkeys(_ARITHMETIC, ("arithmetic", _per_output)),
    "max_pool2d_with_indices": ("pool", _pooled),
    "avg_pool2d": ("pool", _pooled),
    "mean": ("pool", _per_input),
    "_adaptive_avg_pool2d": ("pool", _per_input),
}
