"""From a search to a 1-bit program on real images of clothes, for one or several seeds: `make demo`.

Search → front → retrain → eval → check → draw → export → the program on the test images → bench.

Every command is the real `binas` command, as a user would type it. Beside it, on the other core, runs random
search: it spends the same budget on random genotypes trained alone and keeps its own best by validation. A
logistic regression on the same pixels says what is easy.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression

from binas.data.image_set import ImageSet, StreamedImageSet
from binas.data.open_data import open_data
from binas.deploy.runtime import load
from binas.draw.front import Series, draw_front
from binas.profile.pareto import Point, hypervolume
from binas.recipe import load_recipe
from binas.run.files import write_atomic

CHECKOUT = Path(__file__).resolve().parent.parent
RUNS = Path("runs/demo")
CONFIG = "configs/demo_fashion.yaml"
RANDOM = {"supernet_epochs": 0, "score": "none", "finalists": 0, "random_finalists": 11, "rungs": [3]}
"""Random search as options of the same strategy: as many whole trainings as the search's budget holds."""
FEWER = ("--data.subset", "6000")
"""Training images of both searches; what is recommended is trained on all."""
OWN_SEED = 1000
"""Added to a seed, so that random search does not draw what the search draws."""


def main() -> int:
    """Runs all seeds, prints the table and writes `runs/demo/summary.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run for each (default: 0)")
    seeds = parser.parse_args().seeds
    start = time.perf_counter()
    easy = logistic_regression()
    print(f"logistic regression on the same training images: test accuracy {easy:.4f}", flush=True)
    rows = [run_seed(seed) for seed in seeds]
    first = RUNS / f"seed{seeds[0]}"
    summary = {
        "seeds": seeds,
        "test_accuracy": [row["searched"]["accuracy"] for row in rows],
        "random_test_accuracy": [row["random"]["accuracy"] for row in rows],
        "logistic_regression_accuracy": easy,
        "program_test_accuracy": [row["searched"]["program_accuracy"] for row in rows],
        **{key: [row["searched"][key] for row in rows] for key in ("ops", "packed_bytes", "model_bytes")},
        **{f"random_{key}": [row["random"][key] for row in rows] for key in ("ops", "packed_bytes")},
        "hypervolume": [row["hypervolume"]["searched"] for row in rows],
        "random_hypervolume": [row["hypervolume"]["random"] for row in rows],
        "multiply_accumulates": [row["work"]["searched"] for row in rows],
        "random_multiply_accumulates": [row["work"]["random"] for row in rows],
        "milliseconds": [row["searched"]["milliseconds"] for row in rows],
        "torch_milliseconds": [row["searched"]["torch_milliseconds"] for row in rows],
        "float32_bytes": [row["searched"]["float32_bytes"] for row in rows],
        "seconds": round(time.perf_counter() - start, 1),
        "genotype": str(first / "search" / "genotype.json"),
        "front": str(first / "front.png"),
        "drawing": str(first / "stages.svg"),
    }
    write_atomic(CHECKOUT / RUNS / "summary.json", json.dumps(summary, indent=2) + "\n")
    print(f"{table(rows)}\n\n{verdict(rows, easy)}")
    print(f"\nfiles of seed {seeds[0]}:")
    names = (
        "front.png",
        "search/genotype.json",
        "stages.svg",
        "retrain/checkpoint.pt",
        "retrain/model.binas",
    )
    for name in (*names, "search/front.json"):
        print(f"  {first / name}")
    print(f"  {RUNS / 'summary.json'}\n{summary['seconds']} s for {len(seeds)} seed(s)")
    return 0


def run_seed(seed: int) -> dict[str, Any]:
    """One seed: what was found, what it costs and what it reaches, searched and random."""
    folder = RUNS / f"seed{seed}"
    shutil.rmtree(CHECKOUT / folder, ignore_errors=True)
    name = str(folder.relative_to("runs"))
    print(f"seed {seed}: searching; beside it, random search spends the same budget", flush=True)
    options = [w for key, value in RANDOM.items() for w in (f"--search.strategy.{key}", json.dumps(value))]
    own = ["--seed", str(OWN_SEED + seed), "--name", f"{name}/random_search"]
    control = start("search", CONFIG, *FEWER, *options, *own)
    try:
        binas("search", CONFIG, *FEWER, "--seed", str(seed), "--name", f"{name}/search")
        searched = start_retrain(folder / "search", f"{name}/retrain", seed)
    except BaseException:
        control.kill()
        raise
    finish(control, "random search")
    control = start_retrain(folder / "random_search", f"{name}/random", seed)
    finish(searched, "retraining the searched genotype")
    finish(control, "retraining the random genotype")
    binas("check", str(folder / "retrain" / "checkpoint.pt"), quiet=True)
    genotype = folder / "search" / "genotype.json"
    binas("draw", str(genotype), "--output", str(folder / "stages.svg"), quiet=True)
    fronts = {
        kind: json.loads((CHECKOUT / folder / run / "front.json").read_text(encoding="utf-8"))
        for kind, run in (("searched", "search"), ("random", "random_search"))
    }
    draw_fronts(fronts, CHECKOUT / folder / "front.png")
    widest = max(row["ops"] for document in fronts.values() for row in document["trained"])
    with ThreadPoolExecutor(2) as both:
        found = list(both.map(result, (folder / "retrain", folder / "random")))
    for run, one in zip(("retrain", "random"), found, strict=True):  # timed one after another
        one.update(benched(str(folder / run / "checkpoint.pt")))
    return {
        "seed": seed,
        "searched": found[0],
        "random": found[1],
        "hypervolume": {kind: hypervolume(ended(found), widest) for kind, found in fronts.items()},
        "work": {kind: sum(found["multiply_accumulates"].values()) for kind, found in fronts.items()},
    }


def ended(document: dict[str, Any]) -> list[Point]:
    """What a search has trained to its last rung."""
    last = max(row["epochs"] for row in document["trained"])
    return [Point(row["accuracy"], row["ops"]) for row in document["trained"] if row["epochs"] == last]


def draw_fronts(fronts: dict[str, dict[str, Any]], path: Path) -> None:
    """The searched front beside the cloud of random search."""
    series = []
    for kind, label in (("searched", "binas search"), ("random", "random search")):
        rows = fronts[kind]["trained"]
        last = max(row["epochs"] for row in rows)
        early = [Point(row["accuracy"], row["ops"]) for row in rows if row["epochs"] < last]
        best = fronts[kind]["front"][0]
        chosen = Point(best["accuracy"], best["ops"])
        series.append(Series(f"{label}, {len(rows)} trained alone", ended(fronts[kind]), early, chosen))
    words = f"search-validation accuracy, {last} epochs alone (small: fewer)"
    draw_front(series, path, cost="OPs (FLOPs + BOPs/64)", accuracy=words)


def logistic_regression() -> float:
    """The test accuracy of a logistic regression on the training images of the recipe."""
    data = open_data(load_recipe(CONFIG, {}).data)
    (pixels, labels), (test_pixels, test_labels) = (
        _flat(images) for images in (data.retrain(0.0)[0], data.test())
    )
    model = LogisticRegression(max_iter=300).fit(pixels, labels)
    return float(model.score(test_pixels, test_labels))


def _flat(images: ImageSet | StreamedImageSet) -> tuple[Any, Any]:
    pixels = images.read(torch.arange(len(images))).reshape(len(images), -1)
    return (pixels.float() / 255).numpy(), images.labels.numpy()


def finish(process: subprocess.Popen[str], what: str) -> None:
    """Waits for it, and ends with its words if it failed."""
    output = process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"{what} failed:\n{output}")
    told = [line for line in output.strip().splitlines() if "accuracy" in line or "recommended" in line]
    print(f"{what}: {told[-1] if told else 'done'}", flush=True)


def binas(*words: str, quiet: bool = False) -> str:
    """Runs one command in the checkout; its standard output is returned where it is not shown."""
    command = [sys.executable, "-m", "binas", *words]
    done = subprocess.run(command, cwd=CHECKOUT, text=True, stdout=subprocess.PIPE if quiet else None)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout or ''}")
    return done.stdout or ""


def start(*words: str) -> subprocess.Popen[str]:
    """Starts one command in the background."""
    command = [sys.executable, "-m", "binas", *words]
    return subprocess.Popen(
        command, cwd=CHECKOUT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def start_retrain(search: Path, name: str, seed: int) -> subprocess.Popen[str]:
    """Starts the retraining of a search's genotype in the background."""
    words = ["retrain", "--config", CONFIG, "--genotype", str(search / "genotype.json")]
    return start(*words, "--seed", str(seed), "--name", name)


