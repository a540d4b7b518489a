"""From a module to what `torch.export` sees of it, with the binary convolution as one operator of ours."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional as F

from binas.binarize import BinaryConv2d, binary_convolutions
from binas.binarize.contract import ActivationBinarizer, Bases
from binas.binarize.linear import BinaryLinear
from binas.binarize.schemes.least_squares import (
    SAMPLES,
    LeastSquaresActivation2,
    LeastSquaresTernaryActivation,
    ternary_base_with,
    two_bases_with,
)
from binas.deploy.bisection import steps_of_reals
from binas.deploy.planes import LARGEST_CODE
from binas.deploy.steps import NotAStep, Steps
from binas.errors import UserError

LIBRARY = "binas_deploy"
"""Of the operators that stand for a step and for a convolution of integers while a module is captured."""


@torch.library.custom_op(f"{LIBRARY}::step", mutates_args=())
def step(x: Tensor, layer: int, base: int) -> Tensor:
    """The codes of x by one base of a layer's binarizer."""
    raise NotImplementedError("it is captured, never run")


@torch.library.custom_op(f"{LIBRARY}::convolve", mutates_args=())
def convolve(codes: Tensor, layer: int, base: int, size: list[int]) -> Tensor:
    """The sums of codes with one base of a layer's weights."""
    raise NotImplementedError("it is captured, never run")


@torch.library.custom_op(f"{LIBRARY}::split_scales", mutates_args=())
def split_scales(x: Tensor, function: str, samples: int) -> Tensor:
    """The scales of least squared error of an image's numbers: `two_bases` (1, 2), or `ternary` (1, 1)."""
    raise NotImplementedError("it is captured, never run")


@split_scales.register_fake
def _(x: Tensor, function: str, samples: int) -> Tensor:
    return x.new_empty((1, 2 if function == "two_bases" else 1))


@step.register_fake
def _(x: Tensor, layer: int, base: int) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@convolve.register_fake
def _(codes: Tensor, layer: int, base: int, size: list[int]) -> Tensor:
    return codes.new_empty((codes.shape[0], *size))


StepsAndScales = tuple[tuple[Steps, ...], tuple[Tensor | None, ...]]
Known = dict[tuple[Any, ...], StepsAndScales]


@dataclass(frozen=True)
class CapturedLayer:
    """A binary convolution as it runs.

    Args:
        name: of its module.
        conv: itself.
        kernels: integers (O, I/groups, k, k) of each base of its weights.
        steps: of each base of its activations; empty where these are computed from the input's statistics.
    """

    name: str
    conv: BinaryConv2d
    kernels: tuple[Tensor, ...]
    steps: tuple[Steps, ...]


@dataclass(frozen=True)
class Captured:
    """A module as a program of torch's operators and of the two here."""

    program: ExportedProgram
    layers: tuple[CapturedLayer, ...]


def capture(module: nn.Module, example: Tensor) -> Captured:
    """What a module computes for one image, in evaluation mode; the module itself stays as it is.

    Args:
        example: (1, C, H, W).
    Raises:
        UserError: torch cannot export it.
    """
    module = copy.deepcopy(module).eval().cpu().float()
    layers: list[CapturedLayer] = []
    known: Known = {}
    for name, conv in list(binary_convolutions(module)):
        with torch.random.fork_rng(devices=[]):  # binarizers are asked with random numbers
            torch.manual_seed(0)
            standin = _StandIn(conv, name, len(layers), known)
        layers.append(standin.layer)
        if not name:
            module = standin
            continue
        holder, _, own = name.rpartition(".")
        setattr(module.get_submodule(holder), own, standin)
    try:
        with torch.no_grad():
            program = torch.export.export(module, (example.cpu().float(),), strict=False)
    except UserError:
        raise
    except Exception as error:
        words = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise UserError(
            f"export: torch cannot follow the network's forward ({type(error).__name__}: {words});"
            " what it computes may not depend on the numbers in an image"
        ) from error
    return Captured(program, tuple(layers))


