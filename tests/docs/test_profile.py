"""The page on counting: its commands and its program run as they stand, and what it names exists."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from binas.profile import MEASURES, TOTALS

PAGE = (Path(__file__).parents[2] / "docs" / "profile.md").read_text(encoding="utf-8")
Runner = Callable[..., tuple[int, str, str]]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_commands_run(binas: Runner) -> None:
    lines = [shlex.split(line) for block in blocks("sh") for line in block.splitlines()]
    assert len(lines) == 4
    for program, *words in lines:
        status, out, error = binas(*words)
        assert program == "binas" and status == 0 and len(out) > 500, error
    assert Path("layers.csv").read_text().startswith("name,kind,precision")
    assert Path("layers.png").read_bytes().startswith(b"\x89PNG")


def test_the_program_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = blocks("python")[0]
    Path("program.py").write_text(text)
    found = runpy.run_path("program.py")
    smallest, *_, kept = capsys.readouterr().out.split()
    assert float(smallest) > 0 and 0 < int(kept) < 20
    assert found["limits"].excess(found["costs"][0]).keys() == {"ops", "bits"}


def test_every_measure_is_named() -> None:
    assert all(f"`{name}`" in PAGE for name in (*MEASURES, *TOTALS))
