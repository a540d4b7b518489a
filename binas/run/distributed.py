"""Several processes, called ranks, that train one model: who they are and what they tell each other.

A launcher such as torchrun starts them, each with the same command. Without one there is a single rank, and
nothing here does anything. Rank 0 alone writes and prints.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from binas.config import Config
from binas.errors import UserError

LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher tells each process by its environment."""
PATIENCE = timedelta(minutes=30)
"""How long a rank waits for the others; rank 0 writes and draws meanwhile."""


GO_ON = (
    "its own message, or the launcher's, says why. Resume the job: on any number of ranks it goes on"
    " after the last finished epoch"
)


class Distributed(Config):
    """How several ranks train together."""

    sync_batch_norm: bool = True
    """Whether batch-norm sees the images of all ranks, as one process would; false: those of its own."""


def launched_ranks() -> int:
    """How many ranks the launcher has started; 1 without one."""
    known = all(name in os.environ for name in LAUNCHED) and dist.is_available()
    return int(os.environ["WORLD_SIZE"]) if known else 1


def num_ranks() -> int:
    """How many ranks train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def number_of_ranks() -> dict[str, int]:
    """`ranks`, for logs; nothing where there is a single one."""
    return {"ranks": num_ranks()} if num_ranks() > 1 else {}


def rank() -> int:
    """Which of them this process is."""
    return dist.get_rank() if num_ranks() > 1 else 0


def is_first_rank() -> bool:
    """Whether this process writes and prints."""
    return rank() == 0


def local_rank() -> int:
    """Which of the ranks on this machine this process is."""
    return int(os.environ.get("LOCAL_RANK", "0")) if num_ranks() > 1 else 0


def num_local_ranks() -> int:
    """How many ranks share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if num_ranks() > 1 else 1


@contextmanager
def joined_ranks() -> Iterator[None]:
    """Inside, the ranks that a launcher has started know each other: gloo on the CPU, NCCL on CUDA.

    Raises:
        UserError: they cannot reach each other, or the launcher ends this one because another has ended.
    """
    if launched_ranks() == 1 or dist.is_initialized():
        yield
        return
    try:
        dist.init_process_group(timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(
            f"the ranks cannot reach each other at {where} ({_first_line(error)}); check the launcher's"
            " address and that every machine starts the same number of ranks"
        ) from None
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    except BaseException:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # this error is told, and the process ends
        raise
    # not after an error: the others may be gone
    wait_for_all()
    signal.signal(signal.SIGTERM, before)
    dist.destroy_process_group()


def _stop(number: int, frame: Any) -> None:
    raise UserError(
        f"stopped by the launcher: the job was cancelled, or another rank has ended; {GO_ON}", hint="resume"
    )


def wait_for_all() -> None:
    """Goes on when all ranks have come here."""
    all_reduce_sum(torch.zeros(1))


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum over all ranks, the same bits on each; in place."""
    if num_ranks() > 1:
        dist.all_reduce(values)
    return values


def all_reduce_min(number: int) -> int:
    """The smallest of the ranks' numbers."""
    if num_ranks() == 1:
        return number
    value = torch.tensor(number)
    dist.all_reduce(value, dist.ReduceOp.MIN)
    return int(value)


def broadcast_from_first(number: float) -> float:
    """The number of rank 0."""
    if num_ranks() == 1:
        return number
    value = torch.tensor(float(number), dtype=torch.float64)
    dist.broadcast(value, 0)
    return float(value)


def check_same(content: bytes, what: str, remedy: str) -> None:
    """Raises a `UserError` on every rank unless all have the same content.

    Args:
        what: it is, in words: "the images".
        remedy: what to do.
    """
    if num_ranks() == 1:
        return
    digest = torch.tensor(list(hashlib.blake2b(content, digest_size=16).digest()), dtype=torch.int64)
    low, high = digest.clone(), digest.clone()
    dist.all_reduce(low, dist.ReduceOp.MIN)
    dist.all_reduce(high, dist.ReduceOp.MAX)
    if not torch.equal(low, high):
        raise UserError(f"{what} are not the same on all {num_ranks()} ranks; {remedy}")


@contextmanager
def first_on_its_machine() -> Iterator[None]:
    """Lets one rank of each machine go before the others, for downloads and caches."""
    if local_rank() > 0:
        wait_for_all()
    yield
    if local_rank() == 0:
        wait_for_all()


def rank_error_text(error: Exception) -> str:
    """What to tell where another rank has gone; empty for other errors."""
    if num_ranks() == 1 or not isinstance(error, RuntimeError):
        return ""
    text = str(error).lower()
    lost = isinstance(error, dist.DistError) or any(
        word in text for word in ("gloo", "nccl", "closed by peer")
    )
    if not lost:
        return ""
    return f"another rank has ended or cannot be reached ({_first_line(error)}), so all end; {GO_ON}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
