"""What 1-bit weight binarizers keep, draw and change: state after steps, start, learned scales, training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from binas.binarize import WEIGHT_BINARIZERS, Binarization, BinaryConv2d, after_optimizer_step
from binas.binarize.schemes.circulant import turned

Options = dict[str, object]

NAMES = [
    "binary_connect",
    "bnn",
    "bwn",
    "bwnh",
    "circulant",
    "lab",
    "libra",
    "magnitude_aware",
    "react",
    "xnor",
    "xnor_plus_plus",
    "xnor_released",
]
VARIANTS = [
    (name, options) for name in NAMES for options in getattr(WEIGHT_BINARIZERS[name], "variants", ({},))
]


def layer(name: str, options: Options, in_channels: int = 4, out_channels: int = 6) -> BinaryConv2d:
    binarization = Binarization.model_validate({"weight": {"name": name, **options}})
    return BinaryConv2d(in_channels, out_channels, 3, padding=1, binarizations=[binarization])


def trained(conv: BinaryConv2d, steps: int, learning_rate: float = 0.02) -> list[float]:
    """Losses of regression to a real convolution of the input's signs."""
    torch.manual_seed(4)
    x = torch.randn(16, conv.in_channels, 6, 6)
    real = 0.1 * torch.randn_like(conv.weight)
    target = torch.nn.functional.conv2d(torch.where(x >= 0, 1.0, -1.0), real, padding=1)
    scale = conv.weight_binarizer.learning_rate_scale
    groups = [
        {"params": [conv.weight], "lr": learning_rate * scale},
        {"params": list(conv.weight_binarizer.parameters())},
    ]
    optimizer = torch.optim.Adam(groups, lr=learning_rate)
    losses = []
    for step in range(steps):
        conv.weight_binarizer.progress = step / steps
        optimizer.zero_grad()
        y = conv(x)
        # the least-squares factor of the whole output, since some schemes have no scale
        loss = ((y.detach() * target).sum() / y.detach().square().sum() * y - target).square().mean()
        loss.backward()
        optimizer.step()
        after_optimizer_step(conv)
        losses.append(loss.item())
    return losses


def test_stochastic_codes_have_the_probability_of_the_hard_sigmoid() -> None:
    torch.manual_seed(0)
    values = torch.tensor([-1.5, -1.0, -0.5, -0.0, 0.0, 0.3, 1.0, 1.5])
    weight = values.expand(40_000, 8).contiguous()
    binarizer = WEIGHT_BINARIZERS["binary_connect"](weight.shape, mode="stochastic")
    [(codes, scale)] = binarizer(weight)
    assert scale is None and set(codes.unique().tolist()) == {-1, 1}
    shares = (codes == 1).double().mean(dim=0)
    expected = ((values.double() + 1) / 2).clamp(0, 1)
    certain = values.abs() >= 1
    assert torch.equal(shares[certain], expected[certain])
    # five standard deviations of a share of 40,000 draws
    assert (shares - expected).abs().max() < 5 * 0.5 / 200
    latent = weight[:4].clone().requires_grad_()
    binarizer(latent)[0][0].backward(torch.full((4, 8), 2.0))
    assert latent.grad is not None and latent.grad.eq(2).all()


def test_stochastic_codes_follow_the_seed_and_are_signs_in_evaluation() -> None:
    weight = torch.empty(8, 4, 3, 3).uniform_(-1, 1)
    binarizer = WEIGHT_BINARIZERS["binary_connect"](weight.shape, mode="stochastic")

    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return binarizer(weight)[0][0]  # type: ignore[no-any-return]

    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))
    binarizer.eval()
    state = torch.random.get_rng_state()
    assert torch.equal(binarizer(weight)[0][0], torch.where(weight >= 0, 1.0, -1.0))
    assert torch.equal(torch.random.get_rng_state(), state), "evaluation drew random numbers"


def test_binary_connect_starts_and_stays_within_glorots_limit() -> None:
    limit = math.sqrt(1.5 / (4 * 9 + 6 * 9))
    for options, largest, rate in (
        ({"limit": "glorot", "rate": "glorot"}, limit, 1 / limit),
        ({"rate": "glorot_squared"}, 1.0, 1 / limit**2),
        ({"mode": "stochastic"}, 1.0, 1 / limit),
        ({"mode": "stochastic", "limit": "glorot", "rate": "unit"}, limit, 1.0),
    ):
        conv = layer("binary_connect", options, 4, 6)
        assert conv.weight_binarizer.learning_rate_scale == pytest.approx(rate, rel=1e-12)
        assert 0.9 * largest < conv.weight.abs().max() <= largest
        conv.weight.data.mul_(7)
        after_optimizer_step(conv)
        assert conv.weight.abs().max().item() == pytest.approx(largest, rel=1e-6)
    untouched = layer("binary_connect", {"clip": False}, 4, 6)
    untouched.weight.data.fill_(3)
    after_optimizer_step(untouched)
    assert untouched.weight.eq(3).all() and untouched.weight_binarizer.learning_rate_scale == 1


