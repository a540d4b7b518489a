"""The look-up table of latencies for `binas evolve`: every layer of a recipe's candidates, measured alone.

Each convolution and linear layer runs as the package runs it, on this machine's CPU, in evaluation mode and
for one image: codes of k bits are simulated in floating point, so the times are not those of a device that
computes with bits. The layers are those of the largest and the smallest network, of all that differ from the
largest in one gene, of the uniform ones and of networks drawn at random; a search may meet others, and a
joint one needs thousands of --genomes. Entries that a table has already are kept: run the tool again with
more --genomes, another --seed or the --genome that the search names, and only what is missing is measured.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from binas import __version__
from binas.binarize import set_progress
from binas.cli.commands.evolve import read_known_genotype, topology_of
from binas.cli.hints import with_hint
from binas.cli.session import loaded_plugins
from binas.cli.terminal import shown
from binas.config import parse_override
from binas.data.opening import open_data
from binas.errors import UserError
from binas.evolve.problems.genome import Genome, GenomeSpace
from binas.evolve.problems.opening import open_problem
from binas.evolve.problems.problem import Problem, profile_of
from binas.profile.cost import LayerCost
from binas.profile.executed import ROOT
from binas.profile.latency import Entry, LatencyTable, signatures
from binas.recipe import Recipe, load_recipe
from binas.run.device import device_name
from binas.run.progress import progress, say

WARM_UP = 3
"""Runs of a layer before its time counts."""
SAVED_EVERY = 10.0
"""Seconds between two states of the file."""


def main(words: Sequence[str] | None = None) -> int:
    """Measures what the table lacks."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="Any key of the recipe can be changed after it, by --key.subkey VALUE.",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="of `binas evolve`: a file, or a shipped name")
    parser.add_argument("--genotype", metavar="FILE", help="the genotype that is evolved, if it is one")
    parser.add_argument("--plugins", action="append", default=[], metavar="FILE", help="as of `binas evolve`")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="YAML, or JSON if it ends in .json (default: the recipe's evolve.latency_table, or"
        " NAME_latency.yaml)",
    )
    parser.add_argument("--genomes", type=int, default=500, help="networks drawn at random (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="of these (default: 0)")
    parser.add_argument(
        "--genome", action="append", default=[], metavar="VALUES", help="one more: its genes, with commas"
    )
    parser.add_argument("--runs", type=int, default=30, help="of a layer; the median counts (default: 30)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    options, rest = parser.parse_known_args(words)
    try:
        if min(options.runs, options.threads) < 1 or options.genomes < 0:
            raise UserError("--runs and --threads are numbers from 1 on, --genomes from 0")
        recipe = load_recipe(options.recipe, overrides(rest))
        default = recipe.evolve.latency_table or Path(f"{recipe.name}_latency.yaml")
        with shown():
            fill(options.out or default, opened(recipe, options), options)
    except UserError as error:
        print(f"error: {with_hint(error)}", file=sys.stderr)
        return 2
    return 0


def overrides(words: list[str]) -> dict[str, Any]:
    """`--key.subkey VALUE` and `--key.subkey=VALUE` as keys and values of a recipe."""
    found, queue = {}, list(words)
    while queue:
        word = queue.pop(0)
        if not word.startswith("--") or ("=" not in word and not queue):
            raise UserError(f"{word}: write changes of the recipe as --key.subkey VALUE, after RECIPE")
        text = word.removeprefix("--")
        key, value = parse_override(text if "=" in text else f"{text}={queue.pop(0)}")
        found[key] = value
    return found


def opened(recipe: Recipe, options: Namespace) -> Problem:
    """The problem of a recipe, as `binas evolve` opens it; its costs tell no latencies."""
    plugins = loaded_plugins(options, recipe)
    genotype = None if options.genotype is None else read_known_genotype(options.genotype, plugins)
    what, data = topology_of(recipe, genotype), open_data(recipe.data)
    return open_problem(recipe.evolve, what, recipe.retrain.network, data, plugins)


def fill(out: Path, problem: Problem, options: Namespace) -> None:
    """Adds what a table lacks of the candidates' layers, and writes it on the way."""
    torch.set_num_threads(options.threads)
    device = device_words(options.threads)
    times = kept_times(out, device)
    missing = missing_layers(problem, candidates(problem, options), times)
    count, saved = sum(map(len, missing.values())), time.monotonic()
    say(f"{len(times)} layers are there, {count} are measured: {device}")
    try:
        for words, milliseconds in progress(measured(problem, missing, options.runs), "layers", count):
            times[words] = milliseconds
            if time.monotonic() - saved > SAVED_EVERY:
                write(out, device, times)
                saved = time.monotonic()
    finally:
        write(out, device, times)
    say(f"written: {out}; binas evolve takes it by --evolve.latency_table {out}")


def write(out: Path, device: str, times: dict[str, float]) -> None:
    """Writes the table."""
    entries = tuple(Entry(layer=words, ms=milliseconds) for words, milliseconds in times.items())
    LatencyTable(device=device, unit="ms", entries=entries).write(out)


def device_words(threads: int) -> str:
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
            f"{out}: has the times of '{table.device}', and these would be of '{device}'; name another file"
            " by --out"
        )
    return {entry.layer: entry.ms for entry in table.entries}


def candidates(problem: Problem, options: Namespace) -> list[Genome]:
    """The genomes whose layers are measured, each once; those drawn at random come last."""
    space, largest = problem.space, problem.largest()
    # the search asks for the costs of both ends, whatever it meets
    found = [largest, space.nth(0), space.nth(space.size - 1), *problem.references.values()]
    found += [named(space, text) for text in options.genome]
    for place, gene in enumerate(space.genes):
        found += [(*largest[:place], choice, *largest[place + 1 :]) for choice in range(len(gene.choices))]
    generator = random.Random(options.seed)
    found += [space.random(generator) for _ in range(options.genomes)]
    return list(dict.fromkeys(map(space.canonical, found)))


def named(space: GenomeSpace, text: str) -> Genome:
    """The genome of these values.

    Raises:
        UserError: there is none.
    """
    words = [word.strip() for word in text.split(",")]
    if len(words) != len(space.genes):
        raise UserError(f"--genome {text}: {len(words)} values, and there are {len(space.genes)} genes")
    places = []
    for word, gene in zip(words, space.genes, strict=True):
        choices = list(map(str, gene.choices))
        if word not in choices:
            raise UserError(f"--genome {text}: '{word}' is no choice of {gene.name}: {', '.join(choices)}")
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


def milliseconds(module: nn.Module, layer: LayerCost, runs: int) -> float:
    """The median time of a layer alone, for one image of random numbers."""
    image = torch.randn(1, *layer.input_shape)
    seconds = []
    with torch.inference_mode():
        for _ in range(WARM_UP + runs):
            start = time.perf_counter()
            module(image)
            seconds.append(time.perf_counter() - start)
    return round(statistics.median(seconds[WARM_UP:]) * 1000, 5)


if __name__ == "__main__":
    sys.exit(main())
