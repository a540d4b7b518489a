"""Options that undo what a paper found: order of layers in XNOR-Net, shortcuts of Bi-Real Net and ResNetE."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binas.binarize import Binarization, BinaryConv2d
from binas.config import build
from binas.models import ModelChoice, Task, build_model
from binas.models.dense import transition
from binas.models.residual import ResidualConv, ResidualPair
from binas.profile import profile_module

TASK = Task(1, (14, 14), 5, ())


def network(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_model(
        build(ModelChoice, {"name": name, "stem": "cifar", "width": 0.125, **options}, "test"), TASK
    )


def kinds(module: nn.Module) -> list[str]:
    short = {"BatchNorm2d": "B", "BinaryConv2d": "C", "MaxPool2d": "P", "ReLU": "A"}
    return [short[type(layer).__name__] for layer in module if type(layer).__name__ in short]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("order", "expected"),
    [("bacp", "BAP BCP BC BC BCP BC BC BA"), ("cbap", "BP CBP CB CB CBP CB CB A")],
)
def test_orders_of_alexnet(order: str, expected: str) -> None:
    alexnet = network("xnor_alexnet", order=order)
    assert "".join(kinds(alexnet)) == expected.replace(" ", "")
    assert alexnet(torch.randn(2, 1, 14, 14)).shape == (2, 5)


def test_both_orders_cost_the_same_convolutions() -> None:
    counts = [profile_module(network("xnor_alexnet", order=order), 1, (14, 14)) for order in ("bacp", "cbap")]
    assert counts[0].ops == counts[1].ops


@pytest.mark.parametrize("name", ["bireal_resnet18", "resnete18"])
def test_shortcuts(name: str) -> None:
    every, pair, none = (network(name, shortcuts=kind) for kind in ("every", "pair", "none"))
    count = [sum(isinstance(m, BinaryConv2d) for m in net.modules()) for net in (every, pair, none)]
    assert count == [16, 16, 16]
    assert sum(isinstance(m, ResidualConv) for m in every.modules()) == 16
    assert sum(isinstance(m, ResidualPair) for m in pair.modules()) == 8
    assert not any(isinstance(m, ResidualConv | ResidualPair) for m in none.modules())
    for net in (every, pair, none):
        y = net(torch.randn(2, 1, 14, 14))
        y.sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_a_pair_by_hand() -> None:
    torch.manual_seed(0)
    block = ResidualPair(Task(1, (8, 8), 5, (Binarization(),)), 4, 8, 2, "real").eval()
    x = torch.randn(2, 4, 8, 8)

    def convolved(x: Tensor, part: nn.Module) -> Tensor:
        conv, norm = part  # type: ignore[misc]
        weight = conv.weight - conv.weight.mean(dim=1, keepdim=True)
        scale = weight.abs().mean(dim=(1, 2, 3))[:, None, None]
        signs = [torch.where(t >= 0, 1.0, -1.0) for t in (x, weight)]
        return norm(scale * F.conv2d(*signs, stride=conv.stride, padding=1))  # type: ignore[no-any-return]

    first, second = block.body
    assert isinstance(first, nn.Module) and isinstance(second, nn.Module)
    expected = convolved(convolved(x, first), second) + block.shortcut(x)
    assert torch.allclose(block(x), expected, atol=1e-5)


def test_signs_of_binary_transitions_are_balanced() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 16, 8, 8)
    real, binary = (
        transition(Task(1, (8, 8), 5, (Binarization(),)), 16, 8, kind).train() for kind in ("real", "binary")
    )
    assert real(x).shape == binary(x).shape == (8, 8, 4, 4)
    pool, norm, conv = binary
    positive = float((norm(pool(x)) >= 0).float().mean())
    assert 0.4 < positive < 0.6
    maxima = nn.Sequential(norm, pool)(x)
    assert float((maxima >= 0).float().mean()) > 0.9  # what the other order would give
    assert isinstance(conv, BinaryConv2d)
