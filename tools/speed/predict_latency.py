"""How well the sum of measured steps predicts the time of programs that were not measured.

A table is filled from random genotypes of a space (as `binas latency` does), then 30 others are exported,
predicted, and timed as a whole. Steps that the table lacks are measured into it first, and counted.

    python tools/speed/predict_latency.py --machine epyc2
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from scipy.stats import spearmanr

from binas.arch.genotype import AnyGenotype
from binas.arch.kinds import genotype_network, load_any_space
from binas.arch.sample import random_genotype
from binas.deploy.bench import measured as timed
from binas.deploy.export import export_module
from binas.deploy.footprint import as_if_trained
from binas.deploy.model_file import Model
from binas.deploy.runtime import Loaded
from binas.deploy.step_times import StepTimes, fill, measured, signatures
from binas.run.files import write_atomic
from binas.run.machine import machine_words

SIZE, CHANNELS, CLASSES = 32, 3, 10


def main() -> None:
    """Fills, predicts, times, writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--machine", default="here", help="in the page's name (default: here)")
    parser.add_argument(
        "--spaces", nargs="+", default=["binas_device", "binas_macro"], help="names of spaces"
    )
    parser.add_argument(
        "--measured", type=int, default=40, help="genotypes in the table at most (default: 40)"
    )
    parser.add_argument("--predicted", type=int, default=30, help="genotypes predicted (default: 30)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# Times of programs, predicted by their steps",
        "",
        f"`python tools/speed/predict_latency.py --machine {options.machine}`: {machine_words()},",
        f"one thread, one image of {SIZE}×{SIZE}. Steps of random genotypes predict others, which are timed.",
        "",
        "| space | measured | steps | predicted | Spearman's ρ | median error | largest | missing steps |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in options.spaces:
        lines.append(line(name, options.measured, options.predicted))
        print(lines[-1], flush=True)
    path = Path(f"benchmarks/program_latency_{options.machine}.md")
    write_atomic(path, "\n".join(lines) + "\n")
    print(path)


def line(name: str, most: int, number: int) -> str:
    """A space's row."""
    space = load_any_space(name)
    generator = random.Random(0)
    with TemporaryDirectory() as folder:
        times = StepTimes(Path(folder) / "steps.yaml", machine_words())
        looked = fill(times, (lambda g=g: model_of(g) for g in drawn(space, generator, most)))  # type: ignore[misc]
        steps, missing, pairs = len(times.times), [], []
        for genotype in drawn(space, generator, number):
            model = model_of(genotype)
            new = times.missing(model.graph)
            missing.append(len(new) / len(set(signatures(model.graph))))
            if new:
                found = measured(model)
                times.add({step: found[step] for step in new})
            loaded = Loaded(model)
            image = np.random.default_rng(0).normal(size=model.graph.input_shape).astype(np.float32)
            whole = timed({"program": lambda: loaded.scores(image)}, 10)["program"].median  # noqa: B023
            pairs.append((times.predicted(signatures(model.graph)), whole))
    errors = [abs(one - other) / other for one, other in pairs]
    rho = float(spearmanr([one for one, _ in pairs], [other for _, other in pairs]).statistic)
    return (
        f"| {name} | {looked} | {steps} | {len(pairs)} | {rho:.3f} | {statistics.median(errors):.1%} |"
        f" {max(errors):.1%} | {statistics.mean(missing):.1%} |"
    )


def drawn(space: object, generator: random.Random, number: int) -> Iterator[AnyGenotype]:
    """Random genotypes."""
    for _ in range(number):
        yield random_genotype(space, generator)  # type: ignore[call-overload]


def model_of(genotype: AnyGenotype) -> Model:
    """Its network with fresh weights, exported."""
    network = as_if_trained(genotype_network(genotype, CHANNELS, CLASSES))
    return export_module(network, torch.zeros(1, CHANNELS, SIZE, SIZE))


if __name__ == "__main__":
    main()
