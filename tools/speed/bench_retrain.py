"""How much faster a retraining step is than the obvious network of the tests, and how much less it needs.

One step is forward, backward and the optimizer, for a published cell. Both networks take turns in one
process, and the median of the ratios counts. The images alone, augmented, are measured beside it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does, before torch is imported

import torch
from torch import nn
from torch.nn import functional as F

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "tests"))  # the oracle lives with the tests

from oracles import network as oracles  # type: ignore[import-not-found]  # noqa: E402
from oracles.flipped_signs import flipped_signs  # type: ignore[import-not-found]  # noqa: E402

from binas.arch.genotype import read_cells  # noqa: E402
from binas.arch.network import Network  # noqa: E402
from binas.config import find_file  # noqa: E402
from binas.data.batches import Batches  # noqa: E402
from binas.data.config import Augmentation  # noqa: E402
from binas.data.image_set import ImageSet  # noqa: E402
from binas.ops import OPS  # noqa: E402
from tools.measuring.side_by_side import measure, parser, peak_bytes, random_batch, report, seconds  # noqa: E402

SETTINGS: dict[str, dict[str, Any]] = {
    "bnas_a": {
        "genotype": "bnas_latest_cell_zeroise",
        "network": {},
        "batch": 64,
        "images": (3, 32, 32),
        "words": "latest_cell_zeroise, 36 channels, 20 cells, batch 64, 3×32×32",
    },
    "dense": {
        "genotype": "bnas_latest_cell",
        "network": {"init_channels": 16, "num_cells": 8},
        "batch": 64,
        "images": (3, 32, 32),
        "words": "latest_cell, 16 channels, 8 cells, batch 64, 3×32×32",
    },
    "small": {
        "genotype": "bnas_latest_cell",
        "batch": 64,
        "images": (1, 8, 8),
        "network": {"init_channels": 8, "num_cells": 3, "reductions": [1, 2]},
        "words": "latest_cell, 8 channels, 3 cells, batch 64, 1×8×8",
    },
}
PIPELINE_IMAGES = 20_000


def main() -> int:
    """Measures all settings and the images alone, prints a table, writes `benchmarks/`."""
    options = parser(
        __doc__.splitlines()[0] if __doc__ else None, list(SETTINGS), "retrain_speed.json"
    ).parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        ours, oracle, _ = _steps(options.settings[0])
        print(peak_bytes(ours if options.peak == "ours" else oracle))
        return 0
    rows = [_measured(name, options) for name in options.settings]
    rate = _images_per_second(options)
    print(f"images alone, 3×32×32, crop, flip, cutout, batch 64: {rate:,} images/s")
    report(rows, options.threads, options.json, {"images_per_second": rate})
    return 0


def _measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    ours, oracle, models = _steps(name)
    flipped, signs = flipped_signs(*models, ours, oracle)
    setting = {"name": name, **SETTINGS[name]}
    return measure(setting, (ours, oracle), _as_torch, flipped / signs, options)


def _steps(name: str) -> tuple[Callable[[], Any], Callable[[], Any], tuple[nn.Module, nn.Module]]:
    setting = SETTINGS[name]
    genotype = read_cells(Path(find_file(setting["genotype"], "genotypes")), OPS)
    space = dict(genotype.space)
    space["network"] = {**space["network"], **setting["network"]}
    torch.manual_seed(0)
    network = Network(genotype.model_copy(update={"space": space}), setting["images"][0], 10).train()
    oracle = oracles.oracle_from(network)
    x, y = random_batch(setting, 1)

    def step_of(module: nn.Module, forward: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], Any]:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=3e-6)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(forward(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return step

    return step_of(network, network), step_of(oracle, lambda x: oracle(x)[0]), (network, oracle)


@contextmanager
def _as_torch() -> Iterator[None]:
    with patch("binas.kernels.layouts.images_last.is_available", return_value=False):
        yield


def _images_per_second(options: argparse.Namespace) -> int:
    images = torch.randint(256, (PIPELINE_IMAGES, 3, 32, 32), dtype=torch.uint8)
    image_set = ImageSet(images, torch.zeros(PIPELINE_IMAGES, dtype=torch.int64))
    augmentation = Augmentation(crop_padding=4, flip=True, cutout=16)
    batches = Batches(image_set, 64, "cpu", (0.5,) * 3, (0.2,) * 3, augmentation=augmentation)
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    times = [seconds(lambda: list(map(len, batches.epoch(0))), clock) for _ in range(5)]
    return round(PIPELINE_IMAGES / statistics.median(times))


if __name__ == "__main__":
    sys.exit(main())
