"""`binas eval`: accuracy of a checkpoint on the test images."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

from binas.cli.arguments import Arguments, device, plugins
from binas.cli.session import Overrides
from binas.errors import UserError
from binas.plugins import load_plugins
from binas.registries import REGISTRIES
from binas.run.device import pick_device

DESCRIPTION = "Builds everything from the checkpoint alone."


def add_arguments(arguments: Arguments) -> None:
    """What the command takes."""
    arguments.add("checkpoint", nargs="+", help="checkpoint.pt of a retrain run; several with --ensemble")
    arguments.add("--ensemble", action="store_true", help="predict by the mean of the networks' logits")
    arguments.add(
        "--split", choices=("test", "validation"), default="test", help="validation: kept aside in retraining"
    )
    arguments.add("--data-root", metavar="FOLDER", help="where the images lie, if they have moved")
    arguments.add("--json", action="store_true", help="print JSON")
    device(arguments)
    plugins(arguments)


def run(options: Namespace, overrides: Overrides) -> int:
    """binas eval"""
    from binas.train.evaluation import evaluate_checkpoint, evaluate_ensemble, format_result

    files = [Path(file) for file in options.checkpoint]
    if len(files) > 1 and not options.ensemble:
        raise UserError(f"eval: {len(files)} checkpoints: add --ensemble to take them as one, or give one")
    plugins = load_plugins(options.plugins, REGISTRIES)
    root = Path(options.data_root) if options.data_root else None
    split, device = options.split, pick_device(options.device)
    if options.ensemble:
        result = evaluate_ensemble(files, split, device, plugins=plugins, root=root)
    else:
        result = evaluate_checkpoint(files[0], split, device, plugins=plugins, root=root)
    print(json.dumps(result) if options.json else format_result(result))
    return 0
