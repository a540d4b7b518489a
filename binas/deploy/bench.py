"""Milliseconds of a model for one image, beside other runtimes: in one process, taking turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from binas.deploy.graph import Array
from binas.deploy.model_file import Model
from binas.deploy.runtime import Loaded
from binas.errors import UserError

if TYPE_CHECKING:
    from torch import nn

Run = Callable[[], Any]
WARM_UP = 3
SHORTEST = 0.005
"""Seconds that one measurement takes at least; short programs are run several times in it."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one image.

    Args:
        median, low, high: of the rounds: the middle one, and those that a tenth lies below and above.
        rounds: how many.
    """

    median: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class Step:
    """Milliseconds of one step of the program: kind is 1-bit, real or glue."""

    source: str
    kind: str
    milliseconds: float


def timings(
    model: Model,
    module: nn.Module | None,
    against: tuple[str, ...],
    rounds: int = 30,
    threads: int = 1,
) -> dict[str, Timing]:
    """The model's time and those of others for the same network, with so many threads each.

    Args:
        module: the network, for torch.
        against: of torch, onnxruntime, openvino.
        rounds: each runtime is measured once in each.
        threads: of each runtime.
    Raises:
        UserError: one of them is not installed, or there is nothing for it to run.
    """
    image = np.random.default_rng(0).normal(size=model.graph.input_shape).astype(np.float32)
    loaded = Loaded(model, threads=threads)
    runs: dict[str, Run] = {f"binas ({loaded.runs_on})": lambda: loaded.scores(image)}
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        if {"onnxruntime", "openvino"} & set(against):
            from binas.deploy.onnx_file import write_onnx

            write_onnx(model, file)
        nchw = np.ascontiguousarray(image.transpose(2, 0, 1)[None])
        for name in against:
            if name not in _OTHERS:
                raise UserError(f"bench: against: '{name}' is none of {', '.join(_OTHERS)}")
            try:
                runs[name] = _OTHERS[name](file, module, nchw, threads)
            except ImportError:
                raise UserError(f"bench: against {name}: it is not installed: pip install {name}") from None
        return measured(runs, rounds)


def measured(runs: Mapping[str, Run], rounds: int) -> dict[str, Timing]:
    """Each in turn, as often as there are rounds."""
    repeats = {}
    for name, run in runs.items():
        for _ in range(WARM_UP):
            run()
        begun = time.perf_counter()
        run()
        repeats[name] = max(1, round(SHORTEST / max(time.perf_counter() - begun, 1e-7)))
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            begun = time.perf_counter()
            for _ in range(repeats[name]):
                run()
            found[name].append(1000 * (time.perf_counter() - begun) / repeats[name])
    return {name: _timing(values) for name, values in found.items()}


def _timing(values: list[float]) -> Timing:
    values = sorted(values)
    tenth = len(values) // 10
    return Timing(statistics.median(values), values[tenth], values[-1 - tenth], len(values))


def steps(model: Model, rounds: int = 30) -> list[Step]:
    """What each step of the program takes, the mean of some runs."""
    loaded = Loaded(model, defines=("BINAS_PROFILE", "_POSIX_C_SOURCE=199309L"))
    if loaded.program is None:
        raise UserError("bench: there is no C compiler, and the reference in NumPy is no program to be timed")
    image = np.random.default_rng(0).normal(size=model.graph.input_shape).astype(np.float32)
    for _ in range(WARM_UP):
        loaded.scores(image)
    loaded.times()
    for _ in range(rounds):
        loaded.scores(image)
    seconds = loaded.times()
    return [
        Step(source, kind, 1000 * spent / rounds)
        for (_, source, kind), spent in zip(loaded.program.groups, seconds, strict=True)
    ]


def _torch(file: Path, module: nn.Module | None, image: Array, threads: int) -> Run:
    import torch

    if module is None:
        raise UserError("bench: against torch: a .binas file has no torch network; give the checkpoint")
    torch.set_num_threads(threads)
    network, given = module.eval(), torch.from_numpy(image)

    def run() -> Any:
        with torch.inference_mode():
            return network(given)

    return run


def _onnxruntime(file: Path, module: nn.Module | None, image: Array, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"input": image})


def _openvino(file: Path, module: nn.Module | None, image: Array, threads: int) -> Run:
    import openvino

    core = openvino.Core()
    how = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(core.read_model(str(file)), "CPU", how).create_infer_request()
    return lambda: request.infer({0: image})


_OTHERS: dict[str, Callable[[Path, Any, Array, int], Run]] = {
    "torch": _torch,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
