"""`binas bench`: how long an exported network takes, layer by layer, beside other runtimes."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from binas.cli.arguments import Arguments, plugins
from binas.cli.session import Overrides
from binas.errors import UserError
from binas.plugins import load_plugins
from binas.registries import REGISTRIES

DESCRIPTION = """\
One image at a time. All runtimes take turns in one process; the others run the same network
with its signs as float operators. The first network is the C program of `binas export`."""


def add_arguments(arguments: Arguments) -> None:
    """What the command takes."""
    arguments.add(
        "model", help="a .binas file, checkpoint.pt, a retrain run's folder, or a published network's name"
    )
    arguments.add(
        "--against", default="", metavar="NAME,…", help="of torch, onnxruntime, openvino, separated by commas"
    )
    arguments.add("--threads", type=int, default=1, help="of each runtime (default: 1)")
    arguments.add(
        "--rounds", type=int, default=30, help="each runtime is measured once in each (default: 30)"
    )
    arguments.add(
        "--layers", type=int, default=10, metavar="N", help="the slowest steps to list (default: 10)"
    )
    arguments.add("--image-size", type=int, default=224, help="of a published network by name (default: 224)")
    arguments.add(
        "--num-classes", type=int, default=1000, help="of a published network by name (default: 1000)"
    )
    arguments.add(
        "--json", metavar="FILE", help="write the figures there; -: print them in place of the table"
    )
    arguments.add("--chart", metavar="FILE", help="draw the time of each step (png, svg or pdf)")
    plugins(arguments)


def run(options: Namespace, overrides: Overrides) -> int:
    """binas bench"""
    from binas.deploy.bench import steps, timings
    from binas.deploy.footprint import footprint_of
    from binas.deploy.opening import is_model_file, open_model
    from binas.run.files import write_atomic
    from binas.run.machine import machine_words

    for name in ("threads", "rounds", "image_size", "num_classes"):
        if getattr(options, name) < 1:
            raise UserError(f"bench: --{name.replace('_', '-')}: {getattr(options, name)}: 1 is the least")
    plugins = () if is_model_file(options.model) else load_plugins(options.plugins, REGISTRIES)
    opened = open_model(
        options.model, plugins, num_classes=options.num_classes, image_size=options.image_size
    )
    against = tuple(word for word in options.against.split(",") if word)
    found = timings(opened.model, opened.module, against, options.rounds, options.threads)
    parts = steps(opened.model, options.rounds)
    takes = footprint_of(opened.model)
    total = sum(part.milliseconds for part in parts) or 1.0
    shares = {
        kind: sum(p.milliseconds for p in parts if p.kind == kind) / total
        for kind in ("1-bit", "real", "glue")
    }
    document = {
        "model": str(options.model),
        "hash": opened.model.hash,
        "machine": machine_words(),
        "threads": options.threads,
        "runtimes": {name: asdict(timing) for name, timing in found.items()},
        "shares": shares,
        "steps": [asdict(part) for part in parts],
        "bytes": opened.model.sizes(),
        "memory_bytes": {"activations": takes.activation_bytes, "constants": takes.constant_bytes},
    }
    if options.chart:
        from binas.deploy.chart import draw_steps

        draw_steps(parts, options.chart)
    if options.json is not None and options.json != "-":
        write_atomic(Path(options.json), json.dumps(document, indent=1) + "\n")
    if options.json == "-":
        print(json.dumps(document))
        return 0
    own = next(iter(found.values())).median
    count = "one thread" if options.threads == 1 else f"{options.threads} threads"
    print(f"{machine_words()}, {count}, one image, {options.rounds} rounds")
    print(f"{'runtime':28} {'ms':>9} {'10 % to 90 %':>18} {'× binas':>8}")
    for name, timing in found.items():
        spread = f"{timing.low:.3f}–{timing.high:.3f}"
        print(f"{name:28} {timing.median:9.3f} {spread:>18} {timing.median / own:8.2f}")
    print(
        f"memory of the program: {takes.activation_bytes / 1000:,.1f} kB in which it computes,"
        f" {takes.constant_bytes / 1000:,.1f} kB of constants"
    )
    words = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items())
    print(f"\ntime of the program's steps, one thread: {words}")
    for part in sorted(parts, key=lambda p: -p.milliseconds)[: options.layers]:
        bar = "█" * round(30 * part.milliseconds / total)
        print(f"{part.milliseconds:8.3f} ms  {part.kind:5}  {part.source[:40]:40} {bar}")
    return 0
