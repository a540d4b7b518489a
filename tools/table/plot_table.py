"""Draws the table: accuracy against size, one seed against the other, and a supernet's loss against accuracy.

`python tools/table/plot_table.py` writes the picture of the docs anew.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from binas.draw.saving import save
from binas.search.measured.table import TrainedTable, read_table
from tools.table.score_table import ROWS as SCORES
from tools.table.train_table import ROWS


def main() -> None:
    """Writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=Path, default=ROWS, help=f"trained genotypes (default: {ROWS})")
    parser.add_argument("--scores", type=Path, default=SCORES, help=f"of supernets (default: {SCORES})")
    parser.add_argument("--output", type=Path, default=ROWS.with_name("table.png"), help="the picture")
    options = parser.parse_args()
    draw(read_table(options.rows, options.scores), options.output)
    print(f"drawn: {options.output}")


def draw(table: TrainedTable, file: Path) -> None:
    """Three pictures of the table side by side."""
    figure, (size, seeds, supernet) = pyplot.subplots(1, 3, figsize=(14, 4.4), layout="constrained")
    accuracy = [100 * entry.test_accuracy for entry in table]
    each = [[100 * training.test_accuracy for training in entry.trainings] for entry in table]
    parameters = [entry.parameters / 1e3 for entry in table]
    size.vlines(
        parameters, [min(pair) for pair in each], [max(pair) for pair in each], color="0.75", zorder=1
    )
    dots = size.scatter(parameters, accuracy, c=[entry.ops / 1e3 for entry in table], s=22, zorder=2)
    figure.colorbar(dots, ax=size, label="OPs in thousands")
    size.set(xscale="log", xlabel="parameters in thousands", ylabel="test accuracy in %")
    size.set_xticks([20, 50, 100, 200], ["20", "50", "100", "200"])
    size.minorticks_off()
    size.set_title(f"size: τ = {table.kendall_tau(lambda entry: entry.parameters):.2f}")
    first, second = [pair[0] for pair in each], [pair[1] for pair in each]
    ends = [min(first + second) - 0.2, max(first + second) + 0.2]
    seeds.plot(ends, ends, color="0.75", zorder=1)
    seeds.scatter(first, second, s=22, zorder=2)
    seeds.set(xlabel="test accuracy of seed 0 in %", ylabel="of seed 1", xlim=ends, ylim=ends, aspect="equal")
    seeds.set_title(f"seeds: {len(table)} genotypes, each trained twice")
    loss = [entry.scores[0][0] for entry in table]
    supernet.scatter(loss, accuracy, s=22)
    supernet.set(xlabel="loss with the weights of supernet 0", ylabel="test accuracy alone in %")
    supernet.set_title(f"supernet: τ = {table.kendall_tau(lambda entry: -entry.scores[0][0]):.2f}")
    save(figure, file, "png", 110)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
