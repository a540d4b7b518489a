"""The tutorial's blocks, executed as they stand: files are written, commands run in order."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from binas.arch.genotype import parse_genotype
from binas.cli import main
from binas.ops import OPS

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial_operation.md"
FILES = {"python": "my_ops.py", "yaml": "tiny.yaml"}


def blocks() -> list[tuple[str, str]]:
    """Language and text of every fenced block, in order."""
    return re.findall(
        r"^```(\w+)\n(.*?)^```$", TUTORIAL.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def commands() -> list[list[str]]:
    """The words of every shell line."""
    return [
        shlex.split(line) for language, text in blocks() if language == "sh" for line in text.splitlines()
    ]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder with the tutorial's files in it; what they register is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    for language, text in blocks():
        if language in FILES:
            assert f"`{FILES[language]}`" in TUTORIAL.read_text(encoding="utf-8")
            (tmp_path / FILES[language]).write_text(text, encoding="utf-8")
    yield tmp_path
    with OPS.loading_from(str((tmp_path / "my_ops.py").resolve())):
        pass


def test_it_is_short() -> None:
    assert len(TUTORIAL.read_text(encoding="utf-8").splitlines()) < 40


def test_every_block_is_a_file_or_commands() -> None:
    assert [language for language, _ in blocks()] == ["python", "sh", "yaml", "sh"]
    assert [words[:2] for words in commands()] == [
        ["binas", "ops"],
        ["binas", "search"],
        ["binas", "retrain"],
        ["binas", "check"],
    ]


def test_it_works_as_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands():
        assert main(words[1:]) == 0, f"{shlex.join(words)}\n{capsys.readouterr().err}"
    output = capsys.readouterr().out
    assert "binary_pointwise_conv keeps the contract" in output
    assert re.search(r"^binary: each of \d+ convolutions", output, re.MULTILINE)
    text = (folder / "runs" / "tiny" / "genotype.json").read_text(encoding="utf-8")
    genotype = parse_genotype(text, "genotype.json")
    assert genotype.plugins[0].file == "my_ops.py"
    assert genotype.plugins[0].operations == ("binary_pointwise_conv",)


def test_a_broken_operation_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "my_ops.py"
    file.write_text(file.read_text(encoding="utf-8").replace("1, stride,", "1, 1,"), encoding="utf-8")
    assert main(["ops", "check", "my_ops.py:binary_pointwise_conv"]) == 2
    assert "stride 2" in capsys.readouterr().err
