"""docs/python.md as it stands: every program in one process, in order; and the examples of docstrings."""

from __future__ import annotations

import doctest
import inspect
import logging
import re
from pathlib import Path

import pytest

import binas
from binas.ops import OPS

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_every_program_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    logger, level = logging.getLogger("binas"), logging.getLogger("binas").level
    try:
        for program in PROGRAMS:
            exec(compile(program, "python.md", "exec"), names)
    finally:
        logger.setLevel(level)
        OPS._entries.pop("blur", None), OPS._origins.pop("blur", None)
    out = capsys.readouterr().out
    assert "operation 'skip' is registered already" in out
    assert "True binary: each of 2 convolutions" in out and "times fewer bits" in out
    assert list(tmp_path.iterdir()) == []


def test_every_public_name_has_a_sentence_and_its_examples_run() -> None:
    run = 0
    for name in binas.__all__:
        entry = getattr(binas, name)
        assert inspect.getdoc(entry), name
        if inspect.isfunction(entry):
            for example in doctest.DocTestFinder().find(entry, name, globs={}):
                result = doctest.DocTestRunner(verbose=False).run(example)
                assert result.failed == 0, name
                run += result.attempted
    for entry in (binas.nn.BinaryConv2d, binas.nn.BinaryLinear, binas.nn.binarize, binas.nn.set_precision):
        for example in doctest.DocTestFinder().find(entry, entry.__name__, globs={}):
            assert doctest.DocTestRunner(verbose=False).run(example).failed == 0
    assert run > 10
