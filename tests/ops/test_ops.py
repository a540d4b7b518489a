"""Operations: the contract over the whole registry, broken operations, and the parts by slow loops."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from binas.binarize import Binarization, BinaryConv2d
from binas.errors import UserError
from binas.ops import OPS, OpContext, build_op
from binas.ops.contract import describe_op
from binas.ops.op_check import check_op
from binas.ops.parameter_free import FactorisedSkip, padded_to_even

CONTEXTS = {
    "default": OpContext(),
    "affine": OpContext(batch_norm_affine=True, activation="prelu", batch_norm_after_pool=False),
    "groups and shuffle": OpContext(groups=2, channels_per_group=None, channel_shuffle=True),
    "handed over": OpContext(normalized_input=True, activation="none"),
    "minus one": OpContext(binarizations=(Binarization(pad_value=-1),)),
}
DEFAULT_OPERATIONS = {
    f"binary_{prefix}conv_{size}x{size}"
    for prefix in ("", "dilated_", "group_", "dilated_group_")
    for size in (3, 5)
} | {"max_pool_3x3", "avg_pool_3x3", "skip", "zeroise"}
CONTROLS = {"binary_separable_conv_3x3", "binary_separable_conv_5x5"}


def test_the_operations_that_the_package_promises() -> None:
    assert set(OPS) >= DEFAULT_OPERATIONS | CONTROLS


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
@pytest.mark.parametrize("name", sorted(OPS))
def test_shapes_and_gradients_in_every_context(name: str, context: OpContext) -> None:
    for stride, size in itertools.product((1, 2), ((8, 8), (15, 15), (7, 9))):
        module = build_op(name, 8, stride, context)
        y = module(torch.randn(2, 8, *size))
        assert y.shape == (2, 8, -(-size[0] // stride), -(-size[1] // stride))
        if y.requires_grad:
            (y * torch.randn_like(y)).sum().backward()
        for key, parameter in module.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", sorted(OPS))
def test_every_operation_is_described_in_a_line(name: str) -> None:
    text = describe_op(name)
    assert 10 < len(text) < 110 and "\n" not in text


class WrongShape(nn.Module):
    """Forgets its stride."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x


class FloorShape(WrongShape):
    """Right for even sizes only."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__(channels, stride)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x if self.stride == 1 else nn.functional.avg_pool2d(x, 2)


class InPlace(WrongShape):
    """Damages its input behind the back of autograd."""

    def forward(self, x: Tensor) -> Tensor:
        x.data.mul_(2)
        return x


class Unused(WrongShape):
    """Owns a parameter that nothing reads."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__(channels, stride)
        self.unused = nn.Parameter(torch.zeros(1))


class NotFinite(WrongShape):
    """Takes the root of negative numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sqrt()


class InfiniteGradient(WrongShape):
    """Finite output, infinite gradient of its parameter."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__(channels, stride)
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gain.sqrt()


class Raising(WrongShape):
    """Raises in forward."""

    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("no such luck")


class Random(WrongShape):
    """Adds noise in evaluation too."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + torch.rand_like(x))[:, :, :: self.step, :: self.step]

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__(channels, stride)
        self.step = stride


class HiddenState(Random):
    """Keeps a random constant outside its state dict."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__(channels, stride)
        self.constant = torch.rand(1).item()

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.step, :: self.step] + self.constant


class Squeezing(Random):
    """Loses the batch dimension of a batch of one."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.step, :: self.step].squeeze(0)


class NotATensor(WrongShape):
    """Gives a pair."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return x, x


class RaisingConstructor(nn.Module):
    """Cannot be built."""

    def __init__(self, channels: int, stride: int) -> None:
        raise ZeroDivisionError("by hand")


def no_module(channels: int, stride: int) -> object:
    """Gives a function instead of a module."""
    return torch.relu


BAD = [
    (WrongShape, r"stride 2.*expected \(3, 16, 4, 4\).*ceil"),
    (FloorShape, r"stride 2.*expected \(3, 16, 8, 8\)"),
    (InPlace, "input was changed in place"),
    (Unused, "parameter 'unused' gets no gradient"),
    (NotFinite, "output is not finite"),
    (InfiniteGradient, "parameter 'gain' gets a non-finite gradient"),
    (Raising, r"forward raised ValueError on \(3, 16, 8, 8\): no such luck"),
    (Random, "two evaluations of one input differ"),
    (HiddenState, "a copy with the same state gives another output"),
    (Squeezing, r"a batch of one became \(16, 8, 8\)"),
    (NotATensor, "forward gave tuple, not a tensor"),
    (RaisingConstructor, "factory raised ZeroDivisionError.*by hand"),
    (no_module, r"not a torch\.nn\.Module"),
]


