"""The proof that a network is binary: what really enters every binary convolution, seen while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from binas.binarize import ActivationBinarizer, BinaryConv2d, WeightBinarizer, binary_convolutions

MAX_VALUES_SHOWN = 4


@dataclass
class ConvolutionReport:
    """What was seen at one binary convolution.

    Args:
        name: of the module.
        input_levels, weight_levels: the codes that its active binarizers declare; empty for a half that a
            rule keeps real-valued.
        kernel_scales: how many scales stand inside a kernel; 0 where scales follow the convolution.
        input_values: different values that entered the convolution itself, padding not among them.
        pads_with_zero: whether zero padding adds a value.
        weight_values: largest number of different values in one filter.
        foreign_weights: values of filters that are no declared codes, the first few.
        calls: how often it was run.
    """

    name: str
    input_levels: tuple[int, ...] = (-1, 1)
    weight_levels: tuple[int, ...] = (-1, 1)
    kernel_scales: int = 0
    input_values: set[float] = field(default_factory=set)
    pads_with_zero: bool = False
    weight_values: int = 0
    foreign_weights: set[float] = field(default_factory=set)
    calls: int = 0

    @property
    def is_as_declared(self) -> bool:
        """Whether its input and each of its filters took no values but those of its binarizers."""
        if not self.calls or not self.weight_values:
            return False
        if self.input_levels and not self.input_values <= set(self.input_levels):
            return False
        if not self.weight_levels:
            return True
        if self.kernel_scales:
            return self.weight_values <= len(self.weight_levels) * self.kernel_scales
        return not self.foreign_weights

    @property
    def is_binary(self) -> bool:
        """Whether both its input and each of its filters took at most two values, those declared."""
        return self.is_as_declared and len(self.input_levels) == len(self.weight_levels) == 2

    def verdict(self) -> str:
        """binary, the numbers of levels (weights × inputs) where they are more, or NOT BINARY."""
        if self.is_binary:
            return "binary"
        levels = f"{len(self.weight_levels) or 'real'} × {len(self.input_levels) or 'real'} levels"
        return levels if self.is_as_declared else "NOT BINARY"

    def summary(self) -> str:
        """The report in one line."""
        if not self.calls:
            return "was not run"
        shown = sorted(self.input_values)[:MAX_VALUES_SHOWN]
        values = ", ".join(f"{value:+g}" for value in shown)
        more = ", …" if len(self.input_values) > MAX_VALUES_SHOWN else ""
        padding = " and 0 from padding" if self.pads_with_zero else ""
        return f"input {{{values}{more}}}{padding}; at most {self.weight_values} values in a filter"


class _Watch(TorchFunctionMode):
    """Looks at the arguments of every convolution that runs inside a binary convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.current: ConvolutionReport | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (F.conv2d, torch.conv2d) and self.current is not None:
            _look(self.current, args[0], args[1], args[4])
        return func(*args, **(kwargs or {}))


def _look(report: ConvolutionReport, x: Tensor, weight: Tensor, padding: Any) -> None:
    report.calls += 1
    report.input_values |= set(torch.unique(x)[: len(report.input_levels) + MAX_VALUES_SHOWN].tolist())
    report.pads_with_zero |= bool(padding and report.input_levels) and 0 not in report.input_levels
    per_filter = [torch.unique(one) for one in weight.detach()]
    report.weight_values = max(report.weight_values, *map(len, per_filter))
    levels = torch.tensor(report.weight_levels, dtype=weight.dtype, device=weight.device)
    foreign = torch.unique(weight.detach()[~torch.isin(weight.detach(), levels)])
    report.foreign_weights |= set(foreign[:MAX_VALUES_SHOWN].tolist())


def _report(name: str, layer: BinaryConv2d) -> ConvolutionReport:
    activation, weight = layer.activation_binarizer, layer.weight_binarizer
    scales = 0
    if weight.scales == "kernel" and not layer.keeps_real_weights:
        scales = sum(scale.numel() for _, scale in weight(layer.weight) if scale is not None)
    return ConvolutionReport(
        name,
        () if layer.keeps_real_activations else activation.levels,
        () if layer.keeps_real_weights else weight.levels,
        scales,
    )


