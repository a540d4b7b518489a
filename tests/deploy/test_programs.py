"""Programs beside the network that they were made of: sums equal, scores equal but for rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import binas
from binas.binarize import ACTIVATION_BINARIZERS, WEIGHT_BINARIZERS
from binas.binarize.conv import BinaryConv2d
from binas.deploy import reference
from binas.deploy.compiler import find_compiler
from binas.deploy.onnx_file import write_onnx
from binas.models import MODELS
from tests.deploy.programs import check_program, check_reference, exported, image_of, shaken
from tests.quick import few_of

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C compiler here")
ARCHES = ["-march=native", "-march=x86-64-v3", ""]
FAMILIES = ["bnas_mini", "mlp", "mobilenet_group", "reactnet_a", "real_to_binary_resnet18", "xnor_resnet18"]
HEAVY = {"mlp": {"hidden": (70, 30)}, "bnas_mini": {"init_channels": 8, "num_cells": 3}}


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BINAS_CACHE", str(tmp_path_factory.mktemp("programs")))
        yield


def arches() -> list[str]:
    """Compiler words for processors that this one can run."""
    can = torch.backends.cpu.get_cpu_capability()
    return [arch for arch in ARCHES if arch != "-march=x86-64-v3" or can in ("AVX2", "AVX512")]


@pytest.mark.parametrize("name", few_of(MODELS, FAMILIES))
def test_a_published_network(name: str) -> None:
    torch.manual_seed(0)
    options = HEAVY.get(name, {"width": 0.25})
    try:
        module = binas.create_model(name, num_classes=10, image_size=32, **options)
    except binas.UserError:
        module = binas.create_model(name, num_classes=10, image_size=32)
    check_program(shaken(module), exported(module, 3, 32, 32), images=1)


def test_nothing_is_left_out_by_an_optimizing_compiler() -> None:
    """GCC 12 did, with -O3, in a step that packs two thresholds of one sum."""
    module = shaken(binas.create_network("pc_darts_image", num_classes=5, init_channels=12, num_cells=3))
    check_program(module, exported(module, 3, 16, 15), images=1)


class Small(nn.Module):
    """Batch-norm, binary convolution, batch-norm, activation, another one, mean."""

    def __init__(self, conv: BinaryConv2d, second: int, activation: nn.Module) -> None:
        super().__init__()
        inputs, outputs = conv.in_channels, conv.out_channels
        self.first = nn.Sequential(nn.Conv2d(2, inputs, 3, padding=1), nn.BatchNorm2d(inputs))
        self.conv, self.norm, self.activation = conv, nn.BatchNorm2d(outputs), activation
        self.second = BinaryConv2d(outputs, second, 1)
        self.head = nn.Linear(second, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.norm(self.conv(self.first(x))))
        return self.head(self.second(x).mean((2, 3)))  # type: ignore[no-any-return]


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    groups=st.sampled_from([1, 1, 2, 3]),
    each=st.tuples(st.integers(1, 65), st.integers(1, 40)),
    kernel=st.sampled_from([1, 2, 3, 5]),
    stride=st.sampled_from([1, 2, 3]),
    dilation=st.sampled_from([1, 2]),
    pad=st.sampled_from([0.0, 1.0, -1.0]),
    size=st.tuples(st.integers(3, 13), st.integers(3, 13)),
    activation=st.sampled_from(["relu", "prelu", "hardtanh", "none"]),
)
def test_any_geometry(
    seed: int,
    groups: int,
    each: tuple[int, int],
    kernel: int,
    stride: int,
    dilation: int,
    pad: float,
    size: tuple[int, int],
    activation: str,
) -> None:
    torch.manual_seed(seed)
    inputs, outputs = each[0] * groups, each[1] * groups
    reach = dilation * (kernel - 1)
    padding = max(-(-reach // 2), -(-(reach + 1 - min(size)) // 2))
    conv = binas.nn.BinaryConv2d(
        inputs,
        outputs,
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        pad_value=pad,
    )
    after = {"relu": nn.ReLU(), "prelu": nn.PReLU(outputs), "hardtanh": nn.Hardtanh(), "none": nn.Identity()}
    module = shaken(Small(conv, 17, after[activation]), seed)
    model = exported(module, 2, *size)
    for arch in arches():
        check_program(module, model, arch, images=1)


def layered(activation: dict[str, Any], weight: dict[str, Any]) -> nn.Module:
    torch.manual_seed(3)
    conv = binas.nn.BinaryConv2d(12, 20, 3, padding=1, activation=activation, weight=weight)
    return shaken(Small(conv, 6, nn.ReLU()), 3)


ACTIVATIONS = [(name, v) for name in ACTIVATION_BINARIZERS for v in ACTIVATION_BINARIZERS[name].variants]  # type: ignore[attr-defined]
WEIGHTS = [(name, v) for name in WEIGHT_BINARIZERS for v in WEIGHT_BINARIZERS[name].variants]  # type: ignore[attr-defined]


COMPILED = {
    "ls2",
    "ls_ternary",
    "sign",
    "rsign",
    "pact",
    "xnor_k",
    "xnor",
    "bnn",
    "twn",
    "ttq",
    "dorefa",
    "syq",
}
"""Whose programs are compiled with every change; all others' by `make ci-extra`."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), ACTIVATIONS, ids=str)
def test_the_program_of_every_activation_binarizer(name: str, options: dict[str, Any]) -> None:
    module = layered({"name": name, **options}, {"name": "xnor"})
    check_program(module, exported(module, 2, 7, 6), images=1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), WEIGHTS, ids=str)
