"""Places boxes in layers from top to bottom so that neither boxes nor lines run over a box.

The steps of Sugiyama, Tagawa and Toda (1981): lines that pass a layer get a thin invisible box in it,
each layer is ordered for few crossings, then positions are drawn towards their neighbours under the
constraint that boxes keep their distance. Everything is in points, y grows downwards.
"""

from __future__ import annotations

import itertools
import random
from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from binas.draw.graph import Box, Link

Point = tuple[float, float]

BOX_GAP = 10.0  # between neighbours of one layer
LAYER_GAP = 30.0
LANE = 5.0  # width kept free for a line that passes a layer
PORT_GAP = 9.0  # between the ends of two lines at one box
ORDER_STARTS = 12
ORDER_SWEEPS = 10
POSITION_SWEEPS = 120


@dataclass(frozen=True)
class Place:
    """Centre and size of a box."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Layout:
    """Where everything goes: boxes by name, one list of points per link, the size of it all.

    Between points 0 and 1, 2 and 3, … a link runs straight down; between 1 and 2, 3 and 4, … it bends.
    """

    places: dict[str, Place]
    routes: list[list[Point]]
    width: float
    height: float


def place(boxes: Sequence[Box], links: Sequence[Link], sizes: Mapping[str, tuple[float, float]]) -> Layout:
    """The layout of boxes of those sizes (width and height by name)."""
    layer = {box.name: box.layer for box in boxes}
    chains = [_chain(index, link, layer) for index, link in enumerate(links)]
    widths = {name: sizes[name][0] if name in sizes else LANE for name in layer}
    segments = [pair for chain in chains for pair in itertools.pairwise(chain)]
    order = _ordered(layer, segments)
    x = _positions(order, segments, widths, set(sizes))
    bands = _bands(order, sizes)
    left = min(x[name] - widths[name] / 2 for name in x)
    places = {
        box.name: Place(x[box.name] - left, sum(bands[box.layer]) / 2, *sizes[box.name]) for box in boxes
    }
    ports = _ports(links, chains, x)
    routes = [
        _route(chain, [(x[name] - left) for name in chain], ports[index], places, layer, bands)
        for index, chain in enumerate(chains)
    ]
    width = max(x[name] + widths[name] / 2 for name in x) - left
    return Layout(places, routes, width, bands[-1][1])


def _chain(index: int, link: Link, layer: dict[str, int]) -> list[str]:
    lanes = [f"lane{index}_{number}" for number in range(layer[link.start] + 1, layer[link.end])]
    for number, name in enumerate(lanes, start=layer[link.start] + 1):
        layer[name] = number
    return [link.start, *lanes, link.end]


def _neighbours(segments: Sequence[tuple[str, str]]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    above: dict[str, list[str]] = {}
    below: dict[str, list[str]] = {}
    for start, end in segments:
        above.setdefault(end, []).append(start)
        below.setdefault(start, []).append(end)
    return above, below


def _ordered(layer: Mapping[str, int], segments: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Names layer by layer, in the order with the fewest crossings among those of several starts."""
    above, below = _neighbours(segments)
    order: list[list[str]] = [[] for _ in range(max(layer.values()) + 1)]
    for name, number in layer.items():
        order[number].append(name)
    best, fewest = [list(names) for names in order], _crossings(order, below)
    shuffle = random.Random(0).shuffle  # a fixed seed: the same cell, the same picture
    for _ in range(ORDER_STARTS):
        for sweep in range(ORDER_SWEEPS):
            _sort_by_neighbours(order, above if sweep % 2 == 0 else below, downwards=sweep % 2 == 0)
            _swap_neighbours(order, above, below)
            crossings = _crossings(order, below)
            if crossings < fewest:
                best, fewest = [list(names) for names in order], crossings
        if fewest == 0:
            break
        for names in order[1:]:
            shuffle(names)
    return best


def _sort_by_neighbours(order: list[list[str]], near: Mapping[str, list[str]], downwards: bool) -> None:
    """Sorts each layer by the mean position of its neighbours in the layer done before it."""
    # the first layer holds the two inputs, whose order the reader expects
    for number in range(1, len(order)) if downwards else range(len(order) - 2, 0, -1):
        rank = {name: place for place, name in enumerate(order[number - 1 if downwards else number + 1])}
        means = {name: _mean([rank[other] for other in near.get(name, ())]) for name in order[number]}
        order[number].sort(key=means.__getitem__)


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else -1.0


def _swap_neighbours(
    order: list[list[str]], above: Mapping[str, list[str]], below: Mapping[str, list[str]]
) -> None:
    rank = {name: position for names in order for position, name in enumerate(names)}
    for names in order[1:]:
        for position in range(len(names) - 1):
            first, second = names[position], names[position + 1]
            gain = 0
            for near in (above, below):
                for a in near.get(first, ()):
                    for b in near.get(second, ()):
                        gain += (rank[a] > rank[b]) - (rank[a] < rank[b])
            if gain > 0:
                names[position], names[position + 1] = second, first
                rank[first], rank[second] = position + 1, position


