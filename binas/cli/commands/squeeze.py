"""`binas squeeze`: take superfluous channels out of a trained network."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from binas.cli.arguments import Arguments, plugins
from binas.cli.session import Overrides
from binas.plugins import load_plugins
from binas.registries import REGISTRIES

DESCRIPTION = """\
For a genotype's network with batch-norm scales, trained with a stage's batch_norm_sparsity.
Writes a checkpoint to train on from, and beside it a JSON map of the channels that were kept."""


def add_arguments(arguments: Arguments) -> None:
    """What the command takes."""
    arguments.add("checkpoint", help="checkpoint.pt of a retrain run")
    arguments.add("--init-channels", type=int, required=True, metavar="N", help="channels of the first cell")
    arguments.add("-o", "--output", default="squeezed.pt", metavar="FILE", help="default: squeezed.pt")
    plugins(arguments)


def run(options: Namespace, overrides: Overrides) -> int:
    """binas squeeze"""
    from binas.train.squeeze import squeeze_file

    plugins = load_plugins(options.plugins, REGISTRIES)
    print(squeeze_file(Path(options.checkpoint), options.init_channels, Path(options.output), plugins))
    print(
        f"next: binas retrain with --retrain.network.init_channels {options.init_channels} and"
        f" --retrain.stages.0.initial_checkpoint {options.output}"
    )
    return 0
