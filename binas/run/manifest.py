"""What a run was made of: versions, machine, commit, command line, seed, data splits, plug-ins."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import binas
from binas.run.device import device_name


def describe_run(
    *,
    seed: int,
    device: torch.device,
    splits: Mapping[str, str] | None = None,
    plugins: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The part of a manifest that is known when a run starts.

    Args:
        splits: the hash of each data split by its name.
        plugins: of each plug-in that was loaded its file name, its SHA-256 and what it registers.
    """
    return {
        "started": now(),
        **describe_process(),
        "seed": seed,
        "device": str(device),
        "device_name": device_name(device),
        "platform": platform.platform(),
        "num_cpus": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "splits": dict(splits or {}),
        "plugins": [dict(plugin) for plugin in plugins],
    }


def describe_process() -> dict[str, Any]:
    """What may differ when the same run is resumed: the command, the code and the libraries."""
    return {
        "command": shlex.join(sys.argv),
        "commit": checkout_commit(),
        "versions": {
            "binas": binas.__version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            **{name: _version(name) for name in ("torchvision", "numpy")},
        },
    }


def checkout_commit(package: Path | None = None) -> dict[str, Any] | None:
    """The commit of the checkout that the package runs from and whether it has changes, or None.

    A package that is installed inside somebody else's checkout is not tracked there and gives None.
    """
    package = package or Path(binas.__file__).parent
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _git(package, "rev-parse", "HEAD")
    changes = _git(package, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None else {"hash": commit, "dirty": bool(changes)}


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(folder: Path, *arguments: str) -> str | None:
    # a variable such as GIT_DIR, set inside hooks, would point to another repository
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
            env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
