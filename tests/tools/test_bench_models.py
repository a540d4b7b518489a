"""The benchmark of published families: what it compares, one family on digits, resuming, and its table."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from binas.config import build, read_mapping
from binas.errors import UserError
from binas.models import MODELS
from tools.measuring import measured
from tools.studies import bench_models, study_from_scratch
from tools.studies.study import load_study

FAMILIES = {
    "xnor_resnet",
    "xnor_alexnet",
    "bireal",
    "resnete",
    "binary_densenet",
    "meliusnet",
    "reactnet_a",
    "reactnet_resnet",
    "real_to_binary",
    "bnas",
    "bats",
    "mobilenet_group",
    "mobinet",
    "vgg_small",
    "autobnn",
    "resnet20",
    "vgg10",
    "mlp",
}
SMALL = """\
recipe:
  data: {name: digits}
  retrain:
    batch_size: 256
    validation_fraction: 0.0
    stages: [{name: fully_binary, epochs: 1, optimizer: {name: adam, learning_rate: 5e-3}}]
tolerance: 0.6
cells:
  tiny: {genotype: digits_searched, network: {num_cells: 2, init_channels: 4, stem_multiplier: 1}}
families:
  MLP: {cell: tiny, model: {name: mlp, hidden: [64, 64, 64]}}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study of one family that takes a second."""
    file = tmp_path / "models.yaml"
    file.write_text(SMALL)
    return file


def run(study: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    out = study.parent
    given = ["bench_models.py", "--study", study, "--out", out, "--table", out / "table.md", *words]
    monkeypatch.setattr(sys, "argv", [str(word) for word in given])
    return bench_models.main()


def shipped() -> Any:
    return build(bench_models.Study, read_mapping(bench_models.STUDY), "models.yaml")


def test_every_family_is_compared_at_equal_operations() -> None:
    study = shipped()
    names = {family.model.name for family in study.families.values()}
    for family in FAMILIES:
        assert any(name.startswith(family) for name in names), family
    assert names <= set(MODELS)
    bench_models.check_operations(study, list(study.families))
    assert study.tolerance == 0.1


def test_a_family_of_other_operations_is_refused(study: Path) -> None:
    study.write_text(SMALL.replace("tolerance: 0.6", "tolerance: 0.001"))
    small = build(bench_models.Study, read_mapping(study), str(study))
    with pytest.raises(UserError, match=r"families.MLP: [\d,]+ OPs, and the cell 'tiny' has [\d,]+"):
        bench_models.check_operations(small, ["MLP"])


def test_a_run_gives_a_table_and_is_resumed(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(study, monkeypatch, "--seeds", "0") == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        "cell/tiny/0",
        "binary/MLP/0",
        "real/MLP/0",
    ]
    rows = [json.loads(line) for line in (study.parent / "table.jsonl").read_text().splitlines()]
    assert all(0.1 < row["test_accuracy"] <= 1 and row["epochs"] == 1 for row in rows)
    binary, real = rows[1], rows[2]
    assert binary["binary_parameters"] == 64 * 64 * 2 and real["binary_parameters"] == 0
    assert binary["ops"] == binary["flops"] + binary["bops"] / 64
    table = (study.parent / "table.md").read_text()
    accuracy = f"{100 * binary['test_accuracy']:.1f} (1)"
    assert f"| MLP | mlp (hidden (64, 64, 64)) | {accuracy} |" in table.replace("[", "(").replace("]", ")")

    (study.parent / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    assert run(study, monkeypatch, "--seeds", "0", "1") == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        "real/MLP/0",
        "cell/tiny/1",
        "binary/MLP/1",
        "real/MLP/1",
    ]
    again = [json.loads(line) for line in (study.parent / "table.jsonl").read_text().splitlines()]
    assert again[:2] == rows[:2]
    assert again[2]["test_accuracy"] == rows[2]["test_accuracy"]  # the same run
    assert re.search(r"\| MLP \|.*± .*\(2\)", (study.parent / "table.md").read_text())


def test_another_recipe_runs_again(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(study, monkeypatch, "--seeds", "0") == 0
    study.write_text(SMALL.replace("5e-3", "4e-3"))
    capsys.readouterr()
    assert run(study, monkeypatch, "--seeds", "0") == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert len(list(measured.Rows(study.parent / "table.jsonl"))) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SMALL.replace("cell: tiny", "cell: none"), "families.MLP.cell: 'none' is not among cells: tiny"),
        (SMALL.replace("name: mlp", "name: mpl"), "unknown model 'mpl'"),
        (SMALL.replace("tolerance", "tolerence"), "tolerence"),
    ],
)
def test_mistakes_name_file_and_key(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    study.write_text(text)
    assert run(study, monkeypatch) == 2
    error = capsys.readouterr().err
    assert message in error and "models.yaml" in error


def test_rows_that_are_none_are_told(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"key": "a", "settings": "b"}\nhalf a li')
    with pytest.raises(UserError, match=r"rows.jsonl: line 2 is no row"):
        measured.Rows(file)


def test_rows_of_two_processes_stay_side_by_side(tmp_path: Path) -> None:
    first, second = (measured.Rows(tmp_path / "rows.jsonl") for _ in range(2))
    first.add("a", "1", {"value": 1})
    second.add("b", "1", {"value": 2})
    first.add("a", "2", {"value": 3})
    assert [row["value"] for row in second] == [2, 3]
    assert second.find("a", "1") is None and second.find("a", "2") == {
        "key": "a",
        "settings": "2",
        "value": 3,
    }
    assert [row["key"] for row in measured.Rows(tmp_path / "rows.jsonl")] == ["b", "a"]


def test_means() -> None:
    assert measured.mean_std([]) == "–"
    assert measured.mean_std([0.5]) == "50.0 (1)"
    assert measured.mean_std([0.5, 0.6, 0.7]) == "60.0 ± 10.0 (3)"


def test_questions_of_from_scratch_are_told_apart() -> None:
    study = load_study(study_from_scratch.FOLDER)
    assert set(study.questions) == {
        "scaling",
        "approx_sign",
        "pretraining",
        "downsampling",
        "split",
        "bottleneck",
        "shortcuts",
        "layer_order",
    }
    for name in study.questions:
        settings = [(one.network, one.settings()) for one in study.planned if one.question == name]
        assert len(set(settings)) == len(settings), f"{name}: two variants are the same recipe"
    pretraining = [one.recipe.retrain.stages for one in study.planned if one.variant == "clip_before"]
    assert [stage.epochs for stage in pretraining[0]] == [4, 4]
    assert [stage.format_precision() for stage in pretraining[0]] == [
        "clip activations, real weights",
        "binary activations, binary weights",
    ]


def test_a_question_on_digits_gives_a_table(tmp_path: Path) -> None:
    (tmp_path / "networks.yaml").write_text(
        "networks:\n  net:\n    recipe: bireal_resnet18_imagenet\n    title: Small net\n    sizes:\n"
        "      small:\n        words: as small as can be\n        changes:\n"
        "          data: {name: digits}\n"
        "          model: {name: bireal_resnet18, stem: cifar, width: 0.125, blocks: [1]}\n"
        "          retrain.batch_size: 256\n          retrain.validation_fraction: 0.1\n"
        "          retrain.stages.0.epochs: 2\n"
    )
    (tmp_path / "start.yaml").write_text(
        "title: From where?\nsource: table 9\nnetworks: [net]\nvariants:\n"
        "  scratch: {words: from scratch, paper: {net: 40.0}}\n"
        "  relu:\n    words: from ReLU\n    stages:\n"
        "      - {name: real, share: 0.5, changes: {binarize_activations: false, binarize_weights: false,"
        " real_activation: relu}}\n"
        "      - {name: binary, share: 0.5}\n"
    )
    out, tables = tmp_path / "out", tmp_path / "tables"
    words = ["--study", tmp_path, "--out", out, "--benchmarks", tables, "--machine", "test"]
    assert study_from_scratch.main([str(word) for word in [*words, "--seeds", "0"]]) == 0
    epochs = [row["epochs"] for row in measured.Rows(tables / "from_scratch_test.jsonl")]
    assert epochs == [2, 2]
    table = (tables / "from_scratch_test.md").read_text()
    row = re.search(
        r"^\| From where\? \| Small net \| from scratch \| ([\d.]+) \(1\) \|  \| 60.0 \|", table, re.M
    )
    second = re.search(r"^\|  \|  \| from ReLU \| ([\d.]+) \(1\) \| ([+-][\d.]+) \(1\) \| – \|", table, re.M)
    assert row and second
    assert float(second[1]) - float(row[1]) == pytest.approx(float(second[2]), abs=0.11)
    (tables / "from_scratch_test_readings.yaml").write_text("start: agrees\n")
    assert study_from_scratch.main([str(word) for word in [*words, "--table"]]) == 0
    assert "| 60.0 | agrees |" in (tables / "from_scratch_test.md").read_text()
