"""Scores the genotypes of the table by supernets of single paths: a row for each supernet and genotype.

Each supernet has a seed of its own and sees what the table's trainings see. Rows are appended as they come,
and what is there is not scored again.

    python tools/table/score_table.py --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch

from binas.arch.extremes import extremes
from binas.arch.kinds import load_any_space
from binas.arch.path_supernet import path_supernet
from binas.data.open_data import open_data
from binas.engine.optimizer import OptimizerConfig
from binas.run.device import pick_device
from binas.run.seeds import seed_everything, set_deterministic
from binas.search.measured.draw import FairDraw
from binas.search.measured.ranking import Ranking
from binas.search.measured.supernet_training import SupernetSettings, SupernetTraining
from tools.measuring.measured import Rows, short_hash
from tools.table.train_table import DATA, SCHEDULE, SETTINGS, SPACE, Images, drawn

ROWS = Path("benchmarks/table/scores.jsonl")


def main() -> None:
    """Scores what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="of supernets (default: 0 1 2)"
    )
    parser.add_argument("--genotypes", type=int, default=160, help="as of train_table.py (default: 160)")
    parser.add_argument("--epochs", type=int, default=30, help="of the supernet (default: 30)")
    parser.add_argument("--rate", type=float, default=5e-3, help="of Adam (default: 5e-3)")
    parser.add_argument("--paths", type=int, default=1, help="genotypes in a step (default: 1)")
    parser.add_argument("--sandwich", action="store_true", help="teach by the largest network")
    parser.add_argument("--binary-weights", action="store_true", help="train and score with binary weights")
    parser.add_argument("--calibration", type=int, default=8, help="batches for statistics (default: 8)")
    parser.add_argument("--judged", type=int, default=5000, help="validation images (default: 5000)")
    parser.add_argument("--rows", type=Path, default=ROWS, help=f"where rows are appended (default: {ROWS})")
    parser.add_argument("--device", default="cpu", help="where supernets are trained (default: cpu)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = pick_device(options.device)
    set_deterministic(device)
    images = Images(open_data(DATA), device)
    for seed in options.seeds:
        score(seed, options, images)


def score(seed: int, options: argparse.Namespace, images: Images) -> None:
    """Trains a supernet and scores with it."""
    data, space = images.data, load_any_space(SPACE)
    settings = {
        "epochs": options.epochs,
        "rate": options.rate,
        "paths": options.paths,
        "sandwich": options.sandwich,
        "binary_weights": options.binary_weights,
    }
    rows, made = Rows(options.rows), short_hash([SETTINGS, settings])
    keyed = {f"{genotype.hash()} supernet {seed}": genotype for genotype in drawn(options.genotypes)}
    left = {key: genotype for key, genotype in keyed.items() if rows.find(key, made) is None}
    if not left:
        return
    train = images.train
    seed_everything(seed, "path supernet weights")
    binary = options.binary_weights
    supernet = path_supernet(space, data.channels, data.num_classes, binarize_weights=binary)
    supernet.to(images.device)
    training = SupernetTraining(
        supernet,
        SupernetSettings(
            replace(
                SCHEDULE,
                epochs=options.epochs,
                optimizer=OptimizerConfig(name="adam", learning_rate=options.rate),
            ),
            options.paths,
            extremes(space) if options.sandwich else None,
        ),
        lambda generator: FairDraw(space, generator),
        train,
        seed,
        {"seed": seed, **settings},
        file=options.rows.with_name(f"supernet_{'_'.join(map(str, settings.values()))}_{seed}.pt"),
    )
    begun = time.perf_counter()
    while training.epoch < options.epochs:
        found = training.train_epoch().means
        print(
            f"supernet {seed}, epoch {training.epoch}: {found}, {time.perf_counter() - begun:.0f} s",
            flush=True,
        )
    judged = images.validation.first(options.judged)
    ranking = Ranking(
        supernet, train, options.calibration, judged, SCHEDULE.loss, seed, binarize_weights=binary
    )
    for key, genotype in left.items():
        found_score = ranking(genotype)
        row = {
            "supernet": seed,
            "genotype": genotype.hash(),
            **settings,
            "loss": round(found_score.loss, 5),
            "accuracy": round(found_score.accuracy, 4),
        }
        rows.add(key, made, row)


if __name__ == "__main__":
    main()
