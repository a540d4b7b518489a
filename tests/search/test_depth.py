"""How deep the sum of operations lies under the command: a person who steps in must get there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import binas as package

Runner = Callable[..., tuple[int, str, str]]
MOST = 15
"""Frames of ours between the command's function and the cell's sum."""
PLUGIN = '''\
"""An operation that writes down who calls it."""
import traceback
from pathlib import Path

from torch import nn
from binas.ops import register_op


@register_op("witness")
class Witness(nn.AvgPool2d):
    """An average, and the stack under its first call."""

    def __init__(self, channels, stride):
        super().__init__(3, stride, padding=1)

    def forward(self, x):
        frames = traceback.extract_stack()[:-1]
        if "train_epoch" in {f.name for f in frames} and not Path("stack.txt").exists():
            Path("stack.txt").write_text("\\n".join(f"{f.filename}\\t{f.name}" for f in frames))
        return super().forward(x)
'''


def test_from_the_command_to_the_sum(tiny: Path, binas: Runner) -> None:
    (tiny / "witness.py").write_text(PLUGIN)
    text = (tiny / "tiny.yaml").read_text().replace("skip, binary_conv_3x3", "witness, binary_conv_3x3")
    (tiny / "own.yaml").write_text(text + "\n")
    status, _, error = binas("search", "own.yaml", "--plugins", "witness.py", "--name", "own")
    assert status == 0, error
    frames = [line.split("\t") for line in (tiny / "stack.txt").read_text().splitlines()]
    home = str(Path(package.__file__).parent)
    ours = [f"{Path(file).relative_to(home)} {name}" for file, name in frames if file.startswith(home)]
    command = max(place for place, frame in enumerate(ours) if frame.startswith("cli/commands/search.py run"))
    cell = max(place for place, frame in enumerate(ours) if frame.startswith("arch/cell.py"))
    between = ours[command + 1 : cell + 1]
    assert len(between) <= MOST, "\n".join(between)
