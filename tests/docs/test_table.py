"""docs/table.md: its program runs as it stands, and its figures are those of the simulation."""

from __future__ import annotations

import re

import pytest
from pages import ROOT, program_of

import binas


def test_the_program_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(program_of("docs/table.md", "load_table"), "docs/table.md", "exec"), {})
    out = capsys.readouterr().out
    assert f"{len(binas.load_table())} genotypes" in out and "Kendall's τ 0." in out


def test_the_figures_are_those_of_the_table() -> None:
    text = (ROOT / "docs" / "table.md").read_text(encoding="utf-8")
    table = binas.load_table()
    found = re.search(r"with (\d+) genotypes .*?\(τ (0\.\d\d)\) than supernets do \((.*?)\)", text, re.DOTALL)
    assert found is not None
    assert int(found[1]) == len(table)
    assert float(found[2]) == round(table.kendall_tau(lambda entry: entry.parameters), 2)
    supernets = [
        round(table.kendall_tau(lambda entry, seed=seed: -entry.scores[seed][0]), 2) for seed in (0, 1, 2)
    ]
    assert [float(value) for value in re.findall(r"0\.\d\d", found[3])] == supernets
