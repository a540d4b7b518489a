"""The command `binas`: one parser, one function per command in `binas.commands`, no logic of its own."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from binas import __version__
from binas.errors import UserError

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
        print(f"binas: {_which_rank()}error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("binas: interrupted; a run goes on with --resume", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except Exception as error:
        from binas.plugins import told_by_plugin

        told = told_by_plugin(error) or _told_by_memory(error) or _told_by_ranks(error)
        if not told:
            raise
        print(f"binas: {_which_rank()}error: {told}", file=sys.stderr)
        return 2


def _which_rank() -> str:
    """Which of several processes that a launcher has started this is, for its errors."""
    return f"rank {os.environ.get('RANK', 0)}: " if os.environ.get("WORLD_SIZE", "1") != "1" else ""


def _told_by_ranks(error: Exception) -> str:
    from binas.run.distributed import told_by_ranks

    return told_by_ranks(error)


def _told_by_memory(error: Exception) -> str:
    """What to do where memory has run out outside of training, which tells more; empty for other errors."""
    from binas.run.memory import is_out_of_memory

    if not is_out_of_memory(error):
        return ""
    return f"out of memory ({error}); use fewer images or channels, or a machine with more memory"


def _run(words: list[str]) -> int:
    parsers = _Parsers()
    overrides: dict[str, Any] = {}
    command = next((word for word in words if not word.startswith("-")), None)
    if command in ("search", "evolve", "retrain", "data", "profile"):
        if command != "profile" and ("-h" in words or "--help" in words):
            parsers.add_keys(command)
        words, overrides = parsers.split_overrides(command, words)
    options = parsers.main.parse_args(words)
    if options.command is None:
        parsers.main.print_help()
        return 0
    # idle threads of torch's pool wait for work at full speed for milliseconds, in the way of our own loops;
    # its runtime reads this when torch is imported
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    from binas import commands

    handler = getattr(commands, f"run_{options.command.replace('import', 'import_legacy')}")
    return int(handler(options, overrides) or 0)


class _Parsers:
    """The parser of `binas` and those of its commands, with the flags that each of them knows."""

    def __init__(self) -> None:
        self.main = argparse.ArgumentParser(
            prog="binas",
            description="Architecture search for binary neural networks: search, retrain, eval, check.",
            epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.main.add_argument("--version", action="version", version=f"binas {__version__}")
        self.commands = self.main.add_subparsers(dest="command", metavar="COMMAND")
        self.flags: dict[str, dict[str, bool]] = {}
        self.by_name: dict[str, argparse.ArgumentParser] = {}
        _add_search(self)
        _add_evolve(self)
        _add_retrain(self)
        _add_eval(self)
        _add_squeeze(self)
        _add_check(self)
        _add_profile(self)
        _add_draw(self)
        _add_ops(self)
        _add_binarizers(self)
        _add_models(self)
        _add_data(self)
        _add_import(self)

    def command(self, name: str, summary: str, description: str = "") -> _Command:
        """A new command."""
        parser = self.commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}. {description}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.by_name[name] = parser
        self.flags[name] = {"--help": False, "-h": False}
        return _Command(parser, self.flags[name])

    def add_keys(self, command: str) -> None:
        """Puts every key of a recipe into a command's help."""
        from binas.commands import recipe_keys

        self.by_name[command].epilog = recipe_keys()

    def split_overrides(self, command: str, words: list[str]) -> tuple[list[str], dict[str, Any]]:
        """The words that the parser knows, and `--key.subkey VALUE` or `--key=VALUE` as overrides."""
        from binas.config import parse_override

        known = self.flags[command]
        rest: list[str] = []
        overrides: dict[str, Any] = {}
        queue = list(words)
        while queue:
            word = queue.pop(0)
            flag = word.partition("=")[0]
            if not word.startswith("--") or flag in known:
                rest.append(word)
                if known.get(flag) and "=" not in word and queue:
                    rest.append(queue.pop(0))
                continue
            text = word.removeprefix("--")
            if "=" not in text:
                has_value = bool(queue) and not queue[0].startswith("--")
                text += f"={queue.pop(0)}" if has_value else "=true"
            key, value = parse_override(text)
            overrides[key] = value
        return rest, overrides


