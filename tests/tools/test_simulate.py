"""Simulated searches on a table that is made up, where it is known which rule must win."""

from __future__ import annotations

import random
import re
import statistics

import pytest

from tools.table.simulate import Entry, Search, compared, default, described, halving, largest, random_search


def table(worth: float, scored: float = 0.0) -> list[Entry]:
    """Genotypes whose accuracy is so much a matter of parameters, and of a supernet's score."""
    generator, found = random.Random(0), []
    for number in range(60):
        size, hidden = generator.random(), generator.random()
        accuracy = 0.8 + 0.1 * (worth * size + scored * hidden + (1 - worth - scored) * generator.random())
        seeds = [accuracy + generator.gauss(0, 0.001) for _ in range(2)]
        losses = tuple(tuple(10 - 9 * seed + generator.gauss(0, 0.01) for _ in range(10)) for seed in seeds)
        parameters = int(1e4 * (1 + size))
        found.append(
            Entry(str(number), parameters, 1.0, losses, tuple(seeds), tuple(seeds), (1 - hidden, 1 - hidden))
        )
    return found


def mean(rows: list[Entry], rule: object, epochs: float = 60) -> float:
    """Accuracy of the other seed over searches by a rule."""
    found = []
    for number in range(200):
        search = Search(rows, number % 2, 0, random.Random(number), epochs)
        found.append(rule(search).test[1 - number % 2])  # type: ignore[operator]
    return statistics.mean(found)


def test_parameters_win_where_they_are_all_and_lose_nothing_where_they_are_none() -> None:
    by_size = largest(lambda entry: entry.parameters)
    rows = table(1.0)
    assert mean(rows, by_size) > mean(rows, random_search) + 0.005
    assert mean(rows, default(0, 60, 12)) > mean(rows, random_search) + 0.005
    luck = table(0.0)
    assert mean(luck, default(0, 60, 12)) > mean(luck, random_search) - 0.005


def test_the_supernet_chooses_where_only_it_ranks() -> None:
    rows = table(0.0, 0.9)
    with_it, without = mean(rows, default(4, 40, 12), 160), mean(rows, default(0, 40, 12), 160)
    assert with_it > without


def test_nothing_costs_more_epochs_than_there_are() -> None:
    rows = table(0.5)
    search = Search(rows, 0, 0, random.Random(0), 60)
    number = search.affordable(60)
    assert 2 * number + 2 * ((number + 1) // 2) <= 60
    assert halving(search) in rows and random_search(search) in rows


def test_the_comparison_is_told_with_intervals() -> None:
    rows = table(1.0, 0.0)
    assert re.search(r"log parameters explain \d+%, with log OPs \d+%", "\n".join(described(rows)))
    lines = compared(rows, 60, 100, 10)
    shares = {line.split("|")[1].strip(): float(line.split("|")[3]) for line in lines[4:]}
    assert shares["random search"] == pytest.approx(0.5)
    assert shares["most parameters + halving"] > 0.7 and shares["binas without a supernet"] > 0.6