@torch.no_grad()
def check_network(network: nn.Module, images: Tensor) -> list[ConvolutionReport]:
    """A report on every binary convolution, from one run of the network in evaluation mode.

    Those whose weights and activations a rule keeps real-valued are left to `real_layers`.

    Args:
        network: what to check.
        images: (N, C, H, W) normalised images to run.
    """
    watch = _Watch()
    was_training = network.training
    network.eval()
    reports = {name: _report(name, layer) for name, layer in _checked(network)}
    with watch, _hooks(network, reports, watch):
        network(images)
    network.train(was_training)
    return list(reports.values())


def _checked(network: nn.Module) -> Iterator[tuple[str, BinaryConv2d]]:
    return ((name, layer) for name, layer in binary_convolutions(network) if not layer.keeps_real)


@contextmanager
def _hooks(network: nn.Module, reports: dict[str, ConvolutionReport], watch: _Watch) -> Iterator[None]:
    handles = []
    for name, module in _checked(network):
        report = reports[name]
        handles.append(module.register_forward_pre_hook(_entering(watch, report)))
        handles.append(module.register_forward_hook(_leaving(watch)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _entering(watch: _Watch, report: ConvolutionReport) -> Callable[..., None]:
    def hook(module: nn.Module, arguments: Any) -> None:
        watch.current = report

    return hook


def _leaving(watch: _Watch) -> Callable[..., None]:
    def hook(module: nn.Module, arguments: Any, output: Any) -> None:
        watch.current = None

    return hook


def real_layers(network: nn.Module) -> list[tuple[str, str, int, str]]:
    """Every layer with real-valued parameters: name, type, parameters, why.

    Of binary convolutions those whose weights a rule keeps real-valued.
    """
    rows = []
    binarizers = {
        id(part)
        for module in network.modules()
        if isinstance(module, ActivationBinarizer | WeightBinarizer)
        for part in module.modules()
    }
    for name, module in network.named_modules():
        if isinstance(module, BinaryConv2d) and not module.keeps_real_weights:
            continue
        count = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        if not count:
            continue
        default = (
            "scale and shift of a batch-norm; a packed file folds them into thresholds where sign follows"
            if isinstance(module, nn.BatchNorm2d)
            else "not a binary layer by its type"
        )
        if id(module) in binarizers:
            default = "what a binarizer has learned: its thresholds, scales or levels"
        rows.append((name, type(module).__name__, count, str(getattr(module, "why_real", default))))
    return rows


@dataclass(frozen=True)
class BinaryCheck:
    """What was seen of a whole network; `print` shows it as `binas check` does.

    Args:
        reports: one for each binary convolution.
        real: layers with real-valued parameters: name, type, parameters, why.
        stage: the stage of training that says what is binary, in words; empty for a network of one's own.
    """

    reports: tuple[ConvolutionReport, ...]
    real: tuple[tuple[str, str, int, str], ...]
    stage: str = ""

    @property
    def is_as_declared(self) -> bool:
        """Whether there are binary convolutions, and each saw what its binarizers declare."""
        return bool(self.reports) and all(report.is_as_declared for report in self.reports)

    @property
    def is_binary(self) -> bool:
        """Whether each convolution of the binary type read two values and holds two in a filter."""
        return bool(self.reports) and all(report.is_binary for report in self.reports)

    def verdict(self) -> str:
        """The whole in a sentence."""
        count = len(self.reports)
        if not self.is_as_declared:
            failed = sum(not report.is_as_declared for report in self.reports)
            return f"not binary: {failed} of {count} binary convolutions saw other values"
        padded = sum(report.pads_with_zero for report in self.reports)
        if not self.is_binary:
            wider = sum(not report.is_binary for report in self.reports)
            return (
                f"as declared, but not binary: {wider} of {count} convolutions have more than two levels, or"
                f" a half that a rule keeps real; {padded} see 0 from padding"
            )
        return (
            f"binary: each of {count} convolutions reads two values, {padded} of them a third one, 0, from"
            " padding; two values in a filter"
        )

    def __str__(self) -> str:
        lines = [f"{report.verdict():<10} {report.name}: {report.summary()}" for report in self.reports]
        lines += ["", "real-valued parameters:"]
        lines += [f"  {name} ({kind}, {count} parameters): {why}" for name, kind, count, why in self.real]
        lines += ["", *([self.stage] if self.stage else []), self.verdict()]
        return "\n".join(lines)


def check_whole(network: nn.Module, images: Tensor, stage: str = "") -> BinaryCheck:
    """`check_network` and `real_layers` of a network in one value."""
    return BinaryCheck(tuple(check_network(network, images)), tuple(real_layers(network)), stage)
