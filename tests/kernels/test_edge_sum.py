"""The fast path of what leaves a node, piece by piece against plain modules on equal inputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binas.arch.fast_supernet import Group, NodeEdges, forward_edges
from binas.binarize import Binarization, BinarizerSpec, set_precision
from binas.kernels.edge_sum import edge_sum, integer_conv, wide_forward
from binas.kernels.edge_sum.integer_conv import IntegerConv, as_levels
from binas.ops import OpContext, build_op

CONTEXT = OpContext(normalized_input=True, channels_per_group=4)
CONVOLUTIONS = ["binary_conv_3x3", "binary_dilated_conv_5x5", "binary_group_conv_3x3"]


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def signs(*shape: int) -> Tensor:
    return torch.where(torch.rand(shape) < 0.5, -1.0, 1.0)


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "groups"), list(itertools.product((1, 3, 5), (1, 2), (1, 2), (1, 4)))
)
def test_integer_convolution_is_exact(kernel: int, stride: int, dilation: int, groups: int) -> None:
    if not integer_conv.is_available():
        pytest.skip("this CPU or torch has no fast int8 convolution")
    torch.manual_seed(kernel)
    x, weight = signs(3, 8, 9, 7), signs(16, 8 // groups, kernel, kernel)
    padding = dilation * (kernel - 1) // 2
    expected = F.conv2d(x, weight, None, stride, padding, dilation, groups).relu()
    convolve = IntegerConv(weight, stride, padding, dilation, groups, [3, 8, 9, 7])
    assert torch.equal(convolve(as_levels(x)), expected)


def contributions(
    groups: list[Group], x: Tensor, columns: list[Tensor], num_targets: int, norm: nn.Module
) -> list[Tensor]:
    found = NodeEdges(x, norm, columns, num_targets).contributions(groups)
    assert all(y is not None for y in found)
    return [y for y in found if y is not None]


def plain(
    groups: list[Group], x: Tensor, columns: list[Tensor], num_targets: int, norm: nn.Module
) -> list[Tensor]:
    totals: list[Tensor] = [torch.zeros(())] * num_targets
    for group in groups:
        for target, module in zip(group.targets, group.modules, strict=True):
            reads = norm(x) if getattr(module, "takes_normalized_input", False) else x
            totals[target] = totals[target] + columns[group.column][target] * module(reads)
    return totals


@pytest.mark.parametrize("frozen_weights", [False, True], ids=["weight_step", "alpha_step"])
@pytest.mark.parametrize("precision", [(True, True), (True, False), (False, True)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("images", "channels"), [(5, 8), (64, 16)], ids=["odd", "tables"])
def test_sum_of_what_leaves_a_node(
    images: int,
    channels: int,
    stride: int,
    precision: tuple[bool, bool],
    frozen_weights: bool,
    monkeypatch: pytest.MonkeyPatch,
    two_threads: None,
) -> None:
    torch.manual_seed(stride)
    monkeypatch.setattr(wide_forward, "BLOCK_ELEMENTS", 700)  # several blocks, the last one smaller
    names = [*CONVOLUTIONS, "max_pool_3x3", "skip"]
    groups = [Group(column, [0, 1, 2]) for column in range(len(names))]
    groups[1].targets = [0, 2]  # an operation that was removed from one edge
    for group, name in zip(groups, names, strict=True):
        group.modules = [build_op(name, channels, stride, CONTEXT) for _ in group.targets]
    modules = nn.ModuleList(module for group in groups for module in group.modules)
    set_precision(modules, *precision)
    modules.requires_grad_(not frozen_weights)
    norm = nn.BatchNorm2d(channels, affine=False)
    x = torch.randn(images, channels, 9, 7)
    weights = torch.rand(len(names), 3)
    results = []
    for compute in (plain, contributions):
        leaf, alphas = x.clone().requires_grad_(), weights.clone().requires_grad_()
        modules.zero_grad()
        outputs = compute(groups, leaf, list(alphas.unbind()), 3, norm)
        sum((y * torch.arange(y.numel()).view_as(y).cos()).sum() for y in outputs).backward()
        by_weights = [parameter.grad for parameter in modules.parameters()]
        assert all((gradient is None) == frozen_weights for gradient in by_weights)
        results.append([*outputs, leaf.grad, alphas.grad, *(g for g in by_weights if g is not None)])
    for expected, found in zip(*results, strict=True):
        # float32 sums in another order
        scale = expected.abs().max().item()
        assert (expected - found).abs().max().item() <= 1e-5 * scale


def test_without_the_integer_convolution_the_numbers_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    groups = [Group(0, [0, 1], [build_op("binary_conv_5x5", 8, 1, CONTEXT) for _ in range(2)])]
    x, columns, norm = torch.randn(4, 8, 6, 6), [torch.rand(2)], nn.BatchNorm2d(8, affine=False)
    fast = contributions(groups, x, columns, 2, norm)
    monkeypatch.setattr(edge_sum, "is_available", lambda: False)
    slow = contributions(groups, x, columns, 2, norm)
    assert all(torch.equal(a, b) for a, b in zip(fast, slow, strict=True))


@pytest.mark.parametrize(
    "context",
    [
        OpContext(normalized_input=True, activation="prelu"),
        OpContext(normalized_input=True, activation="none"),
        OpContext(normalized_input=True, channel_shuffle=True),
        OpContext(normalized_input=True, binarizations=(Binarization(pad_value=-1.0),)),
        OpContext(
            normalized_input=True, binarizations=(Binarization(activation=BinarizerSpec(name="approx_sign")),)
        ),
    ],
    ids=["prelu", "no activation", "shuffle", "padding", "approx_sign"],
)
def test_what_cannot_share_runs_beside_the_rest(context: OpContext) -> None:
    torch.manual_seed(1)
    names = ["binary_group_conv_3x3", "binary_conv_3x3", "avg_pool_3x3"]
    groups = [
        Group(column, [0, 1], [build_op(name, 8, 1, context) for _ in range(2)])
        for column, name in enumerate(names)
    ]
    x, weights, norm = torch.randn(4, 8, 6, 6), torch.rand(3, 2), nn.BatchNorm2d(8, affine=False)
    columns = list(weights.unbind())
    for expected, found in zip(
        plain(groups, x, columns, 2, norm), contributions(groups, x, columns, 2, norm), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


class Doubling(nn.Module):
    """A user's operation that says how its edges share work."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def forward_edges(modules: list[nn.Module], x: Tensor) -> list[Tensor]:
        Doubling.calls += 1
        y = 2 * x
        return [y for _ in modules]


def test_the_hook_of_a_users_operation_is_used() -> None:
    modules = [Doubling(), Doubling()]
    x = torch.randn(1, 2, 3, 3)
    before = Doubling.calls
    outputs = forward_edges(modules, x)
    assert Doubling.calls == before + 1
    assert len(outputs) == 2 and all(torch.equal(y, 2 * x) for y in outputs)
    assert forward_edges([nn.Identity(), nn.Identity()], x) is x
