"""Which binarizer is what in an exported program, by back end: docs/exported_binarizers.md.

`python tools/counts/exported_binarizers.py` writes the page; `--check` only says whether the page is what
would be written. Each binarizer stands in a small network that is exported by each back end.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from binas.binarize import ACTIVATION_BINARIZERS, WEIGHT_BINARIZERS
from binas.deploy.c.emit import emit
from binas.deploy.export import export_module
from binas.deploy.graph import Graph
from binas.deploy.model_file import Model, write_model
from binas.deploy.onnx_file import write_onnx
from binas.deploy.planes import levels_of
from binas.errors import UserError
from binas.nn import BinaryConv2d
from binas.run.files import write_atomic
from tools.measuring.measured import CHECKOUT, markdown_table

PAGE = CHECKOUT / "docs" / "exported_binarizers.md"
HEAD = """\
# Binarizers in exported programs

What becomes of a convolution with each binarizer, by back end; this page is made by exporting each of them
(`python tools/counts/exported_binarizers.py`). *k planes*: its codes are sums of k signs, computed as so many
1-bit convolutions (planes of inputs × planes of weights); *n bases*: n pairs of codes and scale are added up.
*float*: the convolution is a real-valued one in the program, with the same result. Weights are fresh ones;
`onnx` always has float operators, in which signs are exactly ±1.
"""


def main() -> int:
    """Writes the page, or with --check compares it; status 1 where it is another one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    check = parser.parse_args().check
    text = page()
    if check:
        is_same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        print(f"{PAGE}: {'is up to date' if is_same else 'differs: run the tool without --check'}")
        return 0 if is_same else 1
    write_atomic(PAGE, text)
    print(PAGE)
    return 0


def page() -> str:
    """The whole text."""
    parts = [HEAD]
    for title, registry, place in (
        ("Of activations", ACTIVATION_BINARIZERS, 0),
        ("Of weights", WEIGHT_BINARIZERS, 1),
    ):
        rows = []
        for name in registry:
            for options in registry[name].variants:  # type: ignore[union-attr]
                rows.append([_spelled(name, options), *row({"name": name, **options}, place)])
        parts += [f"## {title}\n", markdown_table(["binarizer", "codes", "binas", "c", "onnx"], rows), ""]
    return "\n".join(parts)


def _spelled(name: str, options: dict[str, Any]) -> str:
    return f"`{name}`" + "".join(f", {key} {value}" for key, value in options.items())


def row(binarizer: dict[str, Any], place: int) -> list[str]:
    """Codes, and what each back end makes of the layer."""
    torch.manual_seed(0)
    chosen: list[Any] = [{"name": "sign"}, {"name": "xnor"}]
    chosen[place] = binarizer
    conv = BinaryConv2d(12, 20, 3, padding=1, activation=chosen[0], weight=chosen[1])
    module = nn.Sequential(
        nn.Conv2d(2, 12, 3), nn.BatchNorm2d(12), conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 3)
    ).eval()
    try:
        model = export_module(module, torch.zeros(1, 2, 7, 7))
    except UserError as error:
        return ["-", *[f"refused: {str(error).split(';')[0].removeprefix('export: ')}"] * 3]
    codes, how = _read(model.graph)
    with TemporaryDirectory() as folder:
        writers: list[Callable[[Model], Any]] = [
            lambda model: write_model(model, Path(folder) / "m.binas"),
            lambda model: emit(model.graph),
            lambda model: write_onnx(model, Path(folder) / "m.onnx"),
        ]
        found = [_written(write, model, how) for write in writers]
    found[2] = "float operators" if found[2] == how else found[2]
    return [codes, *found]


def _written(write: Callable[[Model], Any], model: Model, how: str) -> str:
    try:
        write(model)
    except UserError as error:
        return f"refused: {error}"
    return how


def _read(graph: Graph) -> tuple[str, str]:
    """What the codes are, and what the convolution is."""
    binary = [node for node in graph.nodes if node.op == "binary_convolution"]
    if not binary:
        return "real numbers in the kernel, or of the input", "float"
    first = binary[0]
    inputs = levels_of(first.attributes["levels"]).planes
    weights = levels_of([int(code) for code in set(first.tensors["weight"].reshape(-1).tolist())]).planes
    words = " × ".join("1 bit" if planes == 1 else f"{planes} planes" for planes in (inputs, weights))
    return words + (f", {len(binary)} bases" if len(binary) > 1 else ""), "1-bit"


if __name__ == "__main__":
    sys.exit(main())
