"""The device a user asks for by name, or an error that says which ones are there."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from binas.errors import UserError
from binas.run.distributed import local_rank, num_local_ranks, num_ranks


def pick_device(name: str = "auto") -> torch.device:
    """The device for `auto` (the first CUDA device, else the CPU), `cpu`, `cuda` or `cuda:1`.

    Ranks that train together take one CUDA device each, in their order on a machine.
    """
    if num_ranks() > 1 and name in ("auto", "cuda"):
        return _device_of_rank(name)
    kind, colon, index = name.partition(":")
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if kind != "cuda" or (colon and not (index.isascii() and index.isdigit())):
        raise UserError(f"device '{name}': write auto, cpu, cuda or cuda:N; {_what_is_there()}")
    if num_ranks() > 1:
        raise UserError(f"device '{name}': ranks cannot share one device; write cuda, or auto")
    if int(index or 0) >= _num_cuda():
        raise UserError(f"device '{name}': not there; {_what_is_there()}")
    return torch.device("cuda", int(index or 0))


def device_name(device: torch.device) -> str:
    """The product name of a device, for manifests and tables."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return _cpu_model() or platform.processor() or platform.machine()


def _device_of_rank(name: str) -> torch.device:
    if name == "auto" and _num_cuda() == 0:
        return torch.device("cpu")
    if local_rank() >= _num_cuda():
        raise UserError(
            f"device '{name}': {num_local_ranks()} ranks on this machine need a CUDA device each;"
            f" {_what_is_there()}; start as many ranks, or set device: cpu"
        )
    device = torch.device("cuda", local_rank())
    torch.cuda.set_device(device)  # which NCCL and torch's own defaults go by
    return device


def _num_cuda() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def wait_for(device: torch.device) -> None:
    """Returns when a device has done what it was given; the CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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
