"""Activations and channel gates of binary networks against closed forms in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from binas.arch.space import load_space
from binas.errors import UserError
from binas.ops import NONLINEARITIES, OPS, OpContext, build_op
from binas.ops.gating import ChannelGate, GatingConfig
from binas.ops.nonlinearities import RPReLU, build_nonlinearity

TABLE = np.array([-1.5, -1.0, -0.0, 0.0, 0.3, 1.0, 1.5])
FORMS: dict[str, tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]] = {
    "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0),
    "prelu": (lambda x: np.where(x > 0, x, 0.25 * x), lambda x: np.where(x > 0, 1, 0.25)),
    "rprelu": (lambda x: np.where(x > 0, x, 0.25 * x), lambda x: np.where(x > 0, 1, 0.25)),
    "hard_tanh": (lambda x: np.clip(x, -1, 1), lambda x: (np.abs(x) <= 1) * 1.0),
    "none": (lambda x: x, lambda x: np.ones_like(x)),
}


def test_the_names() -> None:
    assert {name for name in NONLINEARITIES if not NONLINEARITIES.origin(name)} == set(FORMS)


@pytest.mark.parametrize("name", FORMS)
def test_forward_and_gradient(name: str) -> None:
    value, slope = FORMS[name]
    x = torch.tensor(TABLE).view(1, 1, 1, -1).requires_grad_()
    y = build_nonlinearity(name, 1).double()(x)
    y.sum().backward()
    assert x.grad is not None
    assert np.array_equal(y.detach().numpy().ravel(), value(TABLE))
    assert np.array_equal(x.grad.numpy().ravel(), slope(TABLE))


def test_rprelu_has_the_papers_gradients() -> None:
    """Eqs. 7-10 of ReActNet for two channels with shifted kinks, one of them exactly at an input."""
    beta, gamma, zeta = np.array([0.25, 0.5]), np.array([0.3, -1.0]), np.array([0.125, -2.0])
    module = RPReLU(2).double()
    with torch.no_grad():
        module.beta.copy_(torch.tensor(beta))
        module.gamma.view(-1).copy_(torch.tensor(gamma))
        module.zeta.view(-1).copy_(torch.tensor(zeta))
    inputs = np.stack([TABLE, TABLE[::-1]])
    weights = np.arange(1.0, 15.0).reshape(2, 7)
    x = torch.tensor(inputs).view(1, 2, 1, 7).requires_grad_()
    y = module(x)
    (y * torch.tensor(weights).view(1, 2, 1, 7)).sum().backward()
    above = inputs > gamma[:, None]
    moved = inputs - gamma[:, None]
    expected = np.where(above, moved, beta[:, None] * moved) + zeta[:, None]
    np.testing.assert_array_equal(y.detach().numpy().reshape(2, 7), expected)
    slopes = np.where(above, 1, beta[:, None])
    found = {name: p.grad.numpy().ravel() for name, p in module.named_parameters() if p.grad is not None}
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy().reshape(2, 7), weights * slopes, rtol=1e-12)
    np.testing.assert_allclose(found["beta"], (weights * ~above * moved).sum(1), rtol=1e-12)
    np.testing.assert_allclose(found["gamma"], -(weights * slopes).sum(1), rtol=1e-12)
    np.testing.assert_allclose(found["zeta"], weights.sum(1), rtol=1e-12)


def test_the_gate_is_the_papers_formula() -> None:
    torch.manual_seed(0)
    gate = ChannelGate(6, 4, reduction=2).double()
    y, a = torch.randn(3, 4, 5, 5).double(), torch.randn(3, 6, 10, 10).double()
    w1, w2 = (layer.weight.detach().numpy() for layer in (gate.squeeze, gate.expand))
    assert w1.shape == (3, 6) and w2.shape == (4, 3)
    average = a.numpy().mean(axis=(2, 3))
    factors = 1 / (1 + np.exp(-(np.maximum(average @ w1.T, 0) @ w2.T)))
    expected = y.numpy() * factors[:, :, None, None]
    np.testing.assert_allclose(gate(y, a).detach().numpy(), expected, rtol=1e-12)


def test_a_gate_keeps_at_least_one_channel() -> None:
    assert ChannelGate(3, 3, reduction=8).squeeze.out_features == 1


@pytest.mark.parametrize("name", ["binary_conv_3x3", "binary_group_conv_3x3", "binary_separable_conv_3x3"])
@pytest.mark.parametrize("stride", [1, 2])
def test_operations_with_gate_and_rprelu(name: str, stride: int) -> None:
    context = OpContext(activation="rprelu", gating=GatingConfig(reduction=4))
    module = build_op(name, 8, stride, context)
    x = torch.randn(2, 8, 7, 9)
    y = module(x)
    assert y.shape == (2, 8, -(-7 // stride), -(-9 // stride))
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    assert sum(isinstance(part, ChannelGate) for part in module.modules()) == (
        4 if "separable" in name else 1
    )
    assert sum(isinstance(part, RPReLU) for part in module.modules()) == (4 if "separable" in name else 1)


def test_without_a_gate_there_is_none() -> None:
    plain = build_op("binary_conv_3x3", 8, 1, OpContext())
    assert not any(isinstance(part, ChannelGate) for part in plain.modules())
    assert "gating" not in " ".join(plain.state_dict())


def test_an_unknown_activation_is_told_with_the_nearest() -> None:
    space = load_space({"base": "binas", "activation": "rprelo"})
    with pytest.raises(UserError, match="unknown activation 'rprelo'; did you mean 'rprelu'"):
        space.check_operations()


def test_a_users_activation() -> None:
    with NONLINEARITIES.loading_from("test"):
        NONLINEARITIES.register("test_softsign")(lambda channels: nn.Softsign())
        NONLINEARITIES.register("test_wrong")(lambda channels: None)  # type: ignore[arg-type, return-value]
    try:
        space = load_space({"base": "binas", "activation": "test_softsign"})
        space.check_operations()
        assert space.registered_names() >= {"test_softsign", "sign", "xnor"}
        module = OPS["binary_conv_3x3"](4, 1, space.context(space.network))
        assert any(isinstance(part, nn.Softsign) for part in module.modules())
        with pytest.raises(UserError, match="gave NoneType"):
            build_nonlinearity("test_wrong", 4)
    finally:
        with NONLINEARITIES.loading_from("test"):
            pass
