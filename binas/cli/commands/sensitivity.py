"""`binas sensitivity`: what binarizing each single layer of a trained network does."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from binas.cli.arguments import Arguments, device, plugins
from binas.cli.session import Overrides
from binas.errors import UserError
from binas.plugins import load_plugins
from binas.registries import REGISTRIES
from binas.run.device import pick_device
from binas.run.progress import say
from binas.run.seeds import set_deterministic

DESCRIPTION = """\
One layer at a time is binarized, the others stay real-valued; loss and accuracy are those of the validation
images. Nothing is trained. Train the network with real values first (binarize_activations: false,
binarize_weights: false), with the binarization that layers are to be tried with."""


def add_arguments(arguments: Arguments) -> None:
    """What the command takes."""
    arguments.add("checkpoint", type=Path, help="checkpoint.pt of a retrain run")
    arguments.add(
        "--binarize",
        nargs="+",
        choices=("weights", "activations", "both"),
        default=["weights", "activations", "both"],
        help="of each layer (default: all three)",
    )
    arguments.add(
        "--images", type=int, default=2000, help="for estimating batch-norm statistics anew (default: 2000)"
    )
    arguments.add("--data-root", type=Path, metavar="FOLDER", help="where the images lie, if they have moved")
    arguments.add("--json", action="store_true", help="print JSON")
    arguments.add(
        "-o", "--output", type=Path, metavar="FILE.md", help="write the table, and a bar chart beside it"
    )
    device(arguments)
    plugins(arguments)


def run(options: Namespace, overrides: Overrides) -> int:
    """binas sensitivity"""
    from binas.train.sensitivity import measure_file, table, write_report

    if options.images < 1:
        raise UserError(f"--images {options.images}: a number from 1 on")
    records = load_plugins(options.plugins, REGISTRIES)
    where = pick_device(options.device)
    set_deterministic(where)
    rows, structure = measure_file(
        options.checkpoint, options.binarize, options.images, where, plugins=records, root=options.data_root
    )
    print(json.dumps([asdict(row) for row in rows]) if options.json else table(rows))
    if options.output is not None:
        write_report(rows, structure, options.checkpoint, options.output)
        if not options.json:
            say(f"written: {options.output}, {options.output.with_suffix('.png')}")
    return 0