def _crossings(order: Sequence[Sequence[str]], below: Mapping[str, list[str]]) -> int:
    total = 0
    for names, under in itertools.pairwise(order):
        rank = {name: position for position, name in enumerate(under)}
        seen: list[int] = []
        for name in names:
            ends = sorted(rank[other] for other in below.get(name, ()))
            total += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return total


def _positions(
    order: Sequence[Sequence[str]],
    segments: Sequence[tuple[str, str]],
    widths: Mapping[str, float],
    boxes: set[str],
) -> dict[str, float]:
    """Horizontal centres: each layer in turn moves to where its neighbours pull it."""
    pulls: dict[str, list[tuple[str, float]]] = {}
    for start, end in segments:
        weight = (1.0, 2.0, 16.0)[(start not in boxes) + (end not in boxes)]  # long lines run straight
        pulls.setdefault(start, []).append((end, weight))
        pulls.setdefault(end, []).append((start, weight))
    x: dict[str, float] = {}
    for names in order:
        offsets = _offsets(names, widths)
        x |= {name: offset - offsets[-1] / 2 for name, offset in zip(names, offsets, strict=True)}
    for sweep in range(POSITION_SWEEPS):
        for names in order if sweep % 2 == 0 else reversed(order):
            weights = [sum(weight for _, weight in pulls.get(name, ())) or 1e-3 for name in names]
            wanted = [
                sum(x[other] * weight for other, weight in pulls[name]) / total if name in pulls else x[name]
                for name, total in zip(names, weights, strict=True)
            ]
            moved = _kept_apart(wanted, weights, _offsets(names, widths))
            x |= dict(zip(names, moved, strict=True))
    return x


def _offsets(names: Sequence[str], widths: Mapping[str, float]) -> list[float]:
    offsets = [0.0]
    for first, second in itertools.pairwise(names):
        offsets.append(offsets[-1] + (widths[first] + widths[second]) / 2 + BOX_GAP)
    return offsets


def _kept_apart(wanted: Sequence[float], weights: Sequence[float], offsets: Sequence[float]) -> list[float]:
    """The positions nearest to the wanted ones that are `offsets` apart or more (isotonic regression)."""
    blocks: list[tuple[float, float, int]] = []  # mean, weight, members
    for position, weight, offset in zip(wanted, weights, offsets, strict=True):
        mean, total, count = position - offset, weight, 1
        while blocks and blocks[-1][0] > mean:
            before, heavier, more = blocks.pop()
            mean = (mean * total + before * heavier) / (total + heavier)
            total, count = total + heavier, count + more
        blocks.append((mean, total, count))
    means = [mean for mean, _, count in blocks for _ in range(count)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


def _bands(
    order: Sequence[Sequence[str]], sizes: Mapping[str, tuple[float, float]]
) -> list[tuple[float, float]]:
    bands: list[tuple[float, float]] = []
    top = 0.0
    for names in order:
        height = max((sizes[name][1] for name in names if name in sizes), default=0.0)
        bands.append((top, top + height))
        top += height + LAYER_GAP
    return bands


def _ports(
    links: Sequence[Link], chains: Sequence[Sequence[str]], x: Mapping[str, float]
) -> list[tuple[float, float]]:
    """How far from the middle of its two boxes each link starts and ends, so that ends do not pile up."""
    shift = [[0.0, 0.0] for _ in links]
    for side, beside in ((0, 1), (1, -2)):
        at_box: dict[str, list[int]] = {}
        for index, link in enumerate(links):
            at_box.setdefault(link.end if side else link.start, []).append(index)
        for indices in at_box.values():
            indices.sort(key=lambda index: x[chains[index][beside]])
            for position, index in enumerate(indices):
                shift[index][side] = (position - (len(indices) - 1) / 2) * PORT_GAP
    return [(start, end) for start, end in shift]


def _route(
    chain: Sequence[str],
    x: Sequence[float],
    ports: tuple[float, float],
    places: Mapping[str, Place],
    layer: Mapping[str, int],
    bands: Sequence[tuple[float, float]],
) -> list[Point]:
    start, end = places[chain[0]], places[chain[-1]]
    # many ends at a small box: never beside the box
    first = x[0] + max(-0.4 * start.width, min(0.4 * start.width, ports[0]))
    last = x[-1] + max(-0.4 * end.width, min(0.4 * end.width, ports[1]))
    points = [(first, start.y + start.height / 2), (first, bands[layer[chain[0]]][1])]
    for name, centre in zip(chain[1:-1], x[1:-1], strict=True):
        top, bottom = bands[layer[name]]
        points += [(centre, top), (centre, bottom)]
    return [*points, (last, bands[layer[chain[-1]]][0]), (last, end.y - end.height / 2)]