def test_the_program_of_every_weight_binarizer(name: str, options: dict[str, Any]) -> None:
    module = layered({"name": "sign"}, {"name": name, **options})
    check_program(module, exported(module, 2, 7, 6), images=1)


@pytest.mark.parametrize(("name", "options"), ACTIVATIONS, ids=str)
def test_every_activation_binarizer(name: str, options: dict[str, Any]) -> None:
    module = layered({"name": name, **options}, {"name": "xnor"})
    model = exported(module, 2, 7, 6)
    check_reference(module, model)
    if name in COMPILED and not options:
        check_program(module, model, images=1)


@pytest.mark.parametrize(("name", "options"), WEIGHTS, ids=str)
def test_every_weight_binarizer(name: str, options: dict[str, Any]) -> None:
    module = layered({"name": "sign"}, {"name": name, **options})
    model = exported(module, 2, 7, 6)
    check_reference(module, model)
    if name in COMPILED and not options:
        check_program(module, model, images=1)


MOST_BITS = [
    ({"name": "dorefa", "bits": 8}, {"name": "dorefa", "bits": 8}),
    ({"name": "pact", "bits": 8}, {"name": "inq", "bits": 5}),
    ({"name": "wrpn", "bits": 8}, {"name": "wrpn", "bits": 8}),
    ({"name": "dsq", "bits": 8}, {"name": "inq", "bits": 6}),
]


@pytest.mark.parametrize("place", few_of(range(len(MOST_BITS)), [1]))
def test_codes_of_as_many_bits_as_there_can_be(place: int) -> None:
    module = layered(*MOST_BITS[place])
    for part in module.modules():
        if hasattr(part, "frozen"):  # INQ: as at its end, when all weights are powers of two
            part.asked = 1.0
            part.train()
            part(module.conv.weight)
            part.eval()
    check_program(module, exported(module, 2, 7, 6), images=2)


ORDINARY: dict[str, Any] = {
    "elu": nn.ELU(),
    "selu": nn.SELU(),
    "celu": nn.CELU(0.7),
    "silu": nn.SiLU(),
    "hardswish": nn.Hardswish(),
    "leaky_relu": nn.LeakyReLU(0.2),
    "reflected": nn.ReflectionPad2d(1),
    "upsampled": nn.Upsample(scale_factor=2),
    "shuffled": nn.ChannelShuffle(4),
    "rounded": lambda y: (y * 2).round() + y.floor() - (y / 3).ceil(),
    "powers": lambda y: y**2 + y**3 - y**4 + (y * y + 1) ** 0.5,
    "rsqrt": lambda y: torch.rsqrt(y * y + 1),
    "rolled": lambda y: torch.roll(y, (1, 2), (2, 3)),
    "gated": lambda y: torch.cat([torch.nn.functional.glu(y, 1)] * 2, 1),
    "sums": lambda y: y * y.sum((2, 3), keepdim=True) + y.sum(1, keepdim=True),
    "largest": lambda y: y - y.amax((2, 3), keepdim=True),
    "max_pooled": nn.AdaptiveMaxPool2d((4, 2)),
    "where": lambda y: torch.where(y > 0.3, y, y * 0.1),
    "minimum": lambda y: torch.minimum(y, torch.full((20, 1, 1), 0.4)),
}


@pytest.mark.parametrize(
    "name", few_of(ORDINARY, ["elu", "upsampled", "rounded", "powers", "gated", "sums", "max_pooled"])
)
def test_what_is_made_of_ordinary_operators(name: str) -> None:
    torch.manual_seed(1)

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 12, 3, padding=1)
            self.conv = binas.nn.BinaryConv2d(12, 20, 3, padding=1)
            self.norm = nn.BatchNorm2d(20)
            self.last = nn.Linear(20, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = ORDINARY[name](self.norm(self.conv(self.first(x))))
            found: Tensor = self.last(y.mean((2, 3)))
            return found

    module = shaken(Own())
    check_program(module, exported(module, 3, 8, 6), images=1)


@pytest.mark.parametrize("name", ["ls2", "ls_ternary"])
@pytest.mark.parametrize("side", few_of([1, 6, 17, 40], [6, 40]))
def test_scales_that_sort_an_image(name: str, side: int, tmp_path: Path) -> None:
    """Of an image with more than 2,048 numbers some are sorted, and the means are taken of all."""
    torch.manual_seed(side)
    conv = binas.nn.BinaryConv2d(3, 8, 3, padding=1, activation=name)
    module = shaken(nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)), side)
    model = exported(module, 3, side, side)
    check_program(module, model, images=2)
    onnxruntime = pytest.importorskip("onnxruntime")
    write_onnx(model, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    image = image_of(model, 1)
    (found,) = session.run(None, {"input": image.transpose(2, 0, 1)[None]})
    expected = reference.run(model.graph, image)[model.graph.output]
    assert np.abs(found[0] - expected).max() <= 1e-4 * np.abs(expected).max()
