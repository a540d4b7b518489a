"""Every binarization scheme trains the same small network: accuracy, time of a step, flips; table and chart.

Rows are kept in <out>/binarizers_<machine>.jsonl as they are finished, so that a stopped bake-off goes on
where it was: all entries with the first seed, then with the next. A row is made again when its recipe or the
code of its binarizers has changed. What is trained stands in bakeoff.yaml.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does, before torch is imported

import torch

from binas.errors import UserError
from binas.run.device import device_name
from binas.run.seeds import set_deterministic
from tools.bakeoff.bakeoff_run import RECIPES, bits, digest, measure, opened, recipes
from tools.bakeoff.bakeoff_table import write_table

CHECKOUT = Path(__file__).resolve().parents[2]
Row = dict[str, Any]


def main() -> int:
    """Makes the rows that are missing; writes table and chart after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", nargs="+", default=["fashion", "digits"], help="default: both")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--entries", nargs="+", help="default: all of bakeoff.yaml")
    parser.add_argument("--recipes", type=Path, default=RECIPES, help="another file in its place")
    parser.add_argument("--out", type=Path, default=CHECKOUT / "benchmarks")
    parser.add_argument("--machine", default=_machine(), help="name of the machine in file names")
    parser.add_argument("--subset", type=int, help="so many training images only, for a trial")
    parser.add_argument("--epochs", type=float, help="what multiplies all epochs, for a trial")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    set_deterministic(torch.device("cpu"))
    try:
        return _run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    settings = recipes(options.recipes)
    names = options.entries or list(settings["entries"])
    for kind, asked, known in (
        ("entries", names, settings["entries"]),
        ("data", options.data, settings["data"]),
    ):
        unknown = [name for name in asked if name not in known]
        if unknown:
            raise UserError(
                f"--{kind} {' '.join(unknown)}: not in {options.recipes}; there are {', '.join(known)}"
            )
    path = options.out / f"binarizers_{options.machine}.jsonl"
    kept = Rows(path, settings)
    write_table(settings, kept.valid(), path.with_suffix(""), _command(options))
    for seed, name, data in itertools.product(options.seeds, names, options.data):
        if kept.has(name, data, seed):
            continue
        images = opened(options.recipes, data, options.subset)
        shorter = options.epochs if options.epochs is not None else kept.shorter(name, data)
        row = measure(settings, name, data, seed, images, shorter)
        row |= {"bits": bits(settings["entries"][name]), "machine": device_name(torch.device("cpu"))}
        kept.add({**row, "torch": str(torch.__version__)})
        print(
            f"{name}, {data}, seed {seed}: {100 * row['accuracy']:.2f} %, {row['cpu_seconds']:.0f} s",
            flush=True,
        )
        write_table(settings, kept.valid(), path.with_suffix(""), _command(options))
    print(f"table: {path.with_suffix('.md')}")
    return 0


class Rows:
    """Finished rows in a file of JSON lines, to which several processes may add side by side.

    Rows of another recipe or of other code do not count; of several with one key the last one does.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        # now, because files may change while this process goes on with the code that it has read
        self.digests = {
            (name, data): digest(settings, name, data)
            for name, data in itertools.product(settings["entries"], settings["data"])
        }

    def valid(self) -> list[Row]:
        """The rows that count, as the file has them by now."""
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        found: dict[tuple[Any, ...], Row] = {}
        for line in filter(None, text.splitlines()):
            row = json.loads(line)
            if self.digests.get((row["entry"], row["data"])) == row["digest"]:
                found[row["entry"], row["data"], row["seed"]] = row
        return list(found.values())

    def of(self, name: str, data: str) -> Iterator[Row]:
        """Those of an entry and a data set."""
        return (row for row in self.valid() if (row["entry"], row["data"]) == (name, data))

    def has(self, name: str, data: str, seed: int) -> bool:
        """Whether a row is there."""
        return any(row["seed"] == seed for row in self.of(name, data))

    def shorter(self, name: str, data: str) -> float | None:
        """What multiplied the epochs of another seed, so that all seeds get the same."""
        return next((float(row["shorter"]) for row in self.of(name, data)), None)

    def add(self, row: Row) -> None:
        """Adds a row to the file by a single write, which is there as a whole or not at all."""
        line = (json.dumps(row) + "\n").encode()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)


def _command(options: argparse.Namespace) -> str:
    words = ["python tools/bakeoff/bakeoff.py", "--machine", options.machine]
    for key in ("subset", "epochs"):
        value = getattr(options, key)
        words += [] if value is None else [f"--{key}", str(value)]
    return " ".join(words)


def _machine() -> str:
    model = device_name(torch.device("cpu")).lower()
    maker = next((word for word in ("epyc", "xeon", "ryzen", "core", "apple", "arm") if word in model), "cpu")
    return f"{maker}{os.cpu_count() or 1}"


if __name__ == "__main__":
    sys.exit(main())