class _Command:
    """Adds arguments to a command's parser and remembers which flags take a value."""

    def __init__(self, parser: argparse.ArgumentParser, flags: dict[str, bool]) -> None:
        self.parser, self.flags = parser, flags

    def add(self, *names: str, **settings: Any) -> _Command:
        action = self.parser.add_argument(*names, **settings)
        takes_value = action.nargs is None or (isinstance(action.nargs, int) and action.nargs > 0)
        for name in action.option_strings:
            self.flags[name] = takes_value
        return self


def _plugins(command: _Command) -> _Command:
    return command.add(
        "--plugins",
        action="append",
        default=[],
        metavar="FILE",
        help="your own file of operations or binarizers; may be repeated",
    )


def _device(command: _Command) -> _Command:
    return command.add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")


def _run_options(command: _Command) -> _Command:
    command.add("--config", metavar="CONFIG", help="a recipe: a YAML file, or the name of a shipped one")
    command.add(
        "--micro-batch", metavar="auto|N",
        help="images computed at a time, gradients adding up; short for --search.micro_batch or --retrain.…",
    )  # fmt: skip
    command.add("--overwrite", action="store_true", help="replace the run folder if it is one of binas")
    command.add(
        "--resume", nargs="?", const="", metavar="RUN",
        help="go on with an interrupted run, bit for bit: runs/NAME (its own config is used)",
    )  # fmt: skip
    command.add("--print_config", action="store_true", help="print the resolved recipe and end")
    return _plugins(command)


def _add_search(parsers: _Parsers) -> None:
    command = parsers.command(
        "search",
        "search a space for a genotype",
        "Trains a supernet whose edges mix all candidate operations, and writes one\n"
        "recommended genotype. The weights are thrown away: retrain trains the genotype from scratch.",
    )
    command.add("recipe", nargs="?", metavar="CONFIG", help="the same as --config")
    _run_options(command)
    command.add("--strategy", choices=("gradient", "random"), help="short for --search.strategy")


def _add_evolve(parsers: _Parsers) -> None:
    command = parsers.command(
        "evolve",
        "evolve the widths or groups of a published network or a genotype",
        "Writes a Pareto front of accuracy and operations; its networks are files for retrain.\n"
        "With --storage any number of workers, on any machines, share one population.",
    )
    command.add("recipe", nargs="?", metavar="CONFIG", help="the same as --config")
    command.add("--genotype", metavar="FILE", help="a genotype whose cells are widened, in place of a model")
    command.add("--random", action="store_true", help="short for --evolve.strategy random: the control")
    command.add(
        "--storage",
        metavar="FILE|URL",
        help="what workers share: a file, or postgresql://user:…@host/database",
    )
    command.add("--study", metavar="NAME", help="which population of the storage")
    _run_options(command)


def _add_retrain(parsers: _Parsers) -> None:
    command = parsers.command(
        "retrain",
        "train a genotype or a published network from scratch, stage by stage",
        "Without --config it uses the recipe that the genotype was searched with.\n"
        "--model NAME takes a published network in place of a genotype; binas models lists them.",
    )
    command.add("genotype_file", nargs="?", metavar="GENOTYPE", help="the same as --genotype")
    command.add("--genotype", metavar="FILE", help="a genotype: a JSON file, or the name of a shipped one")
    _run_options(command)


def _add_eval(parsers: _Parsers) -> None:
    command = parsers.command(
        "eval", "accuracy of a checkpoint on the test images", "Builds everything from the checkpoint alone."
    )
    command.add("checkpoint", nargs="+", help="checkpoint.pt of a retrain run; several with --ensemble")
    command.add("--ensemble", action="store_true", help="predict by the mean of the networks' logits")
    command.add(
        "--split", choices=("test", "validation"), default="test", help="validation: kept aside in retraining"
    )
    command.add("--data-root", metavar="FOLDER", help="where the images lie, if they have moved")
    command.add("--json", action="store_true", help="print JSON")
    _plugins(_device(command))


def _add_squeeze(parsers: _Parsers) -> None:
    command = parsers.command(
        "squeeze",
        "take superfluous channels out of a trained network",
        "For a genotype's network with batch-norm scales, trained with a stage's batch_norm_sparsity.\n"
        "Writes a checkpoint to train on from, and beside it a JSON map of the channels that were kept.",
    )
    command.add("checkpoint", help="checkpoint.pt of a retrain run")
    command.add("--init-channels", type=int, required=True, metavar="N", help="channels of the first cell")
    command.add("-o", "--output", default="squeezed.pt", metavar="FILE", help="default: squeezed.pt")
    _plugins(command)


