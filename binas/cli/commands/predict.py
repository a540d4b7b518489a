"""`binas predict`: the class of pictures."""

from __future__ import annotations

import csv
import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from binas.cli.arguments import Arguments, plugins
from binas.errors import UserError

if TYPE_CHECKING:
    from binas.plugins import PluginRecord

DESCRIPTION = "An unreadable image is told and left out; the exit status is then 1."


def add_arguments(arguments: Arguments) -> None:
    """What the command takes."""
    arguments.add("model", help="a .binas file, checkpoint.pt, or a retrain run's folder")
    arguments.add("images", nargs="+", metavar="IMAGE", help="pictures, or folders of them")
    arguments.add(
        "--json", action="store_true", help="one JSON object a line: file, class, index, probability"
    )
    arguments.add("--csv", action="store_true", help="lines of file, class, index, probability")
    plugins(arguments)


def run(options: Namespace, overrides: object) -> int:
    """binas predict"""
    from binas.deploy.opening import is_model_file, open_model
    from binas.deploy.runtime import Loaded

    if options.json and options.csv:
        raise UserError("predict: --json and --csv are two outputs; leave one out")
    files = list(_files([Path(one) for one in options.images]))
    plugins: tuple[PluginRecord, ...] = ()
    if not is_model_file(options.model):
        from binas.plugins import load_plugins
        from binas.registries import REGISTRIES

        plugins = load_plugins(options.plugins, REGISTRIES)
    loaded = Loaded(open_model(options.model, plugins).model)
    writer = csv.writer(sys.stdout)
    if options.csv:
        writer.writerow(["file", "class", "index", "probability"])
    failed = 0
    for number, file in enumerate(files, 1):
        try:
            found = loaded.predict(file)
        except UserError as error:
            print(f"binas: {error}", file=sys.stderr)
            failed += 1
            continue
        if options.json:
            row = {
                "file": str(file),
                "class": found.label,
                "index": found.index,
                "probability": found.probability,
            }
            print(json.dumps(row), flush=True)
        elif options.csv:
            writer.writerow([file, found.label, found.index, f"{found.probability:.6f}"])
        else:
            print(f"{file}: {found.label} ({found.probability:.1%})")
        if sys.stderr.isatty() and number % 50 == 0:
            print(f"\r{number} of {len(files)}", end="", file=sys.stderr)
    if failed:
        print(f"binas: {failed} of {len(files)} images cannot be read", file=sys.stderr)
    return int(failed > 0)


def _files(given: list[Path]) -> Iterator[Path]:
    from binas.data.picture import ENDINGS

    for path in given:
        if not path.exists():
            raise UserError(f"predict: {path}: no such image or folder")
        if not path.is_dir():
            yield path
            continue
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS and file.is_file())
        if not found:
            raise UserError(f"predict: {path}: holds no image ({', '.join(sorted(ENDINGS))})")
        yield from found