@pytest.mark.parametrize(("clip", "largest"), [(1.0, 1.0), (0.5, 0.5), (None, 3.0)])
def test_bnn_clips_its_latent_weights(clip: float | None, largest: float) -> None:
    conv = layer("bnn", {"clip": clip}, 4, 6)
    conv.weight.data.copy_(torch.linspace(-3, 3, conv.weight.numel()).view_as(conv.weight))
    after_optimizer_step(conv)
    assert conv.weight.min() == -largest and conv.weight.max() == largest


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_a_layer_learns(name: str, options: Options) -> None:
    torch.manual_seed(1)
    conv = layer(name, options)
    losses = trained(conv, 60)
    # what random signs give stays near the first losses
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:3]), (losses[:3], losses[-5:])


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_evaluation_changes_nothing(name: str, options: Options) -> None:
    conv = layer(name, options)
    trained(conv, 2)
    before = {key: value.clone() for key, value in conv.state_dict().items()}
    conv.eval()
    x = torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        first, second = conv(x), conv(x)
    assert torch.equal(first, second)
    assert all(torch.equal(value, before[key]) for key, value in conv.state_dict().items())


def test_lab_weighs_by_the_second_moment_of_its_gradients() -> None:
    conv = layer("lab", {"beta2": 0.9}).double()
    optimizer = torch.optim.SGD([conv.weight], lr=0.5)
    moment = np.zeros(conv.weight.shape)
    random = np.random.default_rng(2)
    for _ in range(3):
        w = conv.weight.detach().numpy().copy()
        [(_, scale)] = conv.weight_binarizer(conv.weight)
        d = np.sqrt(moment) + 1e-8
        assert scale is not None and scale.shape == ()
        np.testing.assert_allclose(scale.item(), (d * np.abs(w)).sum() / d.sum(), rtol=1e-12)
        g = random.normal(size=w.shape)
        conv.weight.grad = torch.tensor(g)
        optimizer.step()
        after_optimizer_step(conv)
        moment = 0.9 * moment + 0.1 * g**2
        np.testing.assert_allclose(conv.weight.detach().numpy(), np.clip(w - 0.5 * g, -1, 1), rtol=1e-12)
    continued = layer("lab", {"beta2": 0.9}).double()
    continued.load_state_dict(conv.state_dict())
    x = torch.randn(1, 4, 5, 5, dtype=torch.float64)
    assert torch.equal(continued(x), conv(x)), "the second moment is part of a checkpoint"


def test_without_a_gradient_lab_keeps_its_moment() -> None:
    conv = layer("lab", {})
    after_optimizer_step(conv)
    assert not conv.state_dict()["weight_binarizers.lab.second_moment"].any()


@pytest.mark.parametrize("rotations", [2, 4, 8])
def test_circulant_filters_stay_rotations_of_the_first(rotations: int) -> None:
    conv = layer("circulant", {"rotations": rotations}, 4, 11)
    first = conv.weight.detach().clone()
    for moment in ("start", "end"):
        for f in range(11):
            source = turned(3, f % rotations, rotations)
            expected = conv.weight[f - f % rotations].flatten(1)[:, source].view(4, 3, 3)
            assert torch.equal(conv.weight[f], expected), (moment, f)
        trained(conv, 3)
    assert not torch.equal(first, conv.weight)


def test_circulant_kernels_of_one_position_are_not_tied() -> None:
    conv = BinaryConv2d(
        4, 6, 1, binarizations=[Binarization.model_validate({"weight": {"name": "circulant"}})]
    )
    assert len(conv.weight.flatten(1).unique(dim=0)) == 6


@pytest.mark.parametrize(
    ("factors", "shapes"),
    [
        ("filter", [(6, 1, 1)]),
        ("dense", [(6, 3, 5)]),
        ("filter_and_map", [(6, 1, 1), (1, 3, 5)]),
        ("rank_one", [(6, 1, 1), (1, 3, 1), (1, 1, 5)]),
    ],
)
def test_the_learned_scale_of_the_output(factors: str, shapes: list[tuple[int, ...]]) -> None:
    size = None if factors == "filter" else [3, 5]
    options: Options = {"name": "xnor_plus_plus", "factors": factors, "size": size}
    conv = BinaryConv2d(
        4, 6, 3, stride=2, padding=1, binarizations=[Binarization.model_validate({"weight": options})]
    )
    conv.double()
    parameters = list(conv.weight_binarizer.parameters())
    assert [tuple(parameter.shape) for parameter in parameters] == shapes
    alpha = conv.weight.abs().flatten(1).mean(dim=1).reshape(6, 1, 1)
    torch.testing.assert_close(parameters[0], alpha.expand(shapes[0]))
    assert all(parameter.eq(1).all() for parameter in parameters[1:])
    for parameter in parameters:
        parameter.data.uniform_(-2, 2)
    x, g = torch.randn(2, 4, 6, 10).double(), torch.randn(2, 6, 3, 5).double()
    codes = torch.where(conv.weight >= 0, 1.0, -1.0).double()
    sums = torch.nn.functional.conv2d(torch.where(x >= 0, 1.0, -1.0).double(), codes, stride=2, padding=1)
    gamma = np.ones((6, 3, 5))
    for parameter in parameters:
        gamma = gamma * parameter.detach().numpy()
    y = conv(x)
    np.testing.assert_allclose(y.detach().numpy(), gamma * sums.numpy(), rtol=1e-13)
    y.backward(g)
    inner = (sums * g).sum(dim=0).numpy()
    for number, (parameter, shape) in enumerate(zip(parameters, shapes, strict=True)):
        others = np.ones((6, 3, 5))
        for place, other in enumerate(parameters):
            others = others * (other.detach().numpy() if place != number else 1.0)
        over = tuple(axis for axis in range(3) if shape[axis] == 1)
        derivative = (inner * others).sum(axis=over, keepdims=True)
        np.testing.assert_allclose(parameter.grad.numpy(), derivative, rtol=1e-10, atol=1e-12)  # type: ignore[union-attr]
