"""What a command takes: a parser that remembers which flags have a value, and flags that several share."""

from __future__ import annotations

import argparse
from typing import Any


class Arguments:
    """Adds arguments to a command's parser and remembers which flags take a value."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser
        self.flags = {"--help": False, "-h": False}
        """Whether each of its flags takes a value."""

    def describe(self, summary: str, description: str) -> None:
        """What stands at the top of its help."""
        self.parser.description = f"{summary[0].upper()}{summary[1:]}. {description}"

    def add(self, *names: str, **settings: Any) -> Arguments:
        action = self.parser.add_argument(*names, **settings)
        takes_value = action.nargs is None or (isinstance(action.nargs, int) and action.nargs > 0)
        for name in action.option_strings:
            self.flags[name] = takes_value
        return self


def plugins(arguments: Arguments) -> Arguments:
    return arguments.add(
        "--plugins",
        action="append",
        default=[],
        metavar="FILE",
        help="your own file of operations, binarizers, networks, …; may be repeated",
    )


def device(arguments: Arguments) -> Arguments:
    return arguments.add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")


def run_options(arguments: Arguments) -> Arguments:
    arguments.add("--config", metavar="CONFIG", help="a recipe: a YAML file, or the name of a shipped one")
    arguments.add(
        "--micro-batch",
        metavar="auto|N",
        help="images computed at a time, gradients adding up; short for --search.micro_batch or --retrain.…",
    )
    arguments.add("--overwrite", action="store_true", help="replace the run folder if it is one of binas")
    arguments.add(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help="go on with an interrupted run, bit for bit: runs/NAME (its own config is used)",
    )
    arguments.add("--print_config", action="store_true", help="print the resolved recipe and end")
    return plugins(arguments)
