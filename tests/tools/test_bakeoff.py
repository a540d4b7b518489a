"""The bake-off: an entry of every family trains, rows are made once, the table says what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from binas.binarize.catalogue import KINDS
from binas.config import read_mapping
from tools.bakeoff import bakeoff, bakeoff_run, bakeoff_table

CHECKOUT = Path(__file__).resolve().parents[2]
TOOL = CHECKOUT / "tools" / "bakeoff" / "bakeoff.py"

SETTINGS: dict[str, Any] = read_mapping(bakeoff_run.RECIPES)
ENTRIES = SETTINGS["entries"]
ONE_OF_EACH = ["frozen", "approx_sign", "rebnet", "twn", "bop", "inq_portions", "two_step"]
FINISHED = {
    "epochs": 6,
    "relative_time": 1.25,
    "shorter": 1.0,
    "first_flips": 0.25,
    "last_flips": 0.5,
    "bits": "1/1",
    "cpu_seconds": 60.0,
    "machine": "abacus",
    "torch": "1.0",
}


def row(entry: str, accuracy: float, seed: int = 0, data: str = "fashion") -> dict[str, Any]:
    digest = bakeoff_run.digest(SETTINGS, entry, data)
    return {**FINISHED, "entry": entry, "data": data, "seed": seed, "digest": digest, "accuracy": accuracy}


def line_of(text: str, entry: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| `{entry}` |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def bake(folder: Path, *words: str) -> str:
    command = [
        sys.executable,
        str(TOOL),
        "--out",
        str(folder),
        "--machine",
        "test",
        "--data",
        "digits",
        *words,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_an_entry_of_every_family_learns_and_a_restart_makes_what_is_missing(tmp_path: Path) -> None:
    assert {ENTRIES[name]["family"] for name in ONE_OF_EACH} == set(SETTINGS["families"])
    words = ["--seeds", "0", "--epochs", "0.01", "--entries", *ONE_OF_EACH]
    bake(tmp_path, *words)
    path = tmp_path / "binarizers_test.jsonl"
    lines = path.read_text().splitlines()
    rows = {found["entry"]: found for found in map(json.loads, lines)}
    assert list(rows) == ONE_OF_EACH
    for name, found in rows.items():
        assert found["epochs"] == len(SETTINGS["families"][ENTRIES[name]["family"]]["stages"])
        assert found["relative_time"] > 0.2
        assert found["accuracy"] > 0.2, f"{name} is no better than chance after an epoch"
    assert rows["frozen"]["first_flips"] == 0 < rows["approx_sign"]["first_flips"]
    assert (tmp_path / "binarizers_test.png").read_bytes().startswith(b"\x89PNG")
    assert len(line_of((tmp_path / "binarizers_test.md").read_text(), "bop")) == len(bakeoff_table.COLUMNS)

    path.write_text("\n".join(lines[:-1]) + "\n")
    assert bake(tmp_path, *words).count("digits, seed 0: ") == 1
    again = path.read_text().splitlines()
    assert again[:-1] == lines[:-1]
    assert json.loads(again[-1])["accuracy"] == rows[ONE_OF_EACH[-1]]["accuracy"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_binarizer_is_trained_by_an_entry(kind: str) -> None:
    chosen = [getattr(bakeoff_run.binarization(entry), kind) for entry in ENTRIES.values()]
    trained = {spec.name for spec in chosen if spec is not None}
    built_in = {name for name in KINDS[kind] if not KINDS[kind].origin(name)}
    assert built_in <= trained, f"give {sorted(built_in - trained)} an entry in tools/bakeoff/bakeoff.yaml"


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_has_a_recipe(name: str) -> None:
    entry = ENTRIES[name]
    config = bakeoff_run.training(SETTINGS, entry, "fashion")
    assert sum(stage.epochs for stage in config.stages) == 6
    assert sum(stage.epochs for stage in bakeoff_run.training(SETTINGS, entry, "digits").stages) == 18
    assert sum(stage.epochs for stage in bakeoff_run.training(SETTINGS, entry, "fashion", 0.5).stages) == 3
    assert ENTRIES[SETTINGS["families"][entry["family"]]["frozen"]]["frozen"]
    assert all(stage.binarization == bakeoff_run.binarization(entry) for stage in config.stages)


def test_the_table_says_what_the_rows_say(tmp_path: Path) -> None:
    rows = [
        row("frozen", 0.70),
        row("sign", 0.84, 0),
        row("sign", 0.86, 1),
        row("ste", 0.79),
        row("real", 0.9),
        row("frozen_low_bit", 0.85),
        row("twn", 0.87),
        row("sign", 0.5, data="digits"),
    ]
    bakeoff_table.write_table(SETTINGS, rows, tmp_path / "binarizers_x", "the command")
    text = (tmp_path / "binarizers_x.md").read_text()
    fashion, digits = text.split("## digits")
    sign = line_of(fashion, "sign")
    assert sign == [
        "`sign`",
        "one_bit",
        "1/1",
        "85.0 ± 1.4",
        "+15.0",
        "1.2×",
        "0.250 → 0.500",
        "6",
        "2",
        "kept",
    ]
    assert line_of(fashion, "ste")[-1] == "below"  # 79 % is not 80 %
    assert line_of(fashion, "twn")[4::5] == ["+2.0", "below"]  # not 3 points above its own frozen network
    assert line_of(fashion, "real")[-1] == line_of(fashion, "frozen")[-1] == ""
    assert line_of(digits, "sign")[3] == "50.0" and "`ste`" not in digits
    assert f"8 runs of {len(ENTRIES) * 2 * 3} so far" in text and "abacus" in text and "the command" in text


def test_rows_of_another_recipe_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    stale = {**row("ste", 0.5), "digest": "another"}
    path.write_text(json.dumps(stale) + "\n" + json.dumps(row("sign", 0.8)) + "\n")
    rows = bakeoff.Rows(path, SETTINGS)
    assert not rows.has("ste", "fashion", 0) and rows.has("sign", "fashion", 0)
    rows.add(row("ste", 0.9))
    again = bakeoff.Rows(path, SETTINGS)
    assert [found["accuracy"] for found in again.of("ste", "fashion")] == [0.9]
    again.add(row("ste", 0.7, seed=1))  # another process
    assert rows.has("ste", "fashion", 1) and not rows.has("ste", "fashion", 2)


def test_a_changed_recipe_or_binarizer_gives_another_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bakeoff_run.digest(SETTINGS, "sign", "fashion")
    assert bakeoff_run.digest(SETTINGS, "sign", "digits") != before
    entry = {**ENTRIES["sign"], "activation": {"name": "sign", "window": 2.0}}
    assert bakeoff_run.digest({**SETTINGS, "entries": {"sign": entry}}, "sign", "fashion") != before
    file = tmp_path / "code.py"
    for text, same in (('"""A."""\nx = 1  # one\n', True), ("x = 1\n", True), ("x = 2\n", False)):
        file.write_text(text)
        assert (bakeoff_run._code.__wrapped__(str(file)).strip() == "pass\nx = 1"[5:]) is same


def test_an_unknown_entry_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["bakeoff.py", "--entries", "sgin", "--out", str(tmp_path)])
    assert bakeoff.main() == 2
    assert "sgin" in capsys.readouterr().err
