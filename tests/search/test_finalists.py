"""What chooses the genotypes that a measured search trains alone, and what it tells of them."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import binas
from binas.draw.front import Series, draw_front
from binas.errors import UserError
from binas.profile.pareto import Point
from binas.search.measured.ranking import better_score, kendall, tau_error

SMALL = {"random_finalists": 6, "finalists": 4, "candidates": 12, "rounds": 1, "offspring": 4, "bins": 1}


def searched(**options: Any) -> Mapping[str, Any]:
    """What a search of a few steps tells."""
    data = binas.open_data("synthetic", images_per_class=16, image_size=(8, 8), channels=1)
    strategy = {"name": "binas", "rungs": [1], "supernet_epochs": 0, "judged_images": 16, **SMALL, **options}
    found = binas.run_search("binas_macro_small", data, config={"batch_size": 16, "strategy": strategy})
    return {**found.measured, "candidates": found.candidates}


def test_the_number_of_parameters_chooses_the_largest() -> None:
    told = searched(score="parameters", least_tau=-1 + 1e-9)
    rows = told["trained"]
    assert told["kendall_tau"] is None and -1 <= told["kendall_tau_of_parameters"] <= 1
    assert {row["chosen_by"] for row in rows} == {"random", "ranking"} and len(rows) == 10
    random_one = searched(score="none")
    assert {row["chosen_by"] for row in random_one["trained"][4:]} == {"random"}
    # the same six random ones, and beside them the largest or others drawn at random
    assert told["trained"][4:] == random_one["trained"][4:]
    size = {
        name: sum(row["ops"] for row in found["trained"][:4])
        for name, found in (("p", told), ("r", random_one))
    }
    assert size["p"] > size["r"]


def test_the_better_score_of_both_chooses() -> None:
    told = searched(supernet_epochs=1, least_tau=-1 + 1e-9)
    assert told["ranked"] >= 6 and told["kendall_tau"] is not None
    assert all(row["epochs"] == 1 and 0 <= row["accuracy"] <= 1 for row in told["trained"])
    assert {one.genotype.hash() for one in told["candidates"]} <= {row["genotype"] for row in told["trained"]}


def test_mistakes_are_told() -> None:
    with pytest.raises(UserError, match=r"score: supernet: there is none"):
        searched(score="supernet")
    with pytest.raises(UserError, match="'auto', 'supernet', 'parameters' or 'none'"):
        searched(score="luck")


def test_a_front_is_drawn_the_same_twice(tmp_path: Path) -> None:
    points = [Point(0.5, 10.0), Point(0.7, 100.0), Point(0.6, 200.0)]
    series = [Series("one", points, [Point(0.3, 50.0)], points[1]), Series("two", points[:1])]
    pictures = [draw_front(series, tmp_path / f"{n}.svg", accuracy="accuracy").read_bytes() for n in (0, 1)]
    assert pictures[0] == pictures[1] and b"<svg" in pictures[0]
    with pytest.raises(UserError, match="png"):
        draw_front(series, tmp_path / "a.txt", accuracy="accuracy")


@pytest.mark.parametrize(
    ("taus", "number", "chosen"),
    [
        ({"p": 0.3, "s": 0.5}, 12, "p"),  # two standard errors are 0.43
        ({"p": 0.0, "s": 0.5}, 12, "s"),
        ({"p": -0.3, "s": 0.0}, 12, "p"),
        ({"p": -0.4, "s": 0.0}, 12, None),
        ({"p": -0.4, "s": 0.2}, 12, "s"),
        ({"p": -0.4, "s": 0.8}, 3, "p"),
        ({"p": -1.0, "s": 1.0}, 1, "p"),
        ({"s": 0.05}, 12, None),
        ({"s": 0.15}, 12, "s"),
        ({"p": -0.9}, 12, None),
        ({}, 12, None),
    ],
)
def test_parameters_are_believed_until_random_genotypes_speak_against_them(
    taus: Mapping[str, float], number: int, chosen: str | None
) -> None:
    assert better_score(taus, number, 0.1, "p") == chosen


def test_the_error_of_a_rank_correlation_is_that_of_shuffled_ranks() -> None:
    generator = random.Random(0)
    for number in (3, 6, 12, 40):
        found = []
        for _ in range(1500):
            other = list(range(number))
            generator.shuffle(other)
            found.append(kendall(range(number), other))
        assert statistics.pstdev(found) == pytest.approx(tau_error(number), rel=0.06)
