"""The device a user asks for by name, or an error that says which ones are there."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from binas.errors import UserError


def pick_device(name: str = "auto") -> torch.device:
    """The device for `auto` (the first CUDA device, else the CPU), `cpu`, `cuda` or `cuda:1`."""
    kind, colon, index = name.partition(":")
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if kind != "cuda" or (colon and not (index.isascii() and index.isdigit())):
        raise UserError(f"device '{name}': write auto, cpu, cuda or cuda:N; {_what_is_there()}")
    if int(index or 0) >= _num_cuda():
        raise UserError(f"device '{name}': not there; {_what_is_there()}")
    return torch.device("cuda", int(index or 0))


def device_name(device: torch.device) -> str:
    """The product name of a device, for manifests and tables."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return _cpu_model() or platform.processor() or platform.machine()


def _num_cuda() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _what_is_there() -> str:
    found = [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(_num_cuda())]
    if found:
        return f"there are cpu, {', '.join(found)}"
    if torch.version.cuda is None:
        return "there is only cpu (this torch is built without CUDA)"
    return "there is only cpu (torch finds no CUDA device or driver)"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
