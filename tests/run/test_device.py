"""Devices by name, on machines with and without CUDA."""

import pytest
import torch

from binas.errors import UserError
from binas.run.device import device_name, pick_device


def pretend(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Card {index}")


@pytest.mark.parametrize(
    ("name", "count", "expected"),
    [
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda:0"),
        ("cpu", 2, "cpu"),
        ("cuda", 1, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_found(monkeypatch: pytest.MonkeyPatch, name: str, count: int, expected: str) -> None:
    pretend(monkeypatch, count)
    assert pick_device(name) == torch.device(expected)


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("cuda", 0, r"device 'cuda': not there; there is only cpu"),
        ("cuda:2", 2, r"'cuda:2': not there; there are cpu, cuda:0 \(Card 0\), cuda:1 \(Card 1\)"),
        ("gpu", 1, r"'gpu': write auto, cpu, cuda or cuda:N; there are cpu, cuda:0"),
        ("cuda:", 1, "write auto"),
        ("cuda:-1", 1, "write auto"),
        ("cuda:²", 1, "write auto"),
        ("cpu:1", 1, "write auto"),
        ("", 0, "write auto"),
    ],
)
def test_not_found(monkeypatch: pytest.MonkeyPatch, name: str, count: int, message: str) -> None:
    pretend(monkeypatch, count)
    with pytest.raises(UserError, match=message):
        pick_device(name)


def test_the_cpu_has_a_name() -> None:
    assert device_name(torch.device("cpu"))


@pytest.mark.gpu
def test_the_gpu_has_a_name() -> None:
    assert device_name(pick_device("cuda"))
