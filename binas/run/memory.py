"""How much memory is there, how much a process has needed at most, and whether it has run out.

On CUDA the figures are those of the device, elsewhere those of the machine or of its container.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")
NOT_ENOUGH = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "could not create a memory",
    "alloc_failed",
)
"""What torch, oneDNN and CUDA's libraries say in a RuntimeError when they are given no memory."""


def available_bytes(device: torch.device) -> int | None:
    """What can still be allocated on a device, or None where the system does not tell."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # what torch has reserved and does not use is handed out first
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    found = [figure for figure in (_machine_available(), _container_available()) if figure is not None]
    return min(found) if found else None


def used_bytes(device: torch.device) -> int:
    """What is allocated now: by torch on CUDA, by the whole process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    _give_back_freed()
    return _status("VmRSS") or peak_bytes(device)


def peak_bytes(device: torch.device) -> int:
    """The most that was ever allocated: by torch on CUDA, by the whole process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # a child process inherits the figure of getrusage from its parent, that of the kernel's table not
    return _status("VmHWM") or _largest_resident()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory has run out, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in NOT_ENOUGH)


def format_bytes(count: float) -> str:
    """A number of bytes as a person reads it: `512 kB`, `3.4 MB`, `12 GB`; a thousand each."""
    size = abs(count) / 1e3
    unit = "kB"
    for larger in ("MB", "GB", "TB"):
        if size < 999.5:
            break
        size, unit = size / 1e3, larger
    sign = "−" if count < 0 else ""
    return f"{sign}{size:.3g} {unit}"


def _machine_available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)


def _container_available() -> int | None:
    """What a container may still take; its page cache is given back when it is needed."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        if limit == "max":
            return None
        cache = next(
            int(line.split()[1])
            for line in (CGROUP / "memory.stat").read_text().splitlines()
            if line.startswith("file ")
        )
        return max(int(limit) - int((CGROUP / "memory.current").read_text()) + cache, 0)
    except (OSError, ValueError, StopIteration):
        return None


def _status(key: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), None)


def _give_back_freed() -> None:
    """Has the C library return freed memory, which would count as in use and is used again."""
    with suppress(AttributeError, OSError, TypeError):  # glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def _largest_resident() -> int:
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
