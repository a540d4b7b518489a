"""The table of latencies for an evolution: every layer of a recipe's candidates, measured alone.

Each convolution and linear layer runs as the package runs it, on this machine's CPU, in evaluation mode and
for one image: codes of k bits are simulated in floating point, so the times are not those of a device that
computes with bits. The layers are those of the largest and the smallest network, of all that differ from the
largest in one gene, of the uniform ones and of networks drawn at random. Times that a table has already are
kept, and only what is missing is measured.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from binas import __version__
from binas.binarize import set_progress
from binas.errors import UserError
from binas.evolve.problems.genome import Genome, GenomeSpace
from binas.evolve.problems.problem import Problem, profile_of
from binas.profile.cost import LayerCost
from binas.profile.executed import ROOT
from binas.profile.latency import Entry, LatencyTable, signatures
from binas.profile.measuring import milliseconds
from binas.run.device import device_name
from binas.run.progress import progress, say

SAVED_EVERY = 10.0
"""Seconds between two states of the file."""


def fill_table(
    out: Path,
    problem: Problem,
    *,
    num_random: int = 500,
    seed: int = 0,
    named: Sequence[str] = (),
    runs: int = 30,
    threads: int = 1,
) -> None:
    """Adds what a table lacks of the candidates' layers, and writes it on the way.

    Args:
        out: the file: YAML, or JSON if it ends in .json.
        problem: what is evolved.
        num_random: networks drawn at random whose layers are measured too.
        seed: of these.
        named: more genomes, the values of their genes with commas.
        runs: of a layer; their median counts.
        threads: of the CPU.
    Raises:
        UserError: the table is of another device, or a genome is none of the problem's.
    """
    if min(runs, threads) < 1 or num_random < 0:
        raise UserError("latency: runs and threads are numbers from 1 on, genomes from 0")
    torch.set_num_threads(threads)
    device = format_device(threads)
    times = kept_times(out, device)
    missing = missing_layers(problem, candidates(problem, num_random, seed, named), times)
    count, saved = sum(map(len, missing.values())), time.monotonic()
    say(f"{len(times)} layers are there, {count} are measured: {device}")
    try:
        for words, took in progress(measured(problem, missing, runs), "layers", count):
            times[words] = took
            if time.monotonic() - saved > SAVED_EVERY:
                write(out, device, times)
                saved = time.monotonic()
    finally:
        write(out, device, times)


def write(out: Path, device: str, times: dict[str, float]) -> None:
    """Writes the table."""
    entries = tuple(Entry(layer=words, ms=milliseconds) for words, milliseconds in times.items())
    LatencyTable(device=device, unit="ms", entries=entries).write(out)


def format_device(threads: int) -> str:
    """What decides the times, in words."""
    name = device_name(torch.device("cpu"))
    many = f"{threads} thread{'s' * (threads > 1)}"
    return f"{name}, {many}, torch {torch.__version__}, binas {__version__}, bits simulated in float32"


def kept_times(out: Path, device: str) -> dict[str, float]:
    """The times that a file has already.

    Raises:
        UserError: they are of something else.
    """
    if not out.exists():
        return {}
    table = LatencyTable.read(out)
    if table.device != device:
        raise UserError(
            f"{out}: has the times of '{table.device}', and these would be of '{device}'; name another file",
            hint="output",
        )
    return {entry.layer: entry.ms for entry in table.entries}


def candidates(problem: Problem, num_random: int, seed: int, named: Sequence[str]) -> list[Genome]:
    """The genomes whose layers are measured, each once; those drawn at random come last."""
    space, largest = problem.space, problem.largest()
    # the search asks for the costs of both ends, whatever it meets
    found = [largest, space.nth(0), space.nth(space.size - 1), *problem.references.values()]
    found += [parse_genome(space, text) for text in named]
    for place, gene in enumerate(space.genes):
        found += [(*largest[:place], choice, *largest[place + 1 :]) for choice in range(len(gene.choices))]
    generator = random.Random(seed)
    found += [space.random(generator) for _ in range(num_random)]
    return list(dict.fromkeys(map(space.canonical, found)))


def parse_genome(space: GenomeSpace, text: str) -> Genome:
    """The genome of these values.

    Raises:
        UserError: there is none.
    """
    words = [word.strip() for word in text.split(",")]
    if len(words) != len(space.genes):
        raise UserError(f"genome {text}: {len(words)} values, and there are {len(space.genes)} genes")
    places = []
    for word, gene in zip(words, space.genes, strict=True):
        choices = list(map(str, gene.choices))
        if word not in choices:
            raise UserError(f"genome {text}: '{word}' is no choice of {gene.name}: {', '.join(choices)}")
        places.append(choices.index(word))
    return tuple(places)


def missing_layers(
    problem: Problem, genomes: Sequence[Genome], times: dict[str, float]
) -> dict[Genome, list[tuple[str, LayerCost]]]:
    """Which layers have no time yet, by the first genome that has them."""
    known = set(times)
    found: dict[Genome, list[tuple[str, LayerCost]]] = {}
    for genome in progress(genomes, "candidates", len(genomes)):
        own = dict(signatures(profile_of(problem.structure(genome)).layers))
        new = [(words, layer) for words, layer in own.items() if words not in known]
        known.update(own)
        if new:
            found[genome] = new
    last = max((genomes.index(genome) + 1 for genome in found), default=0)
    told = f"the last layer that is new came with candidate {last}" if found else "no layer is new"
    say(f"{len(genomes)} candidates: {told}")
    return found


def measured(
    problem: Problem, missing: dict[Genome, list[tuple[str, LayerCost]]], runs: int
) -> Iterator[tuple[str, float]]:
    """Signature and milliseconds of every layer."""
    for genome, layers in missing.items():
        network = problem.structure(genome).build_network().eval()
        set_progress(network, 1.0)
        for told, layer in layers:
            if layer.name == ROOT:
                raise UserError(f"'{told}' is no module of the network; write its time by hand")
            yield told, milliseconds(network.get_submodule(layer.name), layer, runs)
