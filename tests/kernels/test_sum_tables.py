"""Gradients by tables of sums against an ordinary convolution's, in float64."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from binas.kernels.sum_tables.sum_tables import (
    InputGradient,
    KernelGradient,
    Masks,
    Rows,
    TableGeometry,
    is_available,
    product_sums,
)
from binas.kernels.threads import Team

pytestmark = pytest.mark.skipif(not is_available(), reason="numba is not installed")

# images, channels, targets, rows, columns, kernel, dilation, stride, groups
CASES = [
    (64, 16, 4, 8, 8, 5, 1, 1, 1),
    (64, 16, 1, 6, 9, 3, 2, 1, 1),
    (33, 16, 3, 8, 8, 5, 2, 1, 1),
    (40, 32, 2, 9, 9, 5, 1, 2, 1),
    (24, 32, 4, 8, 8, 3, 1, 1, 4),
    (96, 64, 5, 5, 5, 1, 1, 1, 1),
]


@pytest.fixture
def team() -> Iterator[Team]:
    with Team() as pool:
        yield pool


def _close(ours: Tensor, exact: Tensor) -> None:
    assert float((ours.double() - exact).abs().max() / exact.abs().max()) < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_an_ordinary_convolution(case: tuple[int, ...], team: Team) -> None:
    images, channels, targets, rows, columns, k, dilation, stride, groups = case
    generator = torch.Generator().manual_seed(0)
    padding = dilation * (k - 1) // 2
    width = channels * targets
    x = torch.randn(images, channels, rows, columns, generator=generator).sign()
    kernel = torch.randn(width, channels // groups, k, k, generator=generator).sign()
    scales = torch.rand(width, generator=generator)
    sums = torch.conv2d(x, kernel, None, stride, padding, dilation, groups).relu()
    outs = [torch.randn(images, channels, *sums.shape[2:], generator=generator) for _ in range(targets)]
    wide = torch.cat([out.unflatten(1, (groups, -1)) for out in outs], dim=2).flatten(1, 2)

    exact_x, exact_kernel, _ = torch.ops.aten.convolution_backward(
        (wide * (sums > 0) * scales.view(-1, 1, 1)).double(),
        x.double(),
        kernel.double(),
        None,
        [stride] * 2,
        [padding] * 2,
        [dilation] * 2,
        False,
        [0, 0],
        groups,
        [True, True, False],
    )
    geometry = TableGeometry(k, stride, padding, dilation, groups, tuple(x.shape), width, padding + 1)
    assert geometry.output_size == tuple(sums.shape[2:])
    masks = Masks(geometry, keeps_sums=True)
    last = sums.contiguous(memory_format=torch.channels_last)
    total = torch.empty_like(last)
    ones, twos = masks.pattern(torch.ones(width)), masks.pattern(torch.full((width,), 2.0))
    masks.take(0, last[:16], ones, total[:16], True)
    masks.take(16, last[16:], ones, total[16:], True)
    assert torch.equal(total, last)
    masks.take(16, last[16:], twos, total[16:], False)
    assert torch.equal(total[16:], 3 * last[16:])
    gradients = Rows(outs, groups, team)
    by_input = InputGradient(x.shape, padding + 1, team)
    by_input.add(geometry, kernel, scales, masks, gradients)
    by_kernel = KernelGradient(x, padding + 1, team).of(geometry, masks, gradients)

    _close(by_input.result(), exact_x)
    _close(by_kernel * scales.view(-1, 1, 1, 1), exact_kernel)
    _close(product_sums(masks, gradients, team), (sums.double() * wide).sum(dim=(0, 2, 3)))


def test_the_input_gradients_of_two_convolutions_add(team: Team) -> None:
    torch.manual_seed(1)
    x = torch.randn(32, 16, 8, 8).sign()
    outs = [torch.randn(32, 16, 8, 8)]
    gradients = Rows(outs, 1, team)
    total = InputGradient(x.shape, 2, team)
    exact = torch.zeros_like(x, dtype=torch.float64)
    for k in (3, 5):
        kernel = torch.randn(16, 16, k, k).sign()
        sums = torch.conv2d(x, kernel, padding=k // 2).relu()
        geometry = TableGeometry(k, 1, k // 2, 1, 1, (32, 16, 8, 8), 16, 2)
        masks = Masks(geometry, keeps_sums=False)
        last = sums.contiguous(memory_format=torch.channels_last)
        masks.take(0, last, masks.pattern(torch.ones(16)), torch.empty_like(last), True)
        total.add(geometry, kernel, torch.ones(16), masks, gradients)
        masked = (outs[0] * (sums > 0)).double()
        exact += torch.nn.functional.conv_transpose2d(masked, kernel.double(), padding=k // 2)
    _close(total.result(), exact)


@pytest.mark.parametrize(
    ("change", "pays"),
    [({}, True), ({"input_shape": (8, 16, 32, 32)}, False), ({"width": 24}, False), ({"groups": 8}, False)],
)
def test_small_or_odd_convolutions_are_left_to_torch(change: dict[str, object], pays: bool) -> None:
    settings = {
        "kernel_size": 3,
        "stride": 1,
        "padding": 1,
        "dilation": 1,
        "groups": 1,
        "input_shape": (64, 16, 32, 32),
        "width": 64,
        "margin": 1,
    }
    assert TableGeometry(**{**settings, **change}).pays() is pays  # type: ignore[arg-type]
