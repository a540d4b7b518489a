"""From a search to a 1-bit program on real digits, for one or several seeds: `make demo`.

Search → retrain → eval → check → draw → export → the program beside the network on the test images → bench.

Every command is the real `binas` command, as a user would type it. A random genotype of the same space is
retrained beside it with the same budget; it and the search run side by side, one CPU thread each.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from binas.data.config import DataConfig
from binas.data.open_data import open_data
from binas.deploy.runtime import load
from binas.recipe import load_recipe
from binas.run.files import write_atomic

CHECKOUT = Path(__file__).resolve().parent.parent
RUNS = Path("runs/demo")
CONFIG = "configs/demo_digits.yaml"


def main() -> int:
    """Runs all seeds, prints the table and writes `runs/demo/summary.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run for each (default: 0)")
    seeds = parser.parse_args().seeds
    start = time.perf_counter()
    rows = [run_seed(seed) for seed in seeds]
    first = RUNS / f"seed{seeds[0]}"
    summary = {
        "seeds": seeds,
        "test_accuracy": [row["searched"]["accuracy"] for row in rows],
        "random_test_accuracy": [row["random"]["accuracy"] for row in rows],
        "program_test_accuracy": [row["searched"]["program_accuracy"] for row in rows],
        "model_bytes": [row["searched"]["model_bytes"] for row in rows],
        "milliseconds": [row["searched"]["milliseconds"] for row in rows],
        "torch_milliseconds": [row["searched"]["torch_milliseconds"] for row in rows],
        "seconds": round(time.perf_counter() - start, 1),
        "genotype": str(first / "search" / "genotype.json"),
        "drawing": str(first / "cells.svg"),
    }
    write_atomic(CHECKOUT / RUNS / "summary.json", json.dumps(summary, indent=2) + "\n")
    print(table(rows))
    print(f"\nfiles of seed {seeds[0]}:")
    names = ("search/genotype.json", "cells.svg", "retrain/checkpoint.pt", "retrain/model.binas")
    for name in (*names, "search/metrics.jsonl"):
        print(f"  {first / name}")
    print(f"  {RUNS / 'summary.json'}\n{summary['seconds']} s for {len(seeds)} seed(s)")
    return 0


def run_seed(seed: int) -> dict[str, Any]:
    """One seed: what was found, what it costs and what it reaches, searched and random."""
    folder = RUNS / f"seed{seed}"
    shutil.rmtree(CHECKOUT / folder, ignore_errors=True)
    name = str(folder.relative_to("runs"))
    print(f"seed {seed}: searching; beside it a random genotype is drawn and retrained", flush=True)
    random_search = f"{name}/random_search"
    binas("search", CONFIG, "--strategy", "random", "--seed", str(seed), "--name", random_search, quiet=True)
    control = start_retrain(folder / "random_search", f"{name}/random", seed)
    try:
        binas("search", CONFIG, "--seed", str(seed), "--name", f"{name}/search")
        searched = start_retrain(folder / "search", f"{name}/retrain", seed)
    except BaseException:
        control.kill()
        raise
    for process, what in ((searched, "searched"), (control, "random")):
        output = process.communicate()[0]
        if process.returncode:
            raise SystemExit(f"retraining the {what} genotype failed:\n{output}")
        print(f"{what}: {output.strip().splitlines()[-3]}", flush=True)
    binas("check", str(folder / "retrain" / "checkpoint.pt"), quiet=True)
    binas("draw", str(folder / "search" / "genotype.json"), "--output", str(folder / "cells.svg"), quiet=True)
    return {
        "seed": seed,
        "searched": result(folder / "retrain", folder / "search"),
        "random": result(folder / "random", folder / "random_search"),
    }


def binas(*words: str, quiet: bool = False) -> str:
    """Runs one command in the checkout; its standard output is returned where it is not shown."""
    command = [sys.executable, "-m", "binas", *words]
    done = subprocess.run(command, cwd=CHECKOUT, text=True, stdout=subprocess.PIPE if quiet else None)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout or ''}")
    return done.stdout or ""


def start_retrain(search: Path, name: str, seed: int) -> subprocess.Popen[str]:
    """Starts the retraining of a search's genotype in the background."""
    words = ["retrain", "--config", CONFIG, "--genotype", str(search / "genotype.json")]
    command = [sys.executable, "-m", "binas", *words, "--seed", str(seed), "--name", name]
    return subprocess.Popen(
        command, cwd=CHECKOUT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def result(retrain: Path, search: Path) -> dict[str, Any]:
    """What a retrained genotype reaches on the test images, and what it costs."""
    checkpoint = str(retrain / "checkpoint.pt")
    evaluated = json.loads(binas("eval", checkpoint, "--json", quiet=True))
    profile = json.loads(binas("profile", checkpoint, "--json", "-", quiet=True))
    packed = profile["storage"]["packed_bytes"] + profile["storage"]["scale_bytes"]
    about = {"parameters": profile["parameters"], "ops": profile["ops"], "packed_bytes": packed}
    return {**evaluated, **about, **shipped(retrain)}


def shipped(retrain: Path) -> dict[str, Any]:
    """The 1-bit program of a retrained network: its file, its test accuracy, its time beside torch."""
    checkpoint, file = str(retrain / "checkpoint.pt"), retrain / "model.binas"
    binas("export", checkpoint, "--output", str(file), "--images", "0", quiet=True)
    bench = json.loads(binas("bench", checkpoint, "--against", "torch", "--json", "-", quiet=True))
    ours, torch_ms = (timing["median"] for timing in bench["runtimes"].values())
    return {
        "model_bytes": (CHECKOUT / file).stat().st_size,
        "program_accuracy": program_accuracy(CHECKOUT / file),
        "milliseconds": ours,
        "torch_milliseconds": torch_ms,
        "times_torch": torch_ms / ours,
    }


def program_accuracy(file: Path) -> float:
    """What a 1-bit program reaches on the test images, which it gets as pictures."""
    data = open_data(DataConfig.model_validate(load_recipe(CONFIG, {}).data.model_dump()))
    test, program = data.test(), load(file)
    images, labels = test.read(torch.arange(len(test))), test.labels.tolist()
    found = [program(image.permute(1, 2, 0).numpy()).index for image in images]
    right: int = sum(one == label for one, label in zip(found, labels, strict=True))
    return right / len(found)


def table(rows: list[dict[str, Any]]) -> str:
    """Searched and random genotypes of every seed, a line each."""
    names = f"{'seed':>4}  {'cells':<8}  {'genotype':<16}  {'MOPs':>6}  {'parameters':>10}  {'file kB':>8}"
    lines = [f"\n{names}  {'ms':>6}  {'× torch':>7}  {'program':>7}  test accuracy"]
    for row in rows:
        for kind in ("searched", "random"):
            found = row[kind]
            lines.append(
                f"{row['seed']:>4}  {kind:<8}  {found['genotype']:<16}  {found['ops'] / 1e6:>6.2f}"
                f"  {found['parameters']:>10,}  {found['model_bytes'] / 1e3:>8.1f}"
                f"  {found['milliseconds']:>6.3f}  {found['times_torch']:>7.1f}"
                f"  {found['program_accuracy']:>7.4f}  {found['accuracy']:.4f}"
            )
    lines.append(
        "\nprogram: accuracy of the exported 1-bit program on the same test images; ms and × torch: one image"
        "\non one thread, the program beside the same network in torch, taking turns"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
