"""The questions of "Back to Simplicity" (Bethge et al., arXiv:1906.08637), at a size that two cores train.

Each file of `tools/studies/from_scratch/` is a question in the format of `study.py`; every variant is a
recipe that the product's own loop trains, equal recipes once. Finished runs are rows of
`benchmarks/from_scratch_<machine>.jsonl`, and one that was cut off goes on from its last epoch. The one table
beside it is written again after each run.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from binas.config import read_mapping
from binas.errors import UserError
from binas.run.files import write_atomic
from binas.run.seeds import set_deterministic
from tools.measuring.measured import CHECKOUT, Rows, machine_words, markdown_table, mean_std
from tools.studies.study import Planned, Study, load_study, study_parser
from tools.studies.study_optimisation import run, summary

FOLDER = CHECKOUT / "tools" / "studies" / "from_scratch"
INTRODUCTION = (
    "The questions of Bethge, Yang, Bornstein and Meinel, *Back to Simplicity: How to Train Accurate BNNs"
    " from Scratch?*, arXiv:1906.08637, and two of its neighbours, at a size that runs here. Networks train"
    " as their recipes say (cosine, bare signs, gradient window 1.3, real-valued down-sampling), with Adam"
    " 5e-3 for RAdam 2e-3 where they are small, but for what a question changes. Accuracy is that of the last"
    " epoch on the test images, mean ± standard deviation of the sample (n seeds); `to the first` is the"
    " difference to a question's first variant, seed by seed. The papers' own figures are of other sizes and"
    " other images: compare signs of differences, not values."
)


def main(words: Sequence[str] | None = None) -> int:
    """Trains what is missing, seed by seed, and writes the table."""
    description = __doc__.splitlines()[0] if __doc__ else None
    parser = study_parser(description, FOLDER, Path("runs/study_from_scratch"))
    options = parser.parse_args(words)
    try:
        chosen = load_study(options.study, options.size, tuple(options.questions))
        whole = load_study(options.study, options.size)
        path = options.benchmarks / f"from_scratch_{options.machine}.md"
        rows = Rows(path.with_suffix(".jsonl"))
        if not options.table:
            torch.set_num_threads(1)
            set_deterministic(torch.device("cpu"))
            for planned, seed in missing(chosen, rows, options.seeds):
                key = planned.key(seed)
                row = run(planned, seed, options.out / key.replace("/", "_"))
                rows.add(key, planned.settings(), row)
                words_of_row = f"{planned.question}, {planned.variant}, {key}: {json.dumps(summary(row))}"
                print(words_of_row, flush=True)
                write_atomic(path, report(whole, rows, path))
        write_atomic(path, report(whole, rows, path))
        print(f"written: {path}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def missing(study: Study, rows: Rows, seeds: Sequence[int]) -> list[tuple[Planned, int]]:
    """The runs that have no row yet, the first seed of everything first, equal recipes once."""
    wanted = {one.key(seed): (one, seed) for seed in seeds for one in study.planned}
    return [(one, seed) for key, (one, seed) in wanted.items() if rows.find(key, one.settings()) is None]


def report(study: Study, rows: Rows, path: Path) -> str:
    """The text of `from_scratch_<machine>.md`.

    What a person reads from the figures stands in `from_scratch_<machine>_readings.yaml` beside it: what
    agrees with the paper, by the name of each question.
    """
    readings_file = path.with_name(f"{path.stem}_readings.yaml")
    readings: dict[str, Any] = read_mapping(readings_file) if readings_file.exists() else {}
    lines = []
    for name, question in study.questions.items():
        for network in question.networks:
            mine = [one for one in study.planned if (one.question, one.network) == (name, network)]
            for one in mine:
                is_first = one is mine[0]
                variant = question.variants[one.variant]
                paper = variant.paper.get(network)
                lines.append(
                    [
                        question.title if is_first and network == question.networks[0] else "",
                        study.networks[network].title if is_first else "",
                        variant.words,
                        mean_std(accuracies(one, rows)),
                        "" if is_first else difference(one, mine[0], rows),
                        "–" if paper is None else f"{100 - paper:.1f}",
                        readings.get(name, "") if is_first and network == question.networks[0] else "",
                    ]
                )
    columns = ("question", "network", "variant", "accuracy %", "to the first", "the paper's own %", "agrees?")
    notes = [
        f"- {question.title} Paper: {_flat(question.source)}. {_flat(question.notes)}".rstrip()
        for question in study.questions.values()
    ]
    return "\n\n".join([_head(study, rows), markdown_table(columns, lines), "\n".join(notes)]) + "\n"


def accuracies(planned: Planned, rows: Rows) -> list[float]:
    """Test accuracy after the last epoch, by seed."""
    return [row["test_at_last"] for row in _by_seed(planned, rows).values()]


def difference(planned: Planned, first: Planned, rows: Rows) -> str:
    """Accuracy less that of the first variant of the same seed, in points."""
    base = _by_seed(first, rows)
    found = _by_seed(planned, rows)
    pairs = [row["test_at_last"] - base[seed]["test_at_last"] for seed, row in found.items() if seed in base]
    words = mean_std(pairs)
    return words if words.startswith(("-", "–")) else f"+{words}"


def _by_seed(planned: Planned, rows: Rows) -> dict[int, dict[str, Any]]:
    settings = planned.settings()
    return {
        row["seed"]: row for row in rows if row["settings"] == settings and row["network"] == planned.network
    }


def _flat(text: str) -> str:
    return " ".join(text.split())


def _head(study: Study, rows: Rows) -> str:
    settings = {planned.settings() for planned in study.planned}
    found = [row for row in rows if row["settings"] in settings]
    minutes = sum(row["cpu_seconds"] for row in found) / 60
    seeds = sorted({row["seed"] for row in found}) or [0, 1, 2]
    command = "python tools/studies/study_from_scratch.py"
    command += "" if study.size == "small" else f" --size {study.size}"
    command += "" if seeds == [0, 1, 2] else f" --seeds {' '.join(map(str, seeds))}"
    sizes = "\n".join(
        f"- {entry.title}: {_flat(entry.sizes[study.size].words)}" for entry in study.networks.values()
    )
    return (
        "# From scratch: the questions of Back to Simplicity\n\n"
        f"{textwrap.fill(INTRODUCTION, 110)}\n\n"
        f"{sizes}\n\n"
        f"Command: `{command}`. {machine_words()}, one thread; {len(found)} runs,"
        f" {minutes:.0f} minutes of CPU."
    )


if __name__ == "__main__":
    sys.exit(main())
