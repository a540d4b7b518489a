"""The command `binas`: its table of commands, and what it says of errors."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from binas import __version__
from binas.cli.arguments import Arguments
from binas.cli.hints import with_hint
from binas.cli.terminal import shown
from binas.errors import UserError

COMMANDS = {
    "search": ("search", "search a space for a genotype"),
    "evolve": ("evolve", "evolve the widths or groups of a published network or a genotype"),
    "retrain": ("retrain", "train a genotype or a published network from scratch, stage by stage"),
    "eval": ("eval", "accuracy of a checkpoint on the test images"),
    "export": ("export", "a trained network as a 1-bit file, a C program, or ONNX"),
    "predict": ("predict", "the class of pictures, by a checkpoint or an exported file"),
    "bench": ("bench", "time an exported network, layer by layer, beside other runtimes"),
    "squeeze": ("squeeze", "take superfluous channels out of a trained network"),
    "check": ("check", "prove that a checkpoint's network is binary"),
    "profile": (
        "profile",
        "count parameters, bits and operations of a genotype, published network or checkpoint",
    ),
    "sensitivity": ("sensitivity", "what binarizing each single layer of a trained network does"),
    "latency": ("latency", "measure the layers of a recipe's candidates for an evolution's table"),
    "draw": ("draw", "draw a genotype's cells"),
    "ops": ("ops", "list the operations, or check one of your own"),
    "binarizers": ("binarizers", "list the binarizers, or check one of your own"),
    "methods": ("methods", "list what a search is made of: strategies, relaxations, …, measures for limits"),
    "models": ("models", "list the published networks, or the options of one"),
    "data": ("data", "show the images of a recipe"),
    "import": ("import_legacy", "turn a legacy Genotype(...) text into a genotype file"),
}
"""The name of each command, its module in `binas.cli.commands`, and what it does."""
EPILOG = """\
A run, from nothing to a checked binary network:
  binas search demo_digits --name first          writes runs/first/genotype.json
  binas draw runs/first/genotype.json --output cells.svg
  binas retrain --genotype runs/first/genotype.json --name first_retrained
  binas eval runs/first_retrained/checkpoint.pt
  binas check runs/first_retrained/checkpoint.pt
  binas profile runs/first/genotype.json

`binas COMMAND --help` lists what a command takes; for search, evolve, retrain and data also every key of a
recipe, each of which can be given as --key.subkey VALUE.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; gives its exit status: 0, 1 for a check that fails, 2 for a user's mistake."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except UserError as error:
        print(f"binas: {_which_rank()}error: {with_hint(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("binas: interrupted; a run goes on with --resume", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except Exception as error:
        from binas.plugins import plugin_error_text

        told = plugin_error_text(error) or _memory_error_text(error) or _rank_error_text(error)
        if not told:
            raise
        print(f"binas: {_which_rank()}error: {told}", file=sys.stderr)
        return 2


def _which_rank() -> str:
    """Which of several processes that a launcher has started this is, for its errors."""
    return f"rank {os.environ.get('RANK', 0)}: " if os.environ.get("WORLD_SIZE", "1") != "1" else ""


def _rank_error_text(error: Exception) -> str:
    from binas.run.distributed import rank_error_text

    told = rank_error_text(error)
    return with_hint(UserError(told, hint="resume")) if told else ""


def _memory_error_text(error: Exception) -> str:
    """What to do where memory has run out outside of training, which tells more; empty for other errors."""
    from binas.run.memory import is_out_of_memory

    if not is_out_of_memory(error):
        return ""
    return f"out of memory ({error}); use fewer images or channels, or a machine with more memory"


def _run(words: list[str]) -> int:
    # idle threads of torch's pool wait for work at full speed for milliseconds, in the way of our own loops;
    # its runtime reads this when torch is imported
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    name = next((word for word in words if not word.startswith("-")), "")
    parser, of_command = _parsers()
    overrides: dict[str, Any] = {}
    module: Any = None
    if name in COMMANDS:
        module = importlib.import_module(f"binas.cli.commands.{COMMANDS[name][0]}")
        arguments = Arguments(of_command[name])
        keys = getattr(module, "KEYS", "")
        arguments.describe(COMMANDS[name][1], module.DESCRIPTION)
        module.add_arguments(arguments)
        if keys == "recipe" and ("-h" in words or "--help" in words):
            from binas.cli.session import recipe_keys

            arguments.parser.epilog = recipe_keys()
        if keys:
            from binas.cli.overrides import split_overrides

            words, overrides = split_overrides(words, arguments.flags)
    options = parser.parse_args(words)
    if module is None:
        parser.print_help()
        return 0
    with shown():
        return int(module.run(options, overrides) or 0)


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of `binas`, and an empty one for each command."""
    parser = argparse.ArgumentParser(
        prog="binas",
        description="Architecture search for binary neural networks: search, retrain, eval, check.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"binas {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    return parser, {
        name: commands.add_parser(
            name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )
        for name, (_, summary) in COMMANDS.items()
    }
