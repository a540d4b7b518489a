"""Milliseconds of the steps of exported programs, measured inside them, in a table; a program is their sum.

A step is what the C program does in one pass: a convolution with what follows it number by number, a pool, a
sum. Its signature says all that its time depends on, so that steps of one network tell those of another.
"""

from __future__ import annotations

import difflib
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from binas.deploy.c.emit import Program, emit
from binas.deploy.c.groups import Group, grouped
from binas.deploy.graph import Graph, Node
from binas.deploy.planes import levels_of
from binas.errors import UserError
from binas.profile.latency import Entry, LatencyTable

if TYPE_CHECKING:
    from binas.deploy.model_file import Model

BATCHES = 5
"""Times that a program is measured; the least of each step counts: what disturbs it only adds."""
SECONDS = 0.04
"""Of a batch, at least."""


def signatures(graph: Graph) -> list[str]:
    """The steps of a graph's program, in the order in which they run."""
    groups = grouped(graph)
    return [_signature(graph, groups[number]) for number in _numbers(emit(graph))]


def _numbers(program: Program) -> dict[int, list[int]]:
    """Of each step its functions: what makes it, and what pads its input before."""
    found: dict[int, list[int]] = {}
    for place, (name, _, _) in enumerate(program.groups):
        found.setdefault(int(name[1:].split("_")[0]), []).append(place)
    return found


def _signature(graph: Graph, group: Group) -> str:
    return " | ".join(_of_node(graph, node) for node in group.nodes)


def _of_node(graph: Graph, node: Node) -> str:
    words = [node.op]
    how = node.attributes
    for key in ("function", "kernel", "stride", "padding", "dilation", "groups", "counts_padding"):
        if key in how:
            words.append(f"{key} {_plain(how[key])}")
    if "pad_value" in how and how.get("padding"):
        words.append(f"margin {'in' if how['pad_value'] in how['levels'] else 'out of'} levels")
    if "levels" in how:
        words.append(f"inputs {levels_of(how['levels']).planes} bit" if node.op != "step" else "codes")
        words.append(f"{len(how['levels'])} levels")
    if node.op == "binary_convolution":
        weight = node.tensors["weight"]
        planes = levels_of([int(one) for one in np.unique(weight)]).planes
        words += [f"weights {planes} bit", f"taps {weight.shape[2]}x{weight.shape[3]}"]
    if node.op == "convolution":
        words.append(f"taps {node.tensors['weight'].shape[2]}x{node.tensors['weight'].shape[3]}")
    shapes = [_plain(graph.shape_of(name)) for name in node.inputs]
    if node.op in ("line", "unary", "prelu", "clamp", "step", "threshold"):
        shapes = shapes[:1]
    return f"{', '.join(words)}: {' + '.join(shapes)} -> {_plain(node.shape)}"


def _plain(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "x".join(map(str, value))
    return str(value)


def measured(model: Model, threads: int = 1) -> dict[str, float]:
    """Milliseconds of each step of a model's program, here; of equal steps the mean."""
    from binas.deploy.runtime import Loaded

    loaded = Loaded(model, threads=threads, defines=("BINAS_PROFILE", "_POSIX_C_SOURCE=199309L"))
    if loaded.program is None:
        raise UserError("latency: there is no C compiler; pip install 'binas[deploy]' brings one")
    image = np.random.default_rng(0).normal(size=model.graph.input_shape).astype(np.float32)
    loaded.scores(image)
    loaded.times()
    loaded.scores(image)
    rounds = max(2, math.ceil(SECONDS / max(sum(loaded.times()), 1e-6)))
    batches = []
    for _ in range(BATCHES):
        for _ in range(rounds):
            loaded.scores(image)
        seconds = loaded.times()
        steps = _numbers(loaded.program).values()
        batches.append([sum(seconds[place] for place in places) / rounds for places in steps])
    found: dict[str, list[float]] = {}
    for name, *taken in zip(signatures(model.graph), *batches, strict=True):
        found.setdefault(name, []).append(1000 * min(taken))
    return {name: statistics.mean(times) for name, times in found.items()}


class StepTimes:
    """A table of steps that grows.

    Args:
        path: of the file; it need not be there.
        device: in words; a table of another device is refused.
    Raises:
        UserError: the file is no table, or of another device.
    """

    def __init__(self, path: Path, device: str | None = None) -> None:
        self.path = path
        if path.is_file():
            table = LatencyTable.read(path)
            if device is not None and table.device != device:
                raise UserError(
                    f"{path}: is of '{table.device}', this is '{device}'; times of two machines do not go"
                    " together: name another file"
                )
            self.device, self.times = table.device, {entry.layer: entry.ms for entry in table.entries}
        elif device is None:
            raise UserError(f"{path}: no such table of steps; measure the space into it", hint="latency")
        else:
            self.device, self.times = device, {}

    def missing(self, graph: Graph) -> list[str]:
        """Steps of a graph's program that the table lacks."""
        return sorted(set(signatures(graph)) - set(self.times))

    def add(self, times: dict[str, float]) -> None:
        """Keeps steps that are new, and writes the file."""
        self.times = {**times, **self.times}
        entries = tuple(Entry(layer=name, ms=round(ms, 7)) for name, ms in sorted(self.times.items()))
        LatencyTable(device=self.device, unit="ms", entries=entries).write(self.path)

    def predicted(self, steps: Iterable[str]) -> float:
        """Milliseconds of a program with these steps.

        Raises:
            UserError: the table lacks one.
        """
        total = 0.0
        for step in steps:
            if step not in self.times:
                near = difflib.get_close_matches(step, self.times, n=1, cutoff=0.0)
                nearest = f"; the nearest is '{near[0]}'" if near else ""
                raise UserError(
                    f"{self.path}: lacks the step '{step}'{nearest}. Measure the network, or more of the"
                    " space, into it",
                    hint="latency",
                )
            total += self.times[step]
        return total


def fill(
    times: StepTimes,
    models: Iterable[Callable[[], Model]],
    *,
    threads: int = 1,
    patience: int = 5,
    told: Callable[[int, int, int], None] = lambda done, new, known: None,
) -> int:
    """Measures what a table lacks of these programs, one after another; gives how many it looked at.

    Args:
        models: makes each; the first ones should have what is in all.
        threads: of each program.
        patience: programs in a row without anything new after which it ends.
        told: after each: how many were looked at, its new steps, steps in the table.
    """
    done = idle = 0
    for make in models:
        model = make()
        new = times.missing(model.graph)
        if new:
            found = measured(model, threads)
            times.add({name: found[name] for name in new})
        done, idle = done + 1, 0 if new else idle + 1
        told(done, len(new), len(times.times))
        if idle >= patience:
            break
    return done
