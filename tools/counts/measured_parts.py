"""Counting a genotype from measured parts, against its closed form: milliseconds for each, cold and warm.

A part is an operation at one place (channels, size, stride), built alone, run once on torch's meta device and
kept. What lies around the operations is counted in closed form in both.

    python tools/counts/measured_parts.py
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import replace
from unittest.mock import patch

import torch

from binas.arch.sample import random_genotype
from binas.arch.space import load_space
from binas.profile import closed_form, operations
from binas.profile.count import count
from binas.profile.formulas import Place
from binas.profile.operations import OpCost

OPERATION_COST = operations.op_cost
SIZE = (32, 32)


class MeasuredParts:
    """The cost of operations by measuring, each at each kind of place once."""

    def __init__(self) -> None:
        self.known: dict[tuple[object, ...], OpCost] = {}

    def __call__(self, op: str, place: Place) -> OpCost:
        """As `op_cost`, names and all."""
        key = (op, place.shape, place.stride, place.binarize_activations, place.binarize_weights)
        if key not in self.known:
            self.known[key] = operations._run_alone(op, replace(place, name="part"), "meta")
        found = self.known[key]
        layers = (replace(layer, name=place.name + layer.name[len("part") :]) for layer in found.layers)
        return OpCost(tuple(layers), found.takes_normalized_input)


def main() -> None:
    """Prints the times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--genotypes", type=int, default=1000, help="how many are counted (default: 1000)")
    parser.add_argument("--space", default="binas", help="of cells (default: binas)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    space, generator = load_space(options.space), random.Random(0)
    genotypes = [random_genotype(space, generator) for _ in range(options.genotypes)]
    parts = MeasuredParts()
    for name, cost in (("closed form", OPERATION_COST), ("measured parts", parts)):
        with patch.object(closed_form, "op_cost", cost):
            times, totals = [], []
            for genotype in genotypes:
                begun = time.perf_counter()
                totals.append(count(genotype, SIZE).totals())
                times.append(1000 * (time.perf_counter() - begun))
        half = sorted(times[len(times) // 2 :])
        print(
            f"{name}: first {times[0]:.1f} ms, first ten {sum(times[:10]) / 10:.1f} ms each,"
            f" later {half[len(half) // 2]:.2f} ms in the median ({half[0]:.2f} to {half[-1]:.2f})"
        )
        if name == "closed form":
            expected = totals
    assert totals == expected, "both count the same"
    print(f"{len(parts.known)} parts were measured; totals of {len(genotypes)} genotypes are equal")


if __name__ == "__main__":
    main()