class _StandIn(nn.Module):
    """A binary convolution whose steps and sums are single operators."""

    def __init__(self, conv: BinaryConv2d, name: str, number: int, known: Known) -> None:
        super().__init__()
        self.number, self.is_linear = number, isinstance(conv, BinaryLinear)
        self.conv = conv
        self.exact = conv.binarize_activations and conv.binarize_weights and _pads_by_code(conv)
        with torch.no_grad():
            kernels = conv._kernels() if conv.binarize_weights else [(conv.weight, None)]
        if any((codes != codes.round()).any() or codes.abs().max() > LARGEST_CODE for codes, _ in kernels):
            self.exact = False
        for base, (codes, scale) in enumerate(kernels):
            self.register_buffer(f"kernel_{base}", codes.detach().clone())
            self.register_buffer(f"weight_scale_{base}", None if scale is None else scale.detach().clone())
        self.num_kernels = len(kernels)
        steps, scales = _known_steps(conv, known) if self.exact else ((), ())
        for base, scale in enumerate(scales):
            self.register_buffer(f"input_scale_{base}", scale)
        self.layer = CapturedLayer(name, conv, tuple(codes for codes, _ in kernels), steps)
        del self.conv
        self._owner = [conv]  # not a submodule: what is not called is not exported

    def forward(self, x: Tensor) -> Tensor:
        if self.is_linear:
            return self._convolved(x[:, :, None, None]).flatten(1)
        return self._convolved(x)

    def _convolved(self, x: Tensor) -> Tensor:
        conv = self._owner[0]
        total: Tensor | None = None
        for codes, input_scale in self._inputs(x):
            for base in range(self.num_kernels):
                y = self._sums(codes, base)
                for scale in (getattr(self, f"weight_scale_{base}"), input_scale):
                    y = y if scale is None else y * scale
                total = y if total is None else total + y
        assert total is not None and isinstance(conv, BinaryConv2d)
        return total

    def _inputs(self, x: Tensor) -> Bases:
        conv, steps = self._owner[0], self.layer.steps
        if not conv.binarize_activations:
            return [(conv.real_input(x), None)]
        match conv.activation_binarizer:
            case LeastSquaresActivation2():
                v = split_scales(x, "two_bases", SAMPLES)
                return two_bases_with(x, v[:, :1, None, None], v[:, 1:, None, None])
            case LeastSquaresTernaryActivation():
                return ternary_base_with(x, split_scales(x, "ternary", SAMPLES)[:, :, None, None])
        if not steps:
            return cast(Bases, conv.activation_binarizer(x))
        return [
            (step(x, self.number, base), getattr(self, f"input_scale_{base}")) for base in range(len(steps))
        ]

    def _sums(self, codes: Tensor, base: int) -> Tensor:
        conv = self._owner[0]
        if self.exact:
            reach = conv.dilation * (conv.kernel_size - 1) + 1
            pixels = [(n + 2 * conv.padding - reach) // conv.stride + 1 for n in codes.shape[2:]]
            sums: Tensor = convolve(codes, self.number, base, [conv.out_channels, *pixels])
            return sums
        padding = conv.padding
        if padding and conv.binarize_activations and conv.pad_value:
            codes, padding = F.pad(codes, [padding] * 4, value=conv.pad_value), 0
        kernel = getattr(self, f"kernel_{base}")
        found: Tensor = F.conv2d(codes, kernel, None, conv.stride, padding, conv.dilation, conv.groups)
        return found


def _pads_by_code(conv: BinaryConv2d) -> bool:
    return conv.padding == 0 or conv.pad_value == 0 or float(conv.pad_value).is_integer()


def _known_steps(conv: BinaryConv2d, known: Known) -> StepsAndScales:
    """As `_steps_of`; asked once of binarizers that learn nothing and are alike."""
    binarizer = conv.activation_binarizer
    if any(True for _ in (*binarizer.parameters(), *binarizer.buffers())):
        return _steps_of(conv)
    options = {key: value for key, value in vars(binarizer).items() if not key.startswith("_")}
    key = (type(binarizer), conv.in_channels, repr(sorted(options.items())))
    if key not in known:
        known[key] = _steps_of(conv)
    return known[key]


def _steps_of(conv: BinaryConv2d) -> StepsAndScales:
    """The steps and scales of a layer's activations; none where they are no functions of single numbers."""
    binarizer = conv.activation_binarizer
    levels = tuple(sorted(binarizer.levels))
    with torch.no_grad():
        draws = [torch.randn(1, conv.in_channels, n, n) * size for n, size in ((5, 1.0), (5, 9.0), (9, 1.0))]
        first, *others = (binarizer(draw) for draw in draws)
        for other in others:
            for (_, one), (_, two) in zip(first, other, strict=True):
                if (one is None) != (two is None) or (one is not None and not _equal(one, two)):
                    return (), ()
        scales = [1.0 if scale is None else scale for _, scale in first]
        try:
            steps = tuple(
                steps_of_reals(partial(_codes, binarizer, base), conv.in_channels, levels)
                for base in range(len(first))
            )
        except NotAStep:
            try:
                steps = _joint_steps(binarizer, conv.in_channels, scales)
            except NotAStep:
                return (), ()
    return steps, tuple(None if scale is None else scale.detach().clone() for _, scale in first)


def _codes(binarizer: ActivationBinarizer, base: int, x: Tensor) -> Tensor:
    codes: Tensor = binarizer(x)[base][0]
    return codes


def _joint_steps(
    binarizer: ActivationBinarizer, channels: int, scales: Sequence[Tensor | float]
) -> tuple[Steps, ...]:
    """Steps of bases that go up and down, while the value that they stand for together rises."""

    def bases_of(x: Tensor) -> Tensor:
        return torch.stack([codes for codes, _ in binarizer(x)], -1)

    weights = torch.stack(
        [torch.as_tensor(scale).double() for scale in scales if torch.as_tensor(scale).dim() == 0]
    )
    if len(weights) != len(scales):
        raise NotAStep("its scales are several")
    wide = torch.cat([torch.linspace(-end, end, 20_001) for end in (0.1, 1.0, 10.0, 1000.0)])
    seen = bases_of(wide[None, None, None].expand(1, channels, 1, -1)).reshape(-1, len(weights))
    seen = torch.unique(seen, dim=0)
    order = (seen.double() @ weights).argsort()
    words = seen[order]
    values = words.double() @ weights

    def place(x: Tensor) -> Tensor:
        value = bases_of(x).double() @ weights
        found: Tensor = (value[..., None] >= values - 1e-9).sum(-1).float() - 1
        return found

    joint = steps_of_reals(place, channels, tuple(range(len(words))))
    return tuple(
        Steps(tuple(int(code) for code in words[:, base]), joint.thresholds, joint.falls)
        for base in range(len(weights))
    )


def _equal(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and torch.equal(one, two)