@pytest.mark.parametrize(("op", "message"), BAD, ids=lambda v: getattr(v, "__name__", ""))
def test_a_broken_operation_is_told(op: Callable[..., nn.Module], message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(check_op(op))


def test_a_batch_norm_that_forgets_nothing_is_fine() -> None:
    def fine(channels: int, stride: int) -> nn.Module:
        return nn.Sequential(nn.BatchNorm2d(channels), nn.Conv2d(channels, channels, 3, stride, 1))

    assert len(list(check_op(fine))) == 8


def test_a_third_parameter_receives_the_context() -> None:
    given: list[tuple[object, ...]] = []

    def two(channels: int, stride: int) -> nn.Module:
        given.append((channels, stride))
        return nn.Identity()

    def three(channels: int, stride: int, context: OpContext) -> nn.Module:
        given.append((channels, stride, context))
        return nn.Identity()

    context = OpContext(activation="prelu")
    for factory in (two, three):
        build_op(factory, 8, 1, context)
    assert given == [(8, 1), (8, 1, context)]


@pytest.mark.parametrize(
    ("context", "channels", "groups"),
    [
        (OpContext(), 16, 4),
        (OpContext(channels_per_group=3), 36, 12),
        (OpContext(channels_per_group=None, groups=12), 36, 12),
        (OpContext(channels_per_group=1), 5, 5),
        (OpContext(channels_per_group=5), 5, 1),
    ],
    ids=str,
)
def test_number_of_groups(context: OpContext, channels: int, groups: int) -> None:
    assert context.num_groups(channels) == groups
    conv = build_op("binary_group_conv_3x3", channels, 1, context).conv
    assert isinstance(conv, BinaryConv2d)
    assert conv.groups == groups and conv.weight.shape == (channels, channels // groups, 3, 3)


@pytest.mark.parametrize(
    ("context", "channels", "message"),
    [
        (OpContext(), 18, r"grouping\.channels_per_group: 4 does not divide 18 .* 3 or 6"),
        (OpContext(channels_per_group=40), 36, "are 36$"),
        (OpContext(channels_per_group=None, groups=12), 16, r"grouping\.groups: 12 .* 8 or 16"),
        (OpContext(channels_per_group=None, groups=0), 16, "are 1$"),
    ],
    ids=str,
)
def test_groups_that_do_not_divide(context: OpContext, channels: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_op("binary_dilated_group_conv_5x5", channels, 1, context)


@pytest.mark.parametrize("channels", [8, 12])
@pytest.mark.parametrize("groups", [2, 4])
def test_channel_shuffle_deals_channels_out(groups: int, channels: int) -> None:
    shuffled = OpContext(channels_per_group=None, groups=groups, channel_shuffle=True, activation="none")
    module = build_op("binary_group_conv_3x3", channels, 1, shuffled)
    x = torch.randn(2, channels, 4, 5)
    plain = module.conv(module.norm(x))  # type: ignore[operator]
    y = build_op("binary_group_conv_3x3", channels, 1, shuffled)
    y.load_state_dict(module.state_dict())
    y = y(x)
    each = channels // groups
    for place in range(channels):
        assert torch.equal(y[:, place], plain[:, (place % groups) * each + place // groups])


def test_the_activation_follows_the_shuffle() -> None:
    context = OpContext(channels_per_group=4, channel_shuffle=True, activation="prelu")
    module = build_op("binary_group_conv_3x3", 8, 1, context)
    slopes = torch.arange(8.0)
    module.activation.weight.data.copy_(slopes)  # type: ignore[operator,union-attr]
    x = torch.randn(2, 8, 5, 5)
    y = module.conv(module.norm(x))[:, [0, 4, 1, 5, 2, 6, 3, 7]]  # type: ignore[operator]
    assert torch.equal(module(x), torch.where(y > 0, y, slopes[:, None, None] * y))


def test_no_shuffle_without_groups() -> None:
    context = OpContext(channels_per_group=None, groups=1, channel_shuffle=True)
    assert isinstance(build_op("binary_group_conv_3x3", 8, 1, context).shuffle, nn.Identity)
    dense = OpContext(channels_per_group=2, channel_shuffle=True)
    assert isinstance(build_op("binary_conv_3x3", 8, 1, dense).shuffle, nn.Identity)


@pytest.mark.parametrize("channels", [1, 4, 5])
@pytest.mark.parametrize("size", [(8, 8), (15, 15), (7, 9)], ids=str)
def test_factorised_skip_against_a_loop(size: tuple[int, int], channels: int) -> None:
    skip = build_op("skip", channels, 2, OpContext(normalized_input=True))
    assert isinstance(skip, FactorisedSkip)
    x = torch.randn(2, channels, *size)
    y = skip(x)
    rows, columns = -(-size[0] // 2), -(-size[1] // 2)
    assert y.shape == (2, channels, rows, columns)
    halves = [half for half in (skip.first, skip.second) if half is not None]
    for row, column in itertools.product(range(rows), range(columns)):
        expected = []
        for shift, half in enumerate(halves):
            [(kernel, scale)] = half.weight_binarizer(half.weight)
            at = (2 * row + shift, 2 * column + shift)
            inside = at[0] < size[0] and at[1] < size[1]
            # a padded pixel is 0 before binarization, hence +1 like every other zero
            pixel = torch.where(x[:, :, at[0], at[1]] >= 0, 1.0, -1.0) if inside else torch.ones(2, channels)
            expected.append((pixel @ kernel[:, :, 0, 0].T) * scale.flatten())  # type: ignore[union-attr]
        assert torch.equal(y[:, :, row, column], torch.cat(expected, dim=1))


def test_skip_without_stride_is_the_input_itself() -> None:
    x = torch.randn(1, 4, 5, 5)
    assert build_op("skip", 4, 1, OpContext())(x) is x


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 9)], ids=str)
@pytest.mark.parametrize("name", ["max_pool_3x3", "avg_pool_3x3"])
def test_pools_ignore_what_is_outside(name: str, size: tuple[int, int], stride: int) -> None:
    x = torch.randn(2, 3, *size) - 5  # a border counted as zero would show as a maximum
    y = build_op(name, 3, stride, OpContext(batch_norm_after_pool=False))(x)
    for row, column in itertools.product(range(y.shape[2]), range(y.shape[3])):
        top, left = stride * row - 1, stride * column - 1
        window = x[:, :, max(top, 0) : top + 3, max(left, 0) : left + 3].flatten(2)
        expected = window.amax(dim=2) if name == "max_pool_3x3" else window.mean(dim=2)
        torch.testing.assert_close(y[:, :, row, column], expected)  # float32 sums in another order


@pytest.mark.parametrize("name", ["max_pool_3x3", "avg_pool_3x3"])
def test_batch_norm_after_pool_is_a_choice(name: str) -> None:
    norm = build_op(name, 3, 1, OpContext()).norm
    assert isinstance(norm, nn.BatchNorm2d) and not norm.affine
    assert isinstance(build_op(name, 3, 1, OpContext(batch_norm_after_pool=False)).norm, nn.Identity)


@pytest.mark.parametrize("stride", [1, 2])
def test_zeroise_gives_zeros(stride: int) -> None:
    y = build_op("zeroise", 4, stride, OpContext())(torch.full((2, 4, 7, 9), float("inf")))
    assert y.shape == (2, 4, -(-7 // stride), -(-9 // stride)) and not y.any()


@pytest.mark.parametrize("size", [(8, 8), (7, 8), (8, 9), (7, 9)], ids=str)
def test_padding_to_even(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size)
    y = padded_to_even(x)
    assert y.shape[2] % 2 == y.shape[3] % 2 == 0
    assert torch.equal(y[:, :, : size[0], : size[1]], x)
    assert not y[:, :, size[0] :].any() and not y[:, :, :, size[1] :].any()


@pytest.mark.parametrize("activation", ["relu", "prelu", "none"])
def test_order_inside_an_operation(activation: str) -> None:
    """Batch-norm, binarize, convolution, activation."""
    context = OpContext(activation=activation, batch_norm_affine=True)  # type: ignore[arg-type]
    module = build_op("binary_dilated_conv_3x3", 4, 1, context)
    x = torch.randn(4, 4, 6, 6)
    norm, conv = nn.BatchNorm2d(4), BinaryConv2d(4, 4, 3, padding=2, dilation=2)
    conv.load_state_dict(module.conv.state_dict())
    y = conv(norm(x))
    expected = {"relu": y.relu(), "prelu": nn.functional.leaky_relu(y, 0.25), "none": y}[activation]
    assert torch.equal(module(x), expected)
