"""The tutorials' blocks, executed as they stand: files are written, commands run in order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from binas.arch.genotype import parse_genotype
from binas.cli.main import main

DOCS = Path(__file__).parents[2] / "docs"
OPERATION, BINARIZER = DOCS / "tutorial_operation.md", DOCS / "tutorial_binarizer.md"
FILES = {
    OPERATION: {"python": "my_ops.py", "yaml": "tiny.yaml"},
    BINARIZER: {"python": "my_binarizers.py", "yaml": "own.yaml"},
}
tutorials = pytest.mark.parametrize("tutorial", FILES, ids=lambda path: path.stem)


def blocks(tutorial: Path) -> list[tuple[str, str]]:
    """Language and text of every fenced block, in order."""
    return re.findall(
        r"^```(\w+)\n(.*?)^```$", tutorial.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def commands(tutorial: Path) -> list[list[str]]:
    """The words of every shell line."""
    return [
        shlex.split(line)
        for language, text in blocks(tutorial)
        if language == "sh"
        for line in text.splitlines()
    ]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, made the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_files(tutorial: Path, folder: Path) -> None:
    """The tutorial's files, each of which its text names."""
    for language, text in blocks(tutorial):
        if language in FILES[tutorial]:
            name = FILES[tutorial][language]
            assert f"`{name}`" in tutorial.read_text(encoding="utf-8")
            (folder / name).write_text(text, encoding="utf-8")


@tutorials
def test_it_is_short(tutorial: Path) -> None:
    assert len(tutorial.read_text(encoding="utf-8").splitlines()) < 55


@tutorials
def test_every_block_is_a_file_or_commands(tutorial: Path) -> None:
    assert [language for language, _ in blocks(tutorial)] == ["python", "sh", "yaml", "sh"]
    first = {OPERATION: ["ops"], BINARIZER: ["binarizers", "binarizers"]}[tutorial]
    found = [words[:2] for words in commands(tutorial)]
    assert found == [["binas", word] for word in (*first, "search", "retrain", "check")]


@tutorials
def test_it_works_as_written(tutorial: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_files(tutorial, folder)
    for words in commands(tutorial):
        assert main(words[1:]) == 0, f"{shlex.join(words)}\n{capsys.readouterr().err}"
    output = capsys.readouterr().out
    file = FILES[tutorial]["python"]
    name = {OPERATION: "binary_pointwise_conv", BINARIZER: "scaled_sign"}[tutorial]
    assert f"{name} keeps the contract" in output
    assert re.search(r"^binary: each of \d+ convolutions", output, re.MULTILINE)
    run = next(words for words in commands(tutorial) if words[1] == "search")[-1]
    text = (folder / "runs" / run / "genotype.json").read_text(encoding="utf-8")
    genotype = parse_genotype(text, "genotype.json")
    assert genotype.plugins[0].file == file
    assert genotype.plugins[0].operations == (name,)
    for command in ("eval", "check", "profile"):
        words = [command, f"runs/{run}_retrain/checkpoint.pt"]
        assert main(words) == 2 and f"needs the plug-in {file}" in capsys.readouterr().err


def test_a_broken_operation_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_files(OPERATION, folder)
    file = folder / "my_ops.py"
    file.write_text(file.read_text(encoding="utf-8").replace("1, stride,", "1, 1,"), encoding="utf-8")
    assert main(["ops", "check", "my_ops.py:binary_pointwise_conv"]) == 2
    assert "stride 2" in capsys.readouterr().err


def test_a_broken_binarizer_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_files(BINARIZER, folder)
    file = folder / "my_binarizers.py"
    file.write_text(file.read_text(encoding="utf-8").replace("self.window), self", "self.window) / 2, self"))
    assert main(["binarizers", "check", "my_binarizers.py:scaled_sign"]) == 2
    error = capsys.readouterr().err
    assert "activation 'scaled_sign'" in error and "none of its levels (-1, 1)" in error
