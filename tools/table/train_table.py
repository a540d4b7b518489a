"""Trains random genotypes of a small space, each with several seeds: one row a training.

Rows are appended as they come, and what is there is not trained again, so that it can be stopped at any time
and several processes may share the work:

    python tools/table/train_table.py --worker 0/2 &  python tools/table/train_table.py --worker 1/2
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

import torch

import binas
from binas.arch.genotype import AnyGenotype
from binas.arch.kinds import genotype_network, load_any_space
from binas.arch.sample import random_genotype
from binas.data.batches import Batches
from binas.data.config import DataConfig
from binas.data.open_data import Data, open_data
from binas.engine.loop import evaluate, evaluation_batches
from binas.engine.loss import LossConfig
from binas.engine.optimizer import Curve, OptimizerConfig
from binas.profile.count import count
from binas.run.device import device_name, pick_device
from binas.run.seeds import set_deterministic
from binas.search.measured.schedule import Schedule
from binas.search.measured.trial import Trial
from tools.measuring.measured import Rows, short_hash

ROWS = Path("benchmarks/table/rows.jsonl")
SPACE = "binas_macro_small"
DATA = DataConfig(
    name="fashion_mnist", image_size=(14, 14), subset=15_000, search_validation_fraction=1 / 3, download=False
)
"""10,000 images train, 5,000 validate, the set's own 10,000 test."""
BATCH_SIZE = 64
SCHEDULE = Schedule(10, OptimizerConfig(name="adam", learning_rate=1e-2), Curve(), LossConfig())
JUDGED = (1, 2, 4, 6, 8, 10)
"""Epochs after which the search-validation images are looked at."""


SETTINGS = short_hash(
    [
        SPACE,
        DATA.model_dump(mode="json", exclude_defaults=True),
        BATCH_SIZE,
        SCHEDULE.epochs,
        SCHEDULE.optimizer.model_dump(mode="json", exclude_defaults=True),
    ]
)
"""What a training's row is made with."""


def main() -> None:
    """Trains what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--genotypes", type=int, default=160, help="how many are drawn (default: 160)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of training (default: 0 1)")
    parser.add_argument(
        "--worker", default="0/1", metavar="K/N", help="takes every N-th training from the K-th"
    )
    parser.add_argument("--rows", type=Path, default=ROWS, help=f"where rows are appended (default: {ROWS})")
    parser.add_argument("--minutes", type=float, help="begin no training after so long")
    parser.add_argument("--device", default="cpu", help="where networks are trained (default: cpu)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = pick_device(options.device)
    set_deterministic(device)
    images = Images(open_data(DATA), device)
    first, step = map(int, options.worker.split("/"))
    begun = time.perf_counter()
    rows = Rows(options.rows)
    jobs = [(genotype, seed) for genotype in drawn(options.genotypes) for seed in options.seeds]
    for place in range(first, len(jobs), step):
        genotype, seed = jobs[place]
        key = f"{genotype.hash()} {seed}"
        if rows.find(key, SETTINGS) is not None:
            continue
        if options.minutes and time.perf_counter() - begun > 60 * options.minutes:
            return
        found = {"number": place // len(options.seeds), **trained(genotype, seed, images)}
        row = rows.add(key, SETTINGS, found)
        print(
            f"{place + 1}/{len(jobs)}: {row['genotype']} seed {seed}: test {row['test'][1]:.4f}", flush=True
        )


class Images:
    """The three splits on a device."""

    def __init__(self, data: Data, device: torch.device) -> None:
        self.data, self.device = data, device
        self.train = Batches(data.train(), BATCH_SIZE, device, data.mean, data.std, drop_last=True)
        self.validation, self.test = (
            evaluation_batches(images, data, device) for images in (data.search_validation(), data.test())
        )


def drawn(number: int, space: str = SPACE, seed: int = 0) -> list[AnyGenotype]:
    """So many different random genotypes, in their order."""
    generator = random.Random(seed)
    found: dict[str, AnyGenotype] = {}
    whole = load_any_space(space)
    while len(found) < number:
        genotype = random_genotype(whole, generator)
        found.setdefault(genotype.hash(), genotype)
    return list(found.values())


def trained(genotype: AnyGenotype, seed: int, images: Images) -> dict[str, Any]:
    """A training from beginning to end as a row."""
    data, device = images.data, images.device
    profile = count(genotype, data.image_size, data.num_classes, data.channels)
    begun = time.perf_counter()
    trial = Trial(
        genotype.hash(),
        lambda: genotype_network(genotype, data.channels, data.num_classes).to(device),
        SCHEDULE,
        images.train,
        images.validation,
        seed,
    )
    for epoch in JUDGED:
        progress = trial.train(epoch)
    seconds = time.perf_counter() - begun
    found = evaluate(trial.network, images.test, SCHEDULE.loss)
    return {
        "genotype": genotype.hash(),
        "seed": seed,
        **{key: genotype.model_dump(mode="json")[key] for key in ("stem", "stages")},
        **{key: _rounded(value) for key, value in progress.to_plain().items()},
        "test": _rounded([found["loss"], found["accuracy"]]),
        "ops": profile.ops,
        "flops": profile.flops,
        "bops": profile.bops,
        "parameters": profile.parameters,
        "packed_bytes": profile.file_bytes,
        "seconds": round(seconds, 1),
        "machine": f"{device_name(device)}, one thread, torch {torch.__version__}",
        "binas": binas.__version__,
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