def _add_check(parsers: _Parsers) -> None:
    command = parsers.command(
        "check",
        "prove that a checkpoint's network is binary",
        "Runs it and looks at what enters every binary convolution.\nExit status 1 if it is not binary,"
        " or where binarizers with more levels are used, not what they declare.",
    )
    command.add("checkpoint", help="checkpoint.pt of a retrain run")
    command.add("--data-root", metavar="FOLDER", help="where the images lie, if they have moved")
    _plugins(_device(command))


def _add_profile(parsers: _Parsers) -> None:
    command = parsers.command(
        "profile", "count parameters, bits and operations of a genotype, published network or checkpoint",
        "Sizes that are not given are those of the genotype's own recipe; --model.KEY VALUE changes an\n"
        "option of a published network.",
    )  # fmt: skip
    command.add(
        "file", help="a genotype (file or shipped name), the name of a published network, or checkpoint.pt"
    )
    command.add("--image-size", type=int, nargs="+", metavar="N", help="side, or height and width, in pixels")
    command.add("--in-channels", type=int, metavar="N", help="channels of the images")
    command.add("--num-classes", type=int, metavar="N", help="classes")
    command.add("--num-cells", type=int, metavar="N", help="cells of the final network")
    command.add("--init-channels", type=int, metavar="N", help="channels of its first cell")
    command.add("--layers", action="store_true", help="a row for every layer")
    command.add("--json", metavar="FILE", help="write JSON; - prints it")
    command.add("--csv", metavar="FILE", help="write a row for every layer; - prints it")
    command.add("--chart", metavar="FILE", help="draw a bar chart (png, svg or pdf)")
    _plugins(command)


def _add_draw(parsers: _Parsers) -> None:
    command = parsers.command("draw", "draw a genotype's cells", "No window opens.")
    command.add("genotype", help="a genotype: a JSON file, or the name of a shipped one")
    command.add(
        "-o",
        "--output",
        default="cells.svg",
        metavar="FILE",
        help="svg, png, pdf or dot (default: cells.svg)",
    )
    _plugins(command)


def _add_ops(parsers: _Parsers) -> None:
    command = parsers.command(
        "ops",
        "list the operations, or check one of your own",
        "binas ops check my_ops.py:my_op tests the contract.",
    )
    command.add("action", nargs="?", choices=("list", "check"), default="list")
    command.add(
        "target", nargs="?", metavar="FILE:NAME", help="what to check: your file and a name in it, or a name"
    )
    command.add("--json", action="store_true", help="print JSON")
    _plugins(command)


def _add_binarizers(parsers: _Parsers) -> None:
    command = parsers.command(
        "binarizers",
        "list the binarizers, or check one of your own",
        "binas binarizers check my_binarizers.py tests the contract.",
    )
    command.add("action", nargs="?", choices=("list", "check"), default="list")
    command.add(
        "target", nargs="?", metavar="NAME", help="what to check: a name, your file, or your file:name"
    )
    command.add("--json", action="store_true", help="print JSON, with all variants")
    _plugins(command)


def _add_models(parsers: _Parsers) -> None:
    command = parsers.command(
        "models",
        "list the published networks, or the options of one",
        "binas retrain --model NAME trains one; --model.KEY VALUE changes an option.",
    )
    command.add("name", nargs="?", metavar="NAME", help="of one of them: its options too")
    command.add("--json", action="store_true", help="print JSON")


def _add_data(parsers: _Parsers) -> None:
    command = parsers.command(
        "data",
        "show the images of a recipe",
        "Class counts, sizes, mean, std, split hashes, and a grid picture.",
    )
    command.add("recipe", nargs="?", metavar="CONFIG", help="the same as --config")
    command.add("--config", metavar="CONFIG", help="a recipe: a YAML file, or the name of a shipped one")
    command.add(
        "-o", "--output", default="data.png", metavar="FILE", help="the grid picture (default: data.png)"
    )
    _plugins(command)


def _add_import(parsers: _Parsers) -> None:
    command = parsers.command(
        "import", "turn a legacy Genotype(...) text into a genotype file", "Nothing in it is executed."
    )
    command.add("file", help="a text file that holds Genotype(normal=[...], ...)")
    command.add(
        "--names", required=True, metavar="SOURCE", help="whose names of operations: darts, bnas or bats"
    )
    command.add("--space", metavar="SPACE", help="its search space (default: darts_binary, bnas or bats)")
    command.add("-o", "--output", default="genotype.json", metavar="FILE", help="default: genotype.json")
