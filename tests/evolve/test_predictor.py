"""The accuracy predictor: its input, what it learns, what transfer brings, the file of its samples."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from binas.config import read_mapping
from binas.data.config import DataConfig
from binas.data.open_data import open_data
from binas.errors import UserError
from binas.evolve.config import EvolveConfig, PredictorConfig
from binas.evolve.evaluators.candidate import Judgement, ShortTraining
from binas.evolve.evaluators.predictor import (
    Encoding,
    Prediction,
    Samples,
    learned,
    rank_correlations,
    sample_counts,
    split,
    transfer_report,
)
from binas.evolve.evaluators.sampling import SampleFile
from binas.evolve.problems.genome import Genome
from binas.evolve.problems.joint import BITS, JointProblem
from binas.evolve.problems.open_problem import open_problem
from binas.models import ModelChoice

Runner = Callable[..., tuple[int, str, str]]
BLOCKS = [{"expansion": 4}] * 3
NETWORK = {
    "name": "mobilenet_v2",
    "stem": "cifar",
    "first_channels": 8,
    "last_channels": 0,
    "stages": [{"channels": channels, "stride": 2, "blocks": BLOCKS} for channels in (8, 16)],
}
SMALL = PredictorConfig(hidden=(64, 64), epochs=60, repeats=3)


@pytest.fixture(scope="module")
def problem() -> JointProblem:
    data = open_data(DataConfig(name="synthetic", images_per_class=12, num_classes=3))
    config = EvolveConfig.model_validate(
        {"search": "joint", "joint": {"depths": [1, 2, 3], "kernels": [3, 5]}}
    )
    found = open_problem(config, ModelChoice.model_validate(NETWORK), {}, data)
    assert isinstance(found, JointProblem)
    return found


def drawn(problem: JointProblem, count: int, seed: int) -> tuple[Genome, ...]:
    generator = random.Random(seed)
    return tuple(problem.space.random(generator) for _ in range(count))


def pretended(problem: JointProblem, genome: Genome, with_bits: bool) -> float:
    """An accuracy that grows with every gene that is heard, with bits by their logarithm."""
    total = 0.0
    for gene, kind, place, heard in zip(
        problem.genes, problem.space.kinds, genome, problem.is_active(genome), strict=True
    ):
        part = place / (len(gene.choices) - 1) if heard else 0.0
        if kind in BITS:
            total += 0.3 * part if with_bits else 0.0
        else:
            total += part
    return 0.3 + 0.02 * total


def samples(problem: JointProblem, count: int, seed: int, with_bits: bool) -> Samples:
    genomes = drawn(problem, count, seed)
    return Samples(genomes, tuple(pretended(problem, genome, with_bits) for genome in genomes))


def test_the_encoding_has_a_one_for_each_gene_that_is_heard(problem: JointProblem) -> None:
    kinds = set(problem.space.kinds)
    both = Encoding(problem, kinds - set(BITS)), Encoding(problem, BITS)
    assert both[0].size + both[1].size == sum(len(gene.choices) for gene in problem.genes)
    genomes = drawn(problem, 20, 0)
    rows = torch.cat([encoding(genomes) for encoding in both], dim=1)
    assert set(rows.unique().tolist()) == {0.0, 1.0}
    assert rows.sum(dim=1).tolist() == [sum(problem.is_active(genome)) for genome in genomes]
    assert min(rows.sum(dim=1)) < len(problem.genes), "a shallow stage hides genes"
    first = both[0](genomes[:1])[0, : len(problem.genes[0].choices)]
    assert first.argmax() == genomes[0][0]
    assert len({tuple(row) for row in rows.tolist()}) == len(set(genomes))


def test_bits_add_nothing_before_they_are_learned(problem: JointProblem) -> None:
    prediction = Prediction(problem, SMALL, 0)
    prediction.learn(samples(problem, 60, 1, False), with_bits=False)
    genomes = drawn(problem, 10, 2)
    assert prediction(genomes, with_bits=True) == prediction(genomes, with_bits=False)


def test_it_orders_what_it_has_not_seen_and_transfer_saves_samples(problem: JointProblem) -> None:
    real, quantized = samples(problem, 300, 1, False), samples(problem, 150, 2, True)
    report = transfer_report(problem, SMALL, 0, real, quantized)
    assert report["held_out"] == 30 and report["real_samples"] == 300
    rows = {(row["samples"], row["transferred"]): row for row in report["rank_correlation"]}
    assert sorted({count for count, _ in rows}) == sample_counts(120) == [15, 30, 60, 120]
    assert all(row["n"] == 3 for row in rows.values())
    best = rows[120, True]["spearman"]["mean"]
    assert best > 0.8
    for count in (15, 30):
        assert rows[count, True]["spearman"]["mean"] > rows[count, False]["spearman"]["mean"] + 0.1
    assert rows[120, False]["spearman"]["mean"] > rows[15, False]["spearman"]["mean"]
    alone = transfer_report(problem, SMALL, 0, Samples((), ()), quantized)
    assert list(alone["rank_correlation"]) == [r for r in rows.values() if not r["transferred"]]


def test_predictions_are_accuracies_and_repeat(problem: JointProblem) -> None:
    real, quantized = samples(problem, 40, 1, False), samples(problem, 20, 2, True)
    genomes = drawn(problem, 30, 3)
    first = learned(problem, SMALL, 5, real, quantized)(genomes)
    assert first == learned(problem, SMALL, 5, real, quantized)(genomes)
    assert first != learned(problem, SMALL, 6, real, quantized)(genomes)


def test_rank_correlations_against_the_definition() -> None:
    expected, measured = [0.1, 0.4, 0.2, 0.9], [0.3, 0.5, 0.6, 0.8]
    spearman, kendall = rank_correlations(expected, measured)
    assert spearman == pytest.approx(1 - 6 * (0 + 1 + 1 + 0) / (4 * 15))
    assert kendall == pytest.approx((5 - 1) / 6)
    assert rank_correlations([0.5] * 4, measured) == (0.0, 0.0)


def test_held_out_samples_are_never_learned_from(problem: JointProblem) -> None:
    every = samples(problem, 50, 0, True)
    seen, held_out = split(every, 0.2, 3)
    assert len(held_out) == 10 and sorted((*seen.genomes, *held_out.genomes)) == sorted(every.genomes)
    others = dict(zip(held_out.genomes, held_out.accuracies[::-1], strict=True))
    changed = Samples(
        every.genomes, tuple(others.get(g, a) for g, a in zip(every.genomes, every.accuracies, strict=True))
    )
    reports = [
        transfer_report(problem, SMALL, 3, samples(problem, 20, 1, False), one) for one in (every, changed)
    ]
    assert reports[0]["predictions"]["measured"] != reports[1]["predictions"]["measured"]
    assert reports[0]["predictions"]["expected"] == reports[1]["predictions"]["expected"]


class Counting:
    """Measures by a formula; counts, and may be interrupted."""

    def __init__(self, stop: int | None = None) -> None:
        self.asked: list[tuple[Genome, int]] = []
        self.stop = stop

    def __call__(self, genome: Genome, number: int) -> Judgement:
        if len(self.asked) == self.stop:
            raise KeyboardInterrupt
        self.asked.append((genome, number))
        return Judgement(sum(genome) / 100 + number % 7 / 1000, None)


def test_samples_survive_and_are_not_measured_twice(problem: JointProblem, tmp_path: Path) -> None:
    whole = SampleFile(tmp_path / "whole.jsonl", problem, {"a": 1}, 0).drawn("real", 12, Counting())
    assert len(set(whole.genomes)) == 12
    file = tmp_path / "samples.jsonl"
    first = Counting(stop=5)
    with pytest.raises(KeyboardInterrupt):
        SampleFile(file, problem, {"a": 1}, 0).drawn("real", 12, first)
    with open(file, "a") as torn:
        torn.write('{"precision": "real", "gen')
    second = Counting()
    again = SampleFile(file, problem, {"a": 1}, 0).drawn("real", 12, second)
    assert len(first.asked) == 5 and len(second.asked) == 7
    assert again == whole, "what a sample is does not depend on which were measured before it"
    third = Counting()
    more = SampleFile(file, problem, {"a": 1}, 0).drawn("real", 15, third)
    assert len(third.asked) == 3 and more.genomes[:12] == whole.genomes
    quantized = SampleFile(file, problem, {"a": 1}, 0).drawn("quantized", 4, Counting())
    assert quantized.genomes != whole.genomes[:4]
    with pytest.raises(
        UserError, match=r"samples.jsonl: holds the samples of another recipe.*predictor.samples"
    ):
        SampleFile(file, problem, {"a": 2}, 0).drawn("real", 12, Counting())
    file.write_text("{}\nnonsense\n")
    with pytest.raises(UserError, match=r"samples.jsonl: is damaged; remove it"):
        SampleFile(file, problem, {"a": 1}, 0).drawn("real", 12, Counting())


def test_samples_that_left_the_numbers_are_left_out(problem: JointProblem, tmp_path: Path) -> None:
    def measure(genome: Genome, number: int) -> Judgement:
        return Judgement(0.0, None, "not a number") if genome[0] == 0 else Judgement(0.5, 1.0)

    file = SampleFile(tmp_path / "some.jsonl", problem, {}, 0)
    for _ in range(2):  # measured, then read
        found = file.drawn("quantized", 30, measure)
        assert 0 < len(found) < 30 and set(found.accuracies) == {0.5}
    real = file.drawn("real", 30, measure).genomes
    bits = [place for place, kind in enumerate(problem.space.kinds) if kind in BITS]
    assert all(genome[place] == 0 for genome in real for place in bits)


def test_more_samples_than_candidates_are_told(tmp_path: Path) -> None:
    data = open_data(DataConfig(name="synthetic", images_per_class=12, num_classes=3))
    joint = {"depths": [1], "kernels": [3], "expansions": [2], "kept": [1.0], "bits": [1]}
    config = EvolveConfig.model_validate({"search": "joint", "joint": joint})
    few = open_problem(config, ModelChoice.model_validate(NETWORK), {}, data)
    assert isinstance(few, JointProblem)
    with pytest.raises(UserError, match=r"predictor.real_samples: only 1 different candidates"):
        SampleFile(tmp_path / "few.jsonl", few, {}, 0).drawn("real", 2, Counting())


RECIPE: dict[str, Any] = {
    "name": "joint",
    "num_threads": 1,
    "tensorboard": False,
    "data": {"name": "digits", "subset": 120},
    "model": NETWORK,
    "evolve": {
        "search": "joint",
        "evaluation": "predicted",
        "evaluations": 12,
        "population": 4,
        "joint": {"depths": [1, 2, 3], "kernels": [3, 5], "expansions": [2, 4], "kept": [0.5, 1.0]},
        "shared": {
            "batch_size": 32,
            "stage": {"optimizer": {"learning_rate": 3e-3}},
            "calibration_batches": 2,
            "phases": [
                {"name": "largest", "epochs": 1},
                {"name": "kernels", "varies": ["kernel"], "epochs": 1},
            ],
        },
        "training": {"batch_size": 32, "stages": [{"name": "quantized", "epochs": 1}]},
        "predictor": {"real_samples": 4, "quantized_samples": 10, "epochs": 3, "repeats": 2, "measured": 2},
    },
    "retrain": {"stages": [{"name": "quantized", "epochs": 1}]},
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "joint.yaml").write_text(json.dumps(RECIPE))
    return tmp_path


def test_a_joint_search_from_recipe_to_retrained_winner(here: Path, binas: Runner) -> None:
    status, out, error = binas("evolve", "joint.yaml")
    assert status == 0, error
    for words in ("shared network, largest epoch 1/1", "quantized sample 10/10", "with transfer: spearman"):
        assert words in out
    run = here / "runs" / "joint"
    document = json.loads((run / "front.json").read_text())
    assert document["evaluation"] == "predicted" and document["evaluations"] == 12
    assert {row["uniform"] for row in document["references"]} == {"largest, 1 bit", "largest, real"}
    measured = [row["measured_accuracy"] for row in document["front"][:2]]
    assert all(0 <= accuracy <= 1 for accuracy in measured)
    report = json.loads((run / "predictor.json").read_text())
    assert len(report["predictions"]["measured"]) == report["held_out"] == 2
    for picture in ("front.png", "genes.png", "predictor.png"):
        assert (run / picture).read_bytes().startswith(b"\x89PNG")
    first = document["front"][0]
    winner = read_mapping(run / first["file"])
    said = dict(zip((gene["name"] for gene in document["genes"]), first["genome"], strict=True))
    assert [len(stage["blocks"]) for stage in winner["model"]["stages"]] == [said["depth.0"], said["depth.1"]]
    block = winner["model"]["stages"][1]["blocks"][0]
    assert block["bits"] == {kind: said[f"{kind}.1.0"] for kind in BITS}
    status, _, error = binas("retrain", "--config", run / first["file"])
    assert status == 0, error
    profile = json.loads(binas("profile", "runs/joint_winner_1/checkpoint.pt", "--json", "-")[1])
    assert (profile["ops"], profile["bits"]) == (first["ops"], first["bits"])
    assert binas("check", "runs/joint_winner_1/checkpoint.pt")[0] == 0
    before = (run / "front.json").read_bytes()
    status, out, error = binas("evolve", "--resume", run)
    assert status == 0 and (run / "front.json").read_bytes() == before, error
    assert "quantized sample " not in out, "nothing is measured again"


def test_a_search_stopped_among_its_samples_ends_as_if_it_never_was(
    here: Path, binas: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert binas("evolve", "joint.yaml", "--name", "whole")[0] == 0
    calls = 0
    measure = ShortTraining.__call__

    def stopping(self: ShortTraining, genome: Genome, number: int) -> Judgement:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return measure(self, genome, number)

    with monkeypatch.context() as patch:
        patch.setattr(ShortTraining, "__call__", stopping)
        assert binas("evolve", "joint.yaml", "--name", "cut")[0] == 130
    assert not (here / "runs" / "cut" / "front.json").exists()
    status, out, error = binas("evolve", "--resume", "runs/cut")
    assert status == 0 and "2 of 2 epochs are done" in out, error
    found = []
    for name in ("whole", "cut"):
        document = json.loads((here / "runs" / name / "front.json").read_text())
        found.append(
            [
                document["front"],
                document["generations"],
                (here / "runs" / name / "predictor.json").read_text(),
            ]
        )
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("evaluation", "unused"),
    [
        ("short", ("shared", "predictor")),
        ("shared", ("training", "predictor")),
        ("tuned", ("predictor",)),
    ],
)
def test_other_judges_and_limits_hold_for_a_joint_search(
    here: Path, binas: Runner, evaluation: str, unused: tuple[str, ...]
) -> None:
    evolve = {key: value for key, value in RECIPE["evolve"].items() if key not in unused}
    (here / "joint.yaml").write_text(json.dumps({**RECIPE, "evolve": evolve}))
    words = ("--evolve.evaluation", evaluation, "--evolve.evaluations", "5", "--evolve.references", "false")
    status, _, error = binas("evolve", "joint.yaml", *words, "--limits.ops", "30000", "--random")
    assert status == 0, error
    document = json.loads((here / "runs" / "joint" / "front.json").read_text())
    assert document["strategy"] == "random" and document["infeasible"] < 5
    assert document["front"] and all(row["ops"] <= 30000 for row in document["front"])
