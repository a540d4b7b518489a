"""Signs that a search has collapsed: cells of skips and pools, or alphas that have stopped choosing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

from binas.arch.genotype import CELL_KINDS, Genotype
from binas.arch.supernet import Candidates
from binas.ops import operation_kind
from binas.ops.contract import Kind
from binas.search.config import Collapse


def operation_counts(genotype: Genotype) -> dict[str, int]:
    """How many edges of both cells carry each operation."""
    return dict(Counter(edge.op for kind in CELL_KINDS for edge in genotype.cell(kind)))


def largest_entropy(candidates: Candidates) -> float:
    """The mean over all edges of the entropy of equally probable operations, in nats."""
    edges = [names for kind in CELL_KINDS for names in candidates[kind]]
    return sum(math.log(len(names)) for names in edges) / len(edges)


def collapse_warnings(
    genotype: Genotype,
    entropy: float,
    largest_entropy: float,
    limits: Collapse,
    *,
    kind_of: Callable[[str], Kind] = operation_kind,
) -> list[str]:
    """A sentence for every sign of collapse.

    Args:
        entropy: mean entropy of the edges' probabilities, in nats.
        largest_entropy: what it would be if all operations left on each edge were equally probable.
        kind_of: what an operation is made of, by its name.
    """
    counts = operation_counts(genotype)
    # what an operation is where it does not halve the size: a strided skip is there only to fit
    without = {name for name in counts if kind_of(name) in ("weightless", "none")}
    free = sum(count for name, count in counts.items() if name in without)
    total = sum(counts.values())
    warnings = []
    if free > limits.max_share * total:
        shown = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()) if name in without)
        warnings.append(
            f"the search may have collapsed: {free} of {total} edges have no weights ({shown});"
            " try more warm-up epochs, a larger search.diversity.weight or a higher temperature"
        )
    if entropy < limits.min_entropy * largest_entropy:
        warnings.append(
            f"the search may have collapsed: the mean entropy {entropy:.3f} is below"
            f" {limits.min_entropy:g} of its largest value {largest_entropy:.3f};"
            " try a lower search.alphas.learning_rate or a higher temperature"
        )
    return warnings