def result(retrain: Path) -> dict[str, Any]:
    """What a retrained genotype reaches on the test images, and what it costs."""
    checkpoint = str(retrain / "checkpoint.pt")
    evaluated = json.loads(binas("eval", checkpoint, "--json", quiet=True))
    profile = json.loads(binas("profile", checkpoint, "--json", "-", quiet=True))
    storage = profile["storage"]
    about = {
        "parameters": profile["parameters"],
        "ops": profile["ops"],
        "packed_bytes": storage["export_bytes"],
        "sign_share": storage["export_sign_bytes"] / storage["export_bytes"],
        "float32_bytes": storage["float32_bytes"],
    }
    return {**evaluated, **about, **shipped(retrain)}


def shipped(retrain: Path) -> dict[str, Any]:
    """The 1-bit program of a retrained network: its file, and its test accuracy."""
    file = retrain / "model.binas"
    binas("export", str(retrain / "checkpoint.pt"), "--output", str(file), "--images", "0", quiet=True)
    accuracy, right = program_accuracy(CHECKOUT / file)
    return {
        "model_bytes": (CHECKOUT / file).stat().st_size,
        "program_accuracy": accuracy,
        "right": right,
    }


def benched(checkpoint: str) -> dict[str, float]:
    """Milliseconds of the 1-bit program of a network, and of the network in torch."""
    bench = json.loads(binas("bench", checkpoint, "--against", "torch", "--json", "-", quiet=True))
    ours, torch_ms = (timing["median"] for timing in bench["runtimes"].values())
    return {"milliseconds": ours, "torch_milliseconds": torch_ms, "times_torch": torch_ms / ours}


