"""`binas check`: prove that a checkpoint's network is binary."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from binas.cli.arguments import Arguments, device, plugins
from binas.cli.session import Overrides
from binas.plugins import load_plugins
from binas.registries import REGISTRIES
from binas.run.device import pick_device

DESCRIPTION = """\
Runs it and looks at what enters every binary convolution.
Exit status 1 if it is not binary, or where binarizers with more levels are used, not what they declare."""


def add_arguments(arguments: Arguments) -> None:
    """What the command takes."""
    arguments.add("checkpoint", help="checkpoint.pt of a retrain run")
    arguments.add("--data-root", metavar="FOLDER", help="where the images lie, if they have moved")
    device(arguments)
    plugins(arguments)


def run(options: Namespace, overrides: Overrides) -> int:
    """binas check"""
    from binas.data.batches import Batches
    from binas.train.binary_check import check_whole
    from binas.train.evaluation import open_training_data
    from binas.train.model_file import load_model

    path = Path(options.checkpoint)
    network, structure, _ = load_model(path, load_plugins(options.plugins, REGISTRIES))
    data = open_training_data(structure, path, Path(options.data_root) if options.data_root else None)
    device = pick_device(options.device)
    images, _ = next(Batches(data.train(), 32, device, data.mean, data.std).epoch(0, shuffle=False))
    words = f"stage '{structure.stage.name}': {structure.stage.format_precision()}"
    found = check_whole(network.to(device), images, words)
    print(found)
    return 0 if found.is_as_declared else 1
