"""Exported networks beside other runtimes, with this machine's instructions and with lower ones.

    python tools/speed/bench_deploy.py --machine epyc2

Writes `benchmarks/deploy_MACHINE.md`. The machine should be quiet; a network takes about a minute.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
from functools import partial
from pathlib import Path

import numpy as np
import torch

from binas.deploy.bench import measured, steps, timings
from binas.deploy.export import export_module
from binas.deploy.opening import open_model
from binas.deploy.runtime import Loaded
from binas.nn import BinaryConv2d
from binas.run.files import write_atomic
from binas.run.machine import machine_words

NETWORKS = (("bnas_a", 32), ("bireal_resnet18", 224), ("reactnet_a", 224), ("resnet20", 32))
AGAINST = ("torch", "onnxruntime", "openvino")
LOWER = (("AVX2", "-march=x86-64-v3"), ("portable", ""))


KERNELS = ((256, 256, 14), (64, 64, 56), (512, 512, 7))
"""Channels in and out, and side, of 3×3 convolutions."""
PROFILE = ("BINAS_PROFILE", "_POSIX_C_SOURCE=199309L")


def main() -> None:
    """Measures and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--machine", required=True, help="a word for the file's name")
    parser.add_argument(
        "--rounds", type=int, default=20, help="each runtime is measured once in each (default: 20)"
    )
    options = parser.parse_args()
    lines = [
        "# Exported networks beside other runtimes",
        "",
        f"{machine_words()}, {datetime.date.today()}; one thread, one image, fresh weights, median of"
        f" {options.rounds} rounds in which the runtimes take turns (10 % to 90 % in brackets).",
        "`python tools/speed/bench_deploy.py` makes this page.",
        "",
        "| network | runtime | ms | × slower than binas |",
        "| --- | --- | --- | --- |",
    ]
    parts = [
        "",
        "| network | 1-bit | real | glue | signs in the file | file's constants |",
        "| --- | " + "--- | " * 5,
    ]
    for name, size in NETWORKS:
        opened = open_model(name, image_size=size, num_classes=10 if size == 32 else 1000)
        found = timings(opened.model, opened.module, AGAINST, options.rounds)
        image = np.zeros(opened.model.graph.input_shape, np.float32)
        lower = {
            f"binas ({label})": partial(Loaded(opened.model, arch=arch).scores, image)
            for label, arch in LOWER
        }
        found |= measured(lower, options.rounds)
        own = next(iter(found.values())).median
        for runtime, timing in found.items():
            spread = f"{timing.median:.3f} ({timing.low:.3f}–{timing.high:.3f})"
            lines.append(f"| {name}, {size}×{size} | {runtime} | {spread} | {timing.median / own:.2f} |")
        pieces = steps(opened.model, options.rounds)
        total = sum(piece.milliseconds for piece in pieces)
        shares = [
            sum(p.milliseconds for p in pieces if p.kind == kind) / total
            for kind in ("1-bit", "real", "glue")
        ]
        sizes = opened.model.sizes()
        kilobytes = sum(sizes.values()) / 1000
        words = " | ".join(f"{share:.0%}" for share in shares)
        parts.append(f"| {name} | {words} | {sizes['1-bit'] / 1000 / kilobytes:.0%} | {kilobytes:,.0f} kB |")
        print("\n".join(lines[-6:]), flush=True)
    parts += ["", *kernels(options.rounds)]
    path = Path("benchmarks") / f"deploy_{options.machine}.md"
    write_atomic(path, "\n".join([*lines, *parts]) + "\n")
    print(path)


def kernels(rounds: int) -> list[str]:
    """Multiply-accumulates a second of single binary convolutions, their scales included."""
    lines = [
        "| 3×3 convolution | instructions | ms | G multiply-accumulates/s |",
        "| --- | --- | --- | --- |",
    ]
    for inputs, outputs, side in KERNELS:
        module = torch.nn.Sequential(
            BinaryConv2d(inputs, outputs, 3, padding=1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
        ).eval()
        model = export_module(module, torch.zeros(1, inputs, side, side))
        image = np.random.default_rng(0).normal(size=model.graph.input_shape).astype(np.float32)
        for arch in ("-march=native", *(arch for _, arch in LOWER)):
            loaded = Loaded(model, arch=arch, defines=PROFILE)
            assert loaded.program is not None
            (place,) = (n for n, (_, _, kind) in enumerate(loaded.program.groups) if kind == "1-bit")
            taken = []
            for _ in range(rounds):
                for _ in range(20):
                    loaded.scores(image)
                taken.append(loaded.times()[place] / 20)
            seconds = statistics.median(taken)
            rate = inputs * outputs * 9 * side**2 / seconds / 1e9
            name = f"{inputs}→{outputs}, {side}×{side}"
            lines.append(f"| {name} | {loaded.runs_on} | {1000 * seconds:.4f} | {rate:,.0f} |")
            print(lines[-1], flush=True)
    return lines


if __name__ == "__main__":
    main()
