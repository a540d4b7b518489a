"""What the inter-cell skip of reduction cells costs and brings: real, binary, or an average pool.

Random genotypes of the default space are trained with each of the three, one stage, fully binary, on 10,000
images of Fashion-MNIST at 14x14; the package's other 5,000 test. Rows are appended as they come.

    python tools/studies/reduction_skips.py
"""

from __future__ import annotations

import argparse
import random
import statistics
from pathlib import Path

import torch

import binas
from binas.arch.kinds import load_any_space
from binas.arch.sample import random_genotype
from binas.profile.count import count
from binas.run.device import device_name
from binas.run.files import write_atomic
from tools.measuring.measured import Rows, short_hash

ROWS = Path("benchmarks/reduction_skips.jsonl")
PAGE = Path("benchmarks/reduction_skips.md")
KINDS = ("real", "avg_pool", "binary")
SIZE = {"init_channels": 8, "num_cells": 5}


def main() -> None:
    """Trains what is missing, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--genotypes", type=int, default=3, help="each is its own seed (default: 3)")
    parser.add_argument("--epochs", type=int, default=6, help="of training (default: 6)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = binas.open_data("fashion_small", image_size=14)
    rows, made = Rows(ROWS), short_hash([SIZE, options.epochs])
    for number in range(options.genotypes):
        for kind in KINDS:
            key = f"{number} {kind}"
            if rows.find(key, made) is None:
                print(rows.add(key, made, trained(number, kind, options.epochs, data)), flush=True)
    page(list(rows))


def trained(number: int, kind: str, epochs: int, data: binas.Data) -> dict[str, object]:
    """One training as a row."""
    space = load_any_space({"base": "binas", "reduction_skip": kind, "network": SIZE})
    genotype = random_genotype(space, random.Random(number))
    stage = {"name": "fully_binary", "epochs": epochs, "optimizer": {"name": "adam", "learning_rate": 3e-3}}
    result = binas.run_retrain(
        genotype,
        data,
        config={"stages": [stage], "batch_size": 64, "validation_fraction": 0},
        seed=number,
        device="cpu",
    )
    profile = count(genotype, data.image_size, data.num_classes, data.channels)
    return {
        "number": number,
        "skip": kind,
        "genotype": genotype.hash(),
        "test_accuracy": round(binas.evaluate(result.network, data)["accuracy"], 4),
        "packed_bytes": profile.file_bytes,
        "binary_bytes": profile.binary_parameters / 8,
        "ops": profile.ops,
        "machine": f"{device_name(torch.device('cpu'))}, one thread, torch {torch.__version__}",
    }


def page(rows: list[dict[str, object]]) -> None:
    """Means over genotypes as a table."""
    lines = [
        "# Skips of reduction cells",
        "",
        "`python tools/studies/reduction_skips.py`: random genotypes of the space `binas` (8 channels,",
        "5 cells), Fashion-MNIST at 14x14, 10,000 training and 5,000 test images;",
        f"{rows[0]['machine']}.",
        "",
        "| skip | n | test accuracy | packed kB | of these 1-bit | OPs |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for kind in KINDS:
        own = [row for row in rows if row["skip"] == kind]
        reached = [float(str(row["test_accuracy"])) for row in own]
        packed = statistics.mean(float(str(row["packed_bytes"])) for row in own)
        binary = statistics.mean(float(str(row["binary_bytes"])) for row in own)
        ops = statistics.mean(float(str(row["ops"])) for row in own)
        lines.append(
            f"| {kind} | {len(own)} | {statistics.mean(reached):.4f} ± {statistics.stdev(reached):.4f} |"
            f" {packed / 1000:.1f} | {binary / packed:.0%} | {ops / 1e6:.2f} M |"
        )
    write_atomic(PAGE, "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
