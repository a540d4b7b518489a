"""What the command line adds to an error of the library: how its remedy is spelled in flags."""

from __future__ import annotations

from binas.errors import UserError

HINTS = {
    "plugins": "one of your own comes with --plugins FILE",
    "plugin_copy": "name your copy with --plugins FILE",
    "resume": "--resume goes on with it",
    "begin": "start it without --resume",
    "exists": "--resume goes on with it, --overwrite replaces it, --name takes another",
    "settings": "each is also a flag, --KEY VALUE; with --overwrite it replaces this run",
    "data_root": "name their folder with --data-root FOLDER",
    "output": "name another one with --output FILE",
    "names": "name it with --names SOURCE",
    "init_channels": "set it with --init-channels N",
    "storage": "it is named with --storage FILE|URL",
    "study": "it is named with --study NAME",
    "latency": (
        "binas latency RECIPE --output FILE measures all layers of a recipe's candidates,"
        " with --genome GENOME those of one"
    ),
}
"""The sentence behind each hint of a `UserError`."""


def with_hint(error: UserError) -> str:
    """The text of an error as the command line tells it: its message, and its remedy in flags."""
    if not error.hint:
        return str(error)
    between = "\n" if "\n" in str(error) else "; "
    return f"{error}{between}{HINTS[error.hint]}"
