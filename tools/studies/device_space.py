"""The space binas_device beside the default one: accuracy at equal training, and what programs take.

Random genotypes of each space are trained alike, one stage, fully binary, on 10,000 images of Fashion-MNIST
at 14x14; the package's other 5,000 test. Their networks are exported, and the programs timed. Rows are
appended as they come.

    python tools/studies/device_space.py
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import binas
from binas.arch.kinds import load_any_space
from binas.arch.sample import random_genotype
from binas.deploy.bench import measured
from binas.deploy.export import export_module
from binas.deploy.footprint import footprint_of
from binas.deploy.runtime import Loaded
from binas.profile.count import count
from binas.run.device import device_name
from binas.run.files import write_atomic
from tools.measuring.measured import Rows, short_hash

ROWS = Path("benchmarks/device_space.jsonl")
PAGE = Path("benchmarks/device_space.md")
SPACES: dict[str, dict[str, Any]] = {
    "binas, 16 channels": {"base": "binas", "network": {"init_channels": 16, "num_cells": 5}},
    "binas_device, 16 channels": {
        "base": "binas_device",
        "network": {"init_channels": 16, "num_cells": 5},
    },
}
BATCH_SIZE, RATE = 64, 3e-3


def main() -> None:
    """Trains what is missing, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--genotypes", type=int, default=3, help="each is its own seed (default: 3)")
    parser.add_argument("--epochs", type=int, default=5, help="of training (default: 5)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = binas.open_data("fashion_small", image_size=14)
    rows, made = Rows(ROWS), short_hash([SPACES, options.epochs, BATCH_SIZE, RATE])
    for number in range(options.genotypes):
        for name in SPACES:
            key = f"{number} {name}"
            if rows.find(key, made) is None:
                print(rows.add(key, made, trained(number, name, options.epochs, data)), flush=True)
    page(list(rows), options.epochs)


def trained(number: int, name: str, epochs: int, data: binas.Data) -> dict[str, Any]:
    """One training and its program as a row."""
    genotype = random_genotype(load_any_space(SPACES[name]), random.Random(number))
    stage = {
        "name": "fully_binary",
        "epochs": epochs,
        "optimizer": {"name": "adam", "learning_rate": RATE},
    }
    begun = time.perf_counter()
    result = binas.run_retrain(
        genotype,
        data,
        config={"stages": [stage], "batch_size": BATCH_SIZE, "validation_fraction": 0},
        seed=number,
        device="cpu",
    )
    seconds = time.perf_counter() - begun
    profile = count(genotype, data.image_size, data.num_classes, data.channels)
    image = torch.zeros(1, data.channels, *data.image_size)
    model = export_module(result.network, image)
    takes, loaded = footprint_of(model), Loaded(model)
    pixels = image[0].permute(1, 2, 0).numpy()
    timing = measured({"program": lambda: loaded.scores(pixels)}, 20)["program"]
    return {
        "number": number,
        "space": name,
        "genotype": genotype.hash(),
        "test_accuracy": round(binas.evaluate(result.network, data)["accuracy"], 4),
        **takes.to_json(),
        "milliseconds": round(timing.median, 4),
        "ops": profile.ops,
        "parameters": profile.parameters,
        "seconds": round(seconds, 1),
        "machine": f"{device_name(torch.device('cpu'))}, one thread, torch {torch.__version__}",
        "runs_on": loaded.runs_on,
    }


def page(rows: list[dict[str, Any]], epochs: int) -> None:
    """Means over genotypes as a table."""
    lines = [
        "# A space for devices",
        "",
        "`python tools/studies/device_space.py`: random genotypes of each space, 5 cells, Fashion-MNIST at",
        f"14x14, 10,000 training and 5,000 test images, {epochs} epochs, fully binary. Programs, one thread,",
        f"{rows[0]['runs_on']}; {rows[0]['machine']}.",
        "",
        "| space | n | test accuracy | file kB | of these signs | memory kB | ms | OPs |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in SPACES:
        own = [row for row in rows if row["space"] == name]
        reached = [row["test_accuracy"] for row in own]
        mean = {
            key: statistics.mean(row[key] for row in own)
            for key in ("export_bytes", "export_sign_bytes", "activation_bytes", "milliseconds", "ops")
        }
        spread = f" ± {statistics.stdev(reached):.4f}" if len(own) > 1 else ""
        lines.append(
            f"| {name} | {len(own)} | {statistics.mean(reached):.4f}{spread} |"
            f" {mean['export_bytes'] / 1000:.1f} | {mean['export_sign_bytes'] / mean['export_bytes']:.0%} |"
            f" {mean['activation_bytes'] / 1000:.1f} | {mean['milliseconds']:.3f} |"
            f" {mean['ops'] / 1e6:.2f} M |"
        )
    write_atomic(PAGE, "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
