"""What the speed benchmarks share: two versions of one step timed in turns, their memory, the machine.

Peak memory is that of a process of its own for each version: the tool starts itself with `--peak`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from binas import __version__
from binas.run.device import device_name
from binas.run.files import write_atomic

CHECKOUT = Path(__file__).resolve().parents[2]
Step = Callable[[], Any]
COLUMNS = {
    "oracle s": ("oracle_seconds", "{:.3f}", 1),
    "ours s": ("ours_seconds", "{:.3f}", 1),
    "faster": ("time_ratio", "{:.2f}×", 1),
    "oracle MB": ("oracle_peak_bytes", "{:.0f}", 1e-6),
    "ours MB": ("ours_peak_bytes", "{:.0f}", 1e-6),
    "memory": ("memory_ratio", "{:.2f}×", 1),
    "share": ("matmul_share", "{:.2f}", 1),
    "flipped": ("flipped_signs", "{:.1e}", 1),
}


def parser(description: str | None, settings: Sequence[str], file: str) -> argparse.ArgumentParser:
    """The options that both benchmarks have."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", metavar="FILE", default=str(CHECKOUT / "benchmarks" / file))
    made.add_argument("--runs", type=int, default=5, help="pairs of steps (default: 5)")
    made.add_argument("--settings", nargs="+", choices=settings, default=list(settings))
    made.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    made.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: of this process, for a busy machine"
    )
    made.add_argument("--peak", choices=("ours", "oracle"), help=argparse.SUPPRESS)
    return made


def measure(
    setting: Mapping[str, Any],
    steps: tuple[Step, Step],
    as_torch: Callable[[], AbstractContextManager[Any]],
    flipped_signs: float,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Time, memory and share of one setting.

    Args:
        setting: with `name` and `words`.
        steps: ours and the oracle's.
        as_torch: inside, our convolutions are torch's, so that they are counted.
        flipped_signs: part of the binarized activations whose sign differs between the two.
        options: of `parser`.
    """
    ours, oracle = steps
    ours(), oracle()
    with as_torch(), FlopCounterMode(display=False) as counter:
        ours()
    totals = counter.get_flop_counts()["Global"]
    flop = sum(count for operator, count in totals.items() if "convolution" in str(operator))
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    pairs = [(seconds(oracle, clock), seconds(ours, clock)) for _ in range(options.runs)]
    rate = _matmul_rate(clock)
    mine = statistics.median(ours_seconds for _, ours_seconds in pairs)
    peaks = {which: _peak_of(setting["name"], which, options.threads) for which in ("ours", "oracle")}
    ratios = [theirs / ours_seconds for theirs, ours_seconds in pairs]
    return {
        "name": setting["name"],
        "words": setting["words"],
        "time_ratio": round(statistics.median(ratios), 3),
        "time_ratios": [round(ratio, 3) for ratio in ratios],
        "memory_ratio": round(peaks["ours"] / peaks["oracle"], 3),
        "ours_seconds": round(mine, 4),
        "oracle_seconds": round(statistics.median(theirs for theirs, _ in pairs), 4),
        "ours_peak_bytes": peaks["ours"],
        "oracle_peak_bytes": peaks["oracle"],
        "matmul_share": round(flop / (mine * rate), 3),
        "flipped_signs": flipped_signs,
        "convolution_flop": flop,
        "matmul_flop_per_second": round(rate),
        "runs": options.runs,
        "clock": options.clock,
    }


def report(rows: Sequence[Mapping[str, Any]], threads: int, file: str, more: Mapping[str, Any]) -> None:
    """Prints the table of settings and writes it to a file, with `more` beside it."""
    print(f"{'setting':<10}" + "".join(f"{column:>11}" for column in COLUMNS))
    for row in rows:
        cells = [text.format(row[key] * factor) for key, text, factor in COLUMNS.values()]
        print(f"{row['name']:<10}" + "".join(f"{cell:>11}" for cell in cells))
    document = {"machine": machine(threads), "settings": list(rows), **more}
    write_atomic(file, json.dumps(document, indent=1) + "\n")
    print(f"written: {file}")


def random_batch(setting: Mapping[str, Any], seed: int) -> tuple[Tensor, Tensor]:
    """`batch` normal images of the size `images`, and labels of 10 classes."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(setting["batch"], *setting["images"], generator=generator)
    return images, torch.randint(0, 10, (setting["batch"],), generator=generator)


def seconds(step: Step, clock: Callable[[], float] = time.perf_counter) -> float:
    """How long a step takes by a clock."""
    start = clock()
    step()
    return clock() - start


def _matmul_rate(clock: Callable[[], float], size: int = 2048, runs: int = 7) -> float:
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / statistics.median(seconds(lambda: a @ b, clock) for _ in range(runs))


def _peak_of(name: str, which: str, threads: int) -> int:
    command = [sys.executable, sys.argv[0], "--settings", name, "--peak", which, "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


def peak_bytes(step: Step) -> int:
    """Largest resident memory of this process; the kernel's own count, as `getrusage` inherits a parent's."""
    step(), step()
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024


def machine(threads: int) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": device_name(torch.device("cpu")),
        "threads": threads,
        "platform": platform.platform(),
        "torch": torch.__version__,
        "binas": __version__,
    }
