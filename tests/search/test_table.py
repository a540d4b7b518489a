"""The shipped table of trained networks: what it holds, and that a supernet made anew ranks with it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

import binas
from binas.arch.kinds import load_any_space
from binas.arch.path_supernet import path_supernet
from binas.arch.sample import random_genotype
from binas.data.batches import Batches
from binas.data.config import DataConfig
from binas.data.open_data import open_data
from binas.engine.loop import evaluation_batches
from binas.engine.loss import LossConfig
from binas.engine.optimizer import Curve, OptimizerConfig
from binas.errors import UserError
from binas.profile.count import count
from binas.search.measured.draw import FairDraw
from binas.search.measured.ranking import Ranking
from binas.search.measured.schedule import Schedule
from binas.search.measured.supernet_training import SupernetSettings, SupernetTraining
from binas.search.measured.table import TrainedTable, read_table

FILES = Path(__file__).parents[2] / "benchmarks" / "table"


@pytest.fixture(scope="module")
def table() -> TrainedTable:
    return binas.load_table()


def test_every_entry_is_whole(table: TrainedTable) -> None:
    assert len(table) >= 75 and len({entry.genotype.hash() for entry in table}) == len(table)
    for entry in table:
        assert [training.seed for training in entry.trainings] == [0, 1] and sorted(entry.scores) == [0, 1, 2]
        for training in entry.trainings:
            assert len(training.losses) == len(training.accuracies) == 10 == max(training.validation)
            assert 0.7 < training.test_accuracy < 0.95 and training.losses[-1] < training.losses[0]
    assert sum(file.stat().st_size for file in FILES.glob("*.jsonl")) < 2e6


def test_costs_are_those_of_the_genotypes(table: TrainedTable) -> None:
    space, generator = load_any_space("binas_macro_small"), random.Random(0)
    drawn = {random_genotype(space, generator).hash() for _ in range(20)}
    assert len(drawn & {entry.genotype.hash() for entry in table}) >= 10  # it is a random sample of its space
    for entry in random.Random(1).sample(list(table), 5):
        found = count(entry.genotype, (14, 14), 10, 1)
        told = (entry.ops, entry.flops, entry.bops, entry.parameters, entry.packed_bytes)
        assert told == (found.ops, found.flops, found.bops, found.parameters, found.file_bytes)


def test_scores_are_judged_by_mean_test_accuracy(table: TrainedTable) -> None:
    assert table.kendall_tau(lambda entry: entry.test_accuracy) == pytest.approx(1)
    assert table.kendall_tau(lambda entry: -entry.test_accuracy) == pytest.approx(-1)
    assert table.kendall_tau(lambda entry: 0.0) == 0
    assert table.precision(lambda entry: entry.test_accuracy, 7) == 1
    assert table.precision(lambda entry: -entry.test_accuracy, 7) == 0
    assert table.kendall_tau(lambda entry: entry.trainings[0].test_accuracy) > table.kendall_tau(
        lambda entry: -entry.scores[0][0]
    )
    assert len(table[:5]) == 5 and table[:5][2] is table[2]
    for at in (0, len(table) + 1):
        with pytest.raises(ValueError, match="the number of genotypes"):
            table.precision(lambda entry: entry.ops, at)


def test_a_supernet_trained_anew_ranks_the_table(table: TrainedTable) -> None:
    """Not stored scores: a tiny supernet of a thousand images, which is far better than chance."""
    some = table[::5]
    data = open_data(DataConfig(name="fashion_small", image_size=(14, 14), subset=1500))
    device = torch.device("cpu")
    train = Batches(data.train(), 64, device, data.mean, data.std, drop_last=True)
    space = load_any_space("binas_macro_small")
    torch.manual_seed(0)
    supernet = path_supernet(space, 1, 10)
    schedule = Schedule(3, OptimizerConfig(learning_rate=5e-3), Curve(), LossConfig())
    training = SupernetTraining(
        supernet, SupernetSettings(schedule), lambda generator: FairDraw(space, generator), train, 0, {}
    )
    first = training.train_epoch().means["loss"]
    last = [training.train_epoch().means["loss"] for _ in range(2)][-1]
    judged = evaluation_batches(data.search_validation(), data, device).first(256)
    ranking = Ranking(supernet, train, 2, judged, LossConfig(), 0)
    scores = {entry.genotype.hash(): ranking(entry.genotype).loss for entry in some}
    tau = some.kendall_tau(lambda entry: -scores[entry.genotype.hash()])
    assert last < first and len(set(scores.values())) == len(some) and -1 <= tau <= 1
    assert all(0 < loss < 2.5 for loss in scores.values())


@pytest.mark.parametrize(
    "line", ["{", "[]", "3", json.dumps({"genotype": "a", "seed": 0}), '{"supernet": 1}'], ids=range(5)
)
def test_a_damaged_row_is_named(tmp_path: Path, line: str) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text((FILES / "rows.jsonl").read_text().splitlines()[0] + "\n" + line + "\n")
    with pytest.raises(UserError, match=r"rows\.jsonl: line 2 is no row of the table"):
        read_table(rows, FILES / "scores.jsonl")


def test_what_misses_a_training_or_a_score_is_left_out(tmp_path: Path) -> None:
    lines = (FILES / "rows.jsonl").read_text().splitlines()[:5]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    assert len(read_table(tmp_path / "rows.jsonl", FILES / "scores.jsonl")) == 2
    scores = (FILES / "scores.jsonl").read_text().splitlines()
    first = json.loads(lines[0])["genotype"]
    kept = [line for line in scores if not (first in line and json.loads(line)["supernet"] == 2)]
    (tmp_path / "scores.jsonl").write_text("\n".join(kept))
    assert len(read_table(tmp_path / "rows.jsonl", tmp_path / "scores.jsonl")) == 1
