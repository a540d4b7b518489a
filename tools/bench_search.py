"""How much faster a search step is than the obvious supernet of the tests, and how much less it needs.

One search step is an alpha step and a weight step. Both supernets take turns in one process, and the
median of the ratios counts; peak memory is that of a process of its own for each. `matmul_share` is the
work of the convolutions over what the machine's float32 matrix multiplication would do in our time.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does, before torch is imported

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT / "tests"))  # the oracle lives with the tests

from oracles import supernet as oracles  # type: ignore[import-not-found]  # noqa: E402

from binas import __version__  # noqa: E402
from binas.arch.alphas import Alphas  # noqa: E402
from binas.arch.space import load_space  # noqa: E402
from binas.arch.supernet import Supernet, all_candidates  # noqa: E402
from binas.run.device import device_name, pick_device  # noqa: E402
from binas.run.files import write_atomic  # noqa: E402
from binas.search.config import SearchConfig  # noqa: E402
from binas.search.step import BilevelStep  # noqa: E402
from binas.train.acceleration import Acceleration  # noqa: E402

SETTINGS: dict[str, dict[str, Any]] = {
    "bnas": {
        "space": {"base": "bnas"}, "batch": 64, "images": (3, 32, 32),
        "words": "BNAS space, 16 channels, 8 cells, batch 64, 3×32×32",
    },
    "demo": {
        "space": {"base": "binas", "supernet": {"init_channels": 8, "num_cells": 3, "reductions": [1, 2]}},
        "batch": 128, "images": (1, 8, 8),
        "words": "demo_digits: binas space, 8 channels, 3 cells, batch 128, 1×8×8",
    },
}  # fmt: skip
TEMPERATURES = {"normal": 1.0, "reduce": 1.0}
DIVERSITY = 1.0


def main() -> int:
    """Measures all settings, prints a table, writes `benchmarks/`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", metavar="FILE", default=str(CHECKOUT / "benchmarks/search_speed.json"))
    parser.add_argument("--runs", type=int, default=5, help="pairs of steps (default: 5)")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", metavar="NAME", help="measure there instead: cuda, cuda:N or cpu")
    parser.add_argument("--steps", type=int, default=1000, help="steps on that device (default: 1000)")
    parser.add_argument("--mixed-precision", choices=("off", "float16", "bfloat16"), default="off")
    parser.add_argument("--capture", choices=("auto", "off", "cuda_graphs", "compile"), default="auto")
    parser.add_argument("--peak", choices=("ours", "oracle"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(_peak_bytes(_steps(options.settings[0])[options.peak == "oracle"]))
        return 0
    if options.device:
        return _on_device(options)
    rows = [measure(name, options.runs, options.threads) for name in options.settings]
    columns = ("oracle s", "ours s", "faster", "oracle MB", "ours MB", "memory", "share")
    print(f"{'setting':<8}" + "".join(f"{column:>11}" for column in columns))
    for row in rows:
        cells = (
            f"{row['oracle_seconds']:.3f}",
            f"{row['ours_seconds']:.3f}",
            f"{row['time_ratio']:.2f}×",
            f"{row['oracle_peak_bytes'] / 1e6:.0f}",
            f"{row['ours_peak_bytes'] / 1e6:.0f}",
            f"{row['memory_ratio']:.2f}×",
            f"{row['matmul_share']:.2f}",
        )
        print(f"{row['name']:<8}" + "".join(f"{cell:>11}" for cell in cells))
    document = {"machine": _machine(options.threads), "settings": rows}
    write_atomic(options.json, json.dumps(document, indent=1) + "\n")
    print(f"written: {options.json}")
    return 0


def _on_device(options: argparse.Namespace) -> int:
    from device_search import measure_on_device

    acceleration = Acceleration(mixed_precision=options.mixed_precision, capture=options.capture)
    device = pick_device(options.device)
    rows = [
        {"name": name, **measure_on_device(SETTINGS[name], device, options.steps, acceleration)}
        for name in options.settings
    ]
    document = {"machine": _machine(options.threads), "settings": rows}
    file = options.json.replace("search_speed.json", f"search_speed_{device.type}.json")
    write_atomic(file, json.dumps(document, indent=1) + "\n")
    print(f"written: {file}")
    return 0


def measure(name: str, runs: int, threads: int) -> dict[str, Any]:
    """Time, memory and share of one setting."""
    ours, oracle = _steps(name)
    ours(), oracle()
    flop = _convolution_flop(ours)
    pairs = [(_seconds(oracle), _seconds(ours)) for _ in range(runs)]
    rate = _matmul_rate()
    seconds = statistics.median(mine for _, mine in pairs)
    peaks = {which: _peak_of(name, which, threads) for which in ("ours", "oracle")}
    return {
        "name": name,
        "words": SETTINGS[name]["words"],
        "time_ratio": round(statistics.median(theirs / mine for theirs, mine in pairs), 3),
        "time_ratios": [round(theirs / mine, 3) for theirs, mine in pairs],
        "memory_ratio": round(peaks["ours"] / peaks["oracle"], 3),
        "ours_seconds": round(seconds, 4),
        "oracle_seconds": round(statistics.median(theirs for theirs, _ in pairs), 4),
        "ours_peak_bytes": peaks["ours"],
        "oracle_peak_bytes": peaks["oracle"],
        "matmul_share": round(flop / (seconds * rate), 3),
        "convolution_flop": flop,
        "matmul_flop_per_second": round(rate),
        "runs": runs,
    }


def _steps(name: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    setting = SETTINGS[name]
    torch.manual_seed(0)
    space = load_space(setting["space"])
    supernet = Supernet(space, setting["images"][0], 10).train()
    alphas = Alphas(space, all_candidates(space))
    config = SearchConfig()
    bilevel = BilevelStep(
        supernet, alphas, config.weights.build(supernet.parameters()),
        config.alphas.build(alphas.parameters()), config, TEMPERATURES, DIVERSITY,
    )  # fmt: skip
    oracle = oracles.oracle_from(supernet)
    weight_optimizer = config.weights.build(oracle.parameters())
    values = {kind: alphas.get_parameter(kind).detach().clone() for kind in TEMPERATURES}
    alpha_optimizer = config.alphas.build([torch.nn.Parameter(value) for value in values.values()])
    batches = [_batch(setting, seed) for seed in (1, 2)]

    def ours() -> None:
        bilevel.alpha_step(batches[0])
        bilevel.weight_step(batches[1])

    def theirs() -> None:
        _, gradients = oracles.alpha_step(oracle, values, *batches[0], TEMPERATURES, DIVERSITY)
        for parameter, gradient in zip(
            alpha_optimizer.param_groups[0]["params"], gradients.values(), strict=True
        ):
            parameter.grad = gradient
        alpha_optimizer.step()
        weight_optimizer.zero_grad(set_to_none=True)
        weights = {kind: oracles.probabilities(values[kind], TEMPERATURES[kind]) for kind in values}
        F.cross_entropy(oracle(batches[1][0], weights), batches[1][1]).backward()  # type: ignore[no-untyped-call]
        weight_optimizer.step()

    return ours, theirs


def _batch(setting: dict[str, Any], seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(setting["batch"], *setting["images"], generator=generator)
    return images, torch.randint(0, 10, (setting["batch"],), generator=generator)


def _seconds(step: Callable[[], Any]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _convolution_flop(step: Callable[[], Any]) -> int:
    # the counter knows neither the int8 convolution nor the tables of sums
    in_float = patch("binas.ops.edge_sum.is_available", return_value=False)
    by_torch = patch("binas.ops.sum_tables.is_available", return_value=False)
    with in_float, by_torch, FlopCounterMode(display=False) as counter:
        step()
    totals = counter.get_flop_counts()["Global"]
    return sum(count for operator, count in totals.items() if "convolution" in str(operator))


def _matmul_rate(size: int = 2048, runs: int = 7) -> float:
    a, b = torch.randn(size, size), torch.randn(size, size)
    times = [_seconds(lambda: a @ b) for _ in range(runs)]
    return 2 * size**3 / statistics.median(times)


def _peak_of(name: str, which: str, threads: int) -> int:
    command = [sys.executable, __file__, "--settings", name, "--peak", which, "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


def _peak_bytes(step: Callable[[], Any]) -> int:
    """Largest resident memory of this process; the kernel's own count, as `getrusage` inherits a parent's."""
    step(), step()
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024


def _machine(threads: int) -> dict[str, Any]:
    return {
        "cpu": device_name(torch.device("cpu")),
        "threads": threads,
        "platform": platform.platform(),
        "torch": torch.__version__,
        "binas": __version__,
    }


if __name__ == "__main__":
    sys.exit(main())
