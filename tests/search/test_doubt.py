"""What a search can decide and whether it has, against arithmetic by hand and alphas that only walk."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from binas.config import find_file
from binas.recipe import load_recipe
from binas.search.config import SearchConfig
from binas.search.doubt import Reach, choices_of, leads, stability, verdict, walk_gap

Runner = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("recipe", "steps_per_epoch", "logit"),
    [("bnas_cifar10", 25_000 // 64, 5.85), ("demo_digits", 5, 1.33)],
)
def test_how_far_alphas_move(recipe: str, steps_per_epoch: int, logit: float) -> None:
    """Rate × alpha steps / T at the end."""
    config = load_recipe(str(find_file(recipe, "configs")), {}).search
    reach = Reach.of(config, steps_per_epoch)
    assert reach.logit == pytest.approx(logit, abs=0.01)
    assert reach.walk == pytest.approx(reach.logit / math.sqrt(reach.steps))
    assert bool(reach.doubt()) == (logit < 2)
    if reach.doubt():
        for key in ("search.batch_size", "search.alphas.learning_rate", "temperature.normal.end", "binas"):
            assert key in reach.doubt()


def test_a_warm_up_moves_no_alpha() -> None:
    phases = [{"trains": "weights", "epochs": 5}, {"epochs": 2}]
    config = SearchConfig.model_validate({"phases": phases, "alphas": {"learning_rate": 0.5}})
    assert Reach.of(config, 10).steps == 20


def test_leads_are_differences_of_logits() -> None:
    logits = torch.tensor([[3.0, 1.0, -1.0], [0.0, 0.5, -9.0], [2.0, -math.inf, -math.inf]])
    found = leads({"normal": logits.softmax(1)})
    assert found.tolist() == pytest.approx([2.0, 0.5], abs=1e-5), "an edge without a choice does not count"
    assert choices_of({"normal": logits}) == (0, 1, 0)


def test_the_gap_of_a_walk_is_that_of_order_statistics() -> None:
    assert walk_gap(2) == pytest.approx(2 / math.sqrt(math.pi), abs=0.02)
    assert walk_gap(3) == pytest.approx(3 / (2 * math.sqrt(math.pi)), abs=0.02)
    assert walk_gap(1) == 0.0


def test_stability_counts_edges_that_stand() -> None:
    assert stability([(0, 1), (5, 1), (0, 1), (0, 2), (0, 2)]) == 0.5
    assert stability([(0, 1)]) == 0.0


def _walked(steps: int, drift: float, seed: int) -> tuple[dict[str, torch.Tensor], list[tuple[int, ...]]]:
    """Alphas that walk at random, the first operation of each edge with a drift."""
    generator = torch.Generator().manual_seed(seed)
    alphas = torch.zeros(14, 8)
    seen = []
    for step in range(steps):
        move = torch.randn(14, 8, generator=generator).sign()
        move[:, 0] = torch.where(torch.rand(14, generator=generator) < drift, 1.0, move[:, 0])
        alphas += 0.01 * move
        if step % 20 == 19:
            seen.append(choices_of({"normal": alphas.softmax(1)}))
    return {"normal": alphas.softmax(1)}, seen


def test_walking_alphas_are_called_chance_and_driven_ones_are_not() -> None:
    reach = Reach(steps=400, rate=0.01, temperature=1.0)
    chance = [verdict(*_walked(400, 0.0, seed), reach) for seed in range(5)]
    driven = [verdict(*_walked(400, 0.6, seed), reach) for seed in range(5)]
    assert all("no more than chance" in text for text in chance)
    assert driven == [""] * 5


def test_a_search_says_so(tiny: Path, binas: Runner) -> None:
    status, output, error = binas("search", "tiny.yaml")
    assert status == 0, error
    assert "warning: alphas can move by" in output + error
    assert "no more than chance" in output + error
    rows = [json.loads(line) for line in Path("runs/tiny/metrics.jsonl").read_text().splitlines()]
    assert all(row["lead"] >= 0 and 0 <= row["stability"] <= 1 for row in rows)
    words = ["--search.alphas.learning_rate", "3", "--name", "fast"]
    status, output, error = binas("search", "tiny.yaml", *words)
    assert status == 0 and "alphas can move" not in output + error