def program_accuracy(file: Path) -> tuple[float, list[bool]]:
    """What a 1-bit program reaches on the test images, which it gets as pictures, and which are right."""
    data = open_data(load_recipe(CONFIG, {}).data)
    test, program = data.test(), load(file)
    images, labels = test.read(torch.arange(len(test))), test.labels.tolist()
    found = [program(image.permute(1, 2, 0).numpy()).index for image in images]
    right = [one == label for one, label in zip(found, labels, strict=True)]
    return sum(right) / len(right), right


def table(rows: list[dict[str, Any]]) -> str:
    """Searched and random genotypes of every seed, a line each."""
    names = f"{'seed':>4}  {'network':<8}  {'genotype':<16}  {'MOPs':>6}  {'packed kB':>9}  {'1-bit':>5}"
    lines = [f"\n{names}  {'× fp32':>6}  {'ms':>6}  {'× torch':>7}  {'program':>7}  test accuracy"]
    for row in rows:
        for kind in ("searched", "random"):
            found = row[kind]
            lines.append(
                f"{row['seed']:>4}  {kind:<8}  {found['genotype']:<16}  {found['ops'] / 1e6:>6.3f}"
                f"  {found['packed_bytes'] / 1e3:>9.1f}  {found['sign_share']:>5.0%}"
                f"  {found['float32_bytes'] / found['packed_bytes']:>6.1f}"
                f"  {found['milliseconds']:>6.3f}  {found['times_torch']:>7.1f}"
                f"  {found['program_accuracy']:>7.4f}  {found['accuracy']:.4f}"
            )
    work = statistics.mean(row["work"]["searched"] / row["work"]["random"] for row in rows)
    volumes = {
        kind: ", ".join(f"{row['hypervolume'][kind]:.4f}" for row in rows) for kind in ("searched", "random")
    }
    lines.append(
        "\npacked kB: numbers in the exported file; × fp32: times that which its parameters take in float32"
        "\nprogram: accuracy of the exported 1-bit program on the test images"
        "\nms, × torch: one image, one thread, the program beside the same network in torch, taking turns"
        f"\nbudget: the search trained and evaluated {work:.2f} × the multiply-accumulates of random search"
        f"\nhypervolume of search-validation accuracy over OPs: searched {volumes['searched']};"
        f" random {volumes['random']}"
    )
    return "\n".join(lines)


def verdict(rows: list[dict[str, Any]], easy: float) -> str:
    """Who is ahead, by how much, with which certainty; and both against what is easy."""
    found = [row["searched"]["accuracy"] - row["random"]["accuracy"] for row in rows]
    mean = statistics.mean(found)
    if len(rows) > 1:
        from scipy.stats import t

        half = float(t.ppf(0.975, len(rows) - 1)) * statistics.stdev(found) / math.sqrt(len(rows))
        source = f"95 % interval over {len(rows)} seeds"
    else:
        one, other = (rows[0][kind]["right"] for kind in ("searched", "random"))
        pairs = [a - b for a, b in zip(one, other, strict=True)]
        half = 1.96 * statistics.stdev(pairs) / math.sqrt(len(pairs))
        source = (
            f"95 % interval over {len(pairs):,} test images of one seed, which does not tell how seeds differ"
        )
    if abs(mean) <= half:
        words = "Neither is ahead: searched − random"
    else:
        words = f"{'The searched network is' if mean > 0 else 'Random search is'} ahead: searched − random"
    best = statistics.mean(row["searched"]["accuracy"] for row in rows)
    return (
        f"{words} = {100 * mean:+.2f} points of test accuracy ({100 * (mean - half):+.2f} to"
        f" {100 * (mean + half):+.2f};\n{source}).\nThe searched network is {100 * (best - easy):+.1f} points"
        f" from the logistic regression ({easy:.4f})."
    )


if __name__ == "__main__":
    sys.exit(main())
