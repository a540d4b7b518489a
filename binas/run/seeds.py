"""Seeds derived from one number and a purpose, so that no random state is ever carried along.

Every source of randomness is keyed on (seed, purpose, epoch): an epoch that is run again after an
interruption draws the same numbers, and a draw more in one place changes nothing in another.
"""

from __future__ import annotations

import hashlib
import os
import random

import numpy as np
import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A number of 63 bits that depends on the seed and on every part of the purpose, in order."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (seed, *purpose):
        text = repr(part).encode()
        digest.update(len(text).to_bytes(8, "little") + text)
    return int.from_bytes(digest.digest(), "little") >> 1


def generator(device: torch.device | str, seed: int, *purpose: str | int) -> torch.Generator:
    """A generator of its own for one purpose: `generator("cpu", seed, "shuffle", epoch)`."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *purpose))


def seed_everything(seed: int, *purpose: str | int) -> None:
    """Seeds the global generators of torch (every device), NumPy and Python for one purpose.

    Called at the start of each epoch with its number, it covers code that takes no generator (dropout,
    a plug-in's own random numbers).
    """
    derived = derive_seed(seed, *purpose)
    torch.manual_seed(derived)
    np.random.seed(derived % 2**32)
    random.seed(derived)


def set_deterministic(device: torch.device) -> None:
    """Chooses repeatable algorithms for a device, for the whole process.

    On the CPU results repeat bit for bit with the same number of threads; an operation that cannot
    repeat raises an error. On CUDA cuBLAS and cuDNN are held to repeatable algorithms, and an operation
    that has none only warns: bit-identical results are not promised there. Call it before the first
    CUDA operation, since cuBLAS reads its setting once.
    """
    on_cuda = device.type == "cuda"
    if on_cuda:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=on_cuda)
    # filling every new tensor costs time and only hides reads of memory that nobody wrote
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
