"""`binas export`: a trained network as a 1-bit file, a C program, or ONNX."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from binas.cli.arguments import Arguments, plugins
from binas.cli.session import Overrides
from binas.errors import UserError
from binas.plugins import load_plugins
from binas.registries import REGISTRIES

if TYPE_CHECKING:
    from torch import nn

    from binas.deploy.model_file import Model
    from binas.deploy.opening import Opened
from binas.run.progress import say

DESCRIPTION = """\
binas: one file, weights packed to bits, for `binas predict`, `binas bench` and binas.deploy.load.
c: a folder with one C99 program without dependencies, a Makefile, a main that reads pictures, a test vector.
onnx: standard operators, weights exactly ±1.
The exported program is run beside the network on test images, and what differs is told."""


def add_arguments(arguments: Arguments) -> None:
    """What the command takes."""
    arguments.add("model", help="checkpoint.pt, a retrain run's folder, or a .binas file")
    arguments.add(
        "--format", choices=("binas", "c", "onnx"), help="default: by the output's ending; a folder is c"
    )
    arguments.add(
        "--output", metavar="PATH", help="default: beside the checkpoint: model.binas, model_c, model.onnx"
    )
    arguments.add(
        "--images", type=int, default=64, metavar="N", help="test images to compare on (default: 64)"
    )
    arguments.add("--data-root", metavar="FOLDER", help="where the images lie, if they have moved")
    plugins(arguments)


def run(options: Namespace, overrides: Overrides) -> int:
    """binas export"""
    from binas.deploy.opening import open_model

    if options.images < 0:
        raise UserError(f"export: --images: {options.images} is below 0; 0 compares none")
    opened = open_model(options.model, load_plugins(options.plugins, REGISTRIES))
    output, format_ = _output(options, opened.path)
    _written(opened.model, output, format_)
    sizes = opened.model.sizes()
    total = sum(sizes.values())
    if opened.module is not None:
        _compare(opened, opened.module, options)
    say(
        f"packed: {total / 1000:,.1f} kB, {sizes['1-bit'] / max(total, 1):.0%} of it signs"
        f" ({sizes['1-bit']:,} bytes of signs, {sizes['real']:,} of real numbers)"
    )
    return 0


def _output(options: Namespace, checkpoint: Path | None) -> tuple[Path, str]:
    endings = {".binas": "binas", ".onnx": "onnx", "": "c"}
    names = {"binas": "model.binas", "c": "model_c", "onnx": "model.onnx"}
    if options.output is None:
        format_ = options.format or "binas"
        folder = checkpoint.parent if checkpoint is not None else Path()
        return folder / names[format_], format_
    output = Path(options.output)
    format_ = options.format or endings.get(output.suffix)
    if format_ is None:
        raise UserError(
            f"export: {output}: which format? Name it .binas or .onnx, a folder for C, or give --format"
        )
    return output, format_


def _written(model: Model, output: Path, format_: str) -> None:
    if format_ == "c":
        from binas.deploy.c.folder import write_folder

        if output.exists() and not output.is_dir():
            raise UserError(f"export: {output}: is a file; a C program is a folder")
        program = write_folder(model, output)
        say(
            f"{output}: model.c, model.h, main.c, Makefile and test_vector.bin; the program needs"
            f" {program.arena_bytes / 1000:,.1f} kB for what it computes and"
            f" {program.constant_bytes / 1000:,.1f} kB of constants; next: make -C {output} test"
        )
        return
    if output.is_dir():
        raise UserError(f"export: {output}: is a folder; a file is written")
    if format_ == "onnx":
        from binas.deploy.onnx_file import write_onnx

        size = write_onnx(model, output)
    else:
        from binas.deploy.model_file import write_model

        size = write_model(model, output)
    say(f"{output}: {size:,} bytes")


def _compare(opened: Opened, module: nn.Module, options: Namespace) -> None:
    """What the program says of test images, beside the network."""
    from binas.deploy.agreement import compare
    from binas.deploy.export import real_layers
    from binas.deploy.opening import real_images
    from binas.deploy.runtime import Loaded

    real = real_layers(module, opened.model.graph)
    say("real-valued: " + ("; ".join(real) if real else "nothing"))
    if not options.images:
        return
    root = Path(options.data_root) if options.data_root else None
    images = real_images(opened, options.images, root)
    if images is None:
        say("not compared on images: the checkpoint's data is not at hand (--data-root says where it lies)")
        return
    loaded = Loaded(opened.model)
    found = compare(loaded.scores, opened.model.graph, module, images)
    say(f"{loaded.runs_on}: {found}")
    if found.unexplained:
        numbers = ", ".join(str(one.image) for one in found.unexplained)
        raise UserError(
            f"export: images {numbers}: the program differs from the network, and no sign is near its"
            " threshold; that is a defect of binas: report it with the checkpoint"
        )
