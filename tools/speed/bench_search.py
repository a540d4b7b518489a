"""How much faster a search step is than the obvious supernet of the tests, and how much less it needs.

One search step is an alpha step and a weight step. Both supernets take turns in one process, and the
median of the ratios counts; peak memory is that of a process of its own for each. `matmul_share` is the
work of the convolutions over what the machine's float32 matrix multiplication would do in our time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does, before torch is imported

import torch
from torch.nn import functional as F

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "tests"))  # the oracle lives with the tests

from oracles import supernet as oracles  # type: ignore[import-not-found]  # noqa: E402
from oracles.flipped_signs import flipped_signs  # type: ignore[import-not-found]  # noqa: E402

from binas.arch.alphas import Alphas  # noqa: E402
from binas.arch.space import load_space  # noqa: E402
from binas.arch.supernet import Supernet, all_candidates  # noqa: E402
from binas.engine.acceleration import Acceleration  # noqa: E402
from binas.run.device import pick_device  # noqa: E402
from binas.run.files import write_atomic  # noqa: E402
from binas.search.config import SearchConfig  # noqa: E402
from binas.search.regularizers.diversity import Diversity  # noqa: E402
from binas.search.step import BilevelStep  # noqa: E402
from tools.measuring.side_by_side import machine, measure, parser, peak_bytes, random_batch, report  # noqa: E402

SETTINGS: dict[str, dict[str, Any]] = {
    "bnas": {
        "space": {"base": "bnas"},
        "batch": 64,
        "images": (3, 32, 32),
        "words": "BNAS space, 16 channels, 8 cells, batch 64, 3×32×32",
    },
    "demo": {
        "space": {"base": "binas", "supernet": {"init_channels": 8, "num_cells": 3, "reductions": [1, 2]}},
        "batch": 128,
        "images": (1, 8, 8),
        "words": "demo_digits: binas space, 8 channels, 3 cells, batch 128, 1×8×8",
    },
}
TEMPERATURES = {"normal": 1.0, "reduce": 1.0}
DIVERSITY = 1.0


def main() -> int:
    """Measures all settings, prints a table, writes `benchmarks/`."""
    own = parser(__doc__.splitlines()[0] if __doc__ else None, list(SETTINGS), "search_speed.json")
    own.add_argument("--device", metavar="NAME", help="measure there instead: cuda, cuda:N or cpu")
    own.add_argument("--steps", type=int, default=1000, help="steps on that device (default: 1000)")
    own.add_argument("--mixed-precision", choices=("off", "float16", "bfloat16"), default="off")
    own.add_argument("--capture", choices=("auto", "off", "cuda_graphs", "compile"), default="auto")
    options = own.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        ours, oracle, _ = _steps(options.settings[0])
        print(peak_bytes(ours if options.peak == "ours" else oracle))
        return 0
    if options.device:
        return _on_device(options)
    rows = [_measured(name, options) for name in options.settings]
    report(rows, options.threads, options.json, {})
    return 0


def _measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    ours, oracle, models = _steps(name)
    flipped, signs = flipped_signs(*models, ours, oracle)
    setting = {"name": name, **SETTINGS[name]}
    return measure(setting, (ours, oracle), _as_torch, flipped / signs, options)


def _on_device(options: argparse.Namespace) -> int:
    from tools.speed.device_search import measure_on_device

    acceleration = Acceleration(mixed_precision=options.mixed_precision, capture=options.capture)
    device = pick_device(options.device)
    rows = [
        {"name": name, **measure_on_device(SETTINGS[name], device, options.steps, acceleration)}
        for name in options.settings
    ]
    document = {"machine": machine(options.threads), "settings": rows}
    file = options.json.replace("search_speed.json", f"search_speed_{device.type}.json")
    write_atomic(file, json.dumps(document, indent=1) + "\n")
    print(f"written: {file}")
    return 0


def _steps(name: str) -> tuple[Callable[[], Any], Callable[[], Any], tuple[torch.nn.Module, torch.nn.Module]]:
    setting = SETTINGS[name]
    torch.manual_seed(0)
    space = load_space(setting["space"])
    supernet = Supernet(space, setting["images"][0], 10).train()
    alphas = Alphas(space, all_candidates(space))
    config = SearchConfig()
    bilevel = BilevelStep(
        supernet,
        alphas,
        config.weights.build(supernet.parameters()),
        config.alphas.build(alphas.parameters()),
        config,
        TEMPERATURES,
        regularizers=(Diversity(DIVERSITY),),
    )
    oracle = oracles.oracle_from(supernet)
    weight_optimizer = config.weights.build(oracle.parameters())
    values = {kind: alphas.get_parameter(kind).detach().clone() for kind in TEMPERATURES}
    alpha_optimizer = config.alphas.build([torch.nn.Parameter(value) for value in values.values()])
    batches = [random_batch(setting, seed) for seed in (1, 2)]

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

    return ours, theirs, (supernet, oracle)


@contextmanager
def _as_torch() -> Iterator[None]:
    # the counter knows neither the int8 convolution nor the tables of sums
    in_float = patch("binas.kernels.edge_sum.edge_sum.is_available", return_value=False)
    with in_float, patch("binas.kernels.sum_tables.sum_tables.is_available", return_value=False):
        yield


if __name__ == "__main__":
    sys.exit(main())
