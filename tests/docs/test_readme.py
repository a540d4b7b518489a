"""README and documents: every command is executed in miniature, every link and named file exists."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

import binas
from binas.cli.main import main
from binas.ops import OPS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
INSTALLS = ("make", "pip")
MINIATURE = {
    "data.subset": "120",
    "data.image_size": "8",
    "search.phases.0.epochs": "1",
    "search.phases.1.epochs": "1",
    "search.batch_size": "32",
    "space.supernet.init_channels": "4",
    "space.supernet.num_cells": "3",
    "space.network.init_channels": "4",
    "space.network.num_cells": "3",
    "retrain.stages.0.epochs": "1",
    "retrain.stages.1.epochs": "1",
}
"""What is added to every `binas search` of the README; retraining uses the recipe that was searched with."""


def fenced(language: str) -> list[str]:
    """The texts of the README's blocks in a language, in order."""
    text = README.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """The words of every shell line that is not an installation."""
    lines = [shlex.split(line, comments=True) for block in fenced("sh") for line in block.splitlines()]
    return [words for words in lines if words and words[0] not in INSTALLS]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with what the README presumes: images in class folders, and its Python files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BINAS_CACHE", str(tmp_path / "cache"))
    generator = torch.Generator().manual_seed(0)
    for label in ("cats", "dogs"):
        (tmp_path / "my_images" / label).mkdir(parents=True)
        for number in range(80):
            pixels = torch.randint(256, (12, 10, 3), generator=generator, dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(tmp_path / "my_images" / label / f"{number}.png")
    for text in fenced("python"):
        if not text.startswith("# "):
            continue
        (tmp_path / text.splitlines()[0].removeprefix("# ")).write_text(text, encoding="utf-8")
    before = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(before)
    with OPS.loading_from(str((tmp_path / "my_ops.py").resolve())):
        pass


def test_every_command_works(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = [word for key, value in MINIATURE.items() for word in (f"--{key}", value)]
    for words in commands():
        if words[0] == "ls":
            assert (folder / words[1]).is_dir()
            continue
        assert words[0] == "binas", f"the README calls {words[0]}"
        shrinks = words[1] == "search" and "--resume" not in words
        status = main([*words[1:], *(small if shrinks else [])])
        assert status == 0, f"{shlex.join(words)}\n{capsys.readouterr().err}"
    for made in ("runs/first/genotype.json", "cells.svg", "data.png", "runs/mine_retrained/checkpoint.pt"):
        assert (folder / made).is_file()
    assert "blur" in (folder / "runs/blurred/config.yaml").read_text(encoding="utf-8")


def test_its_python_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (text,) = [text for text in fenced("python") if not text.startswith("# ")]
    (folder / "program.py").write_text(text, encoding="utf-8")
    found = runpy.run_path("program.py")
    assert "reactnet_a" in capsys.readouterr().out and isinstance(found["network"], torch.nn.Module)


def test_the_readme_shows_every_command_that_makes_a_run() -> None:
    shown = {words[1] for words in commands() if words[0] == "binas"}
    assert shown >= {"search", "retrain", "eval", "check", "profile", "draw", "ops", "data"}
    assert "make demo" in README.read_text(encoding="utf-8")
    assert "make test" in README.read_text(encoding="utf-8")


def test_make_knows_the_targets_of_the_readme() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in "".join(fenced("sh")).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith(("http://", "https://")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:binas|tools|tests|configs|search_spaces|genotypes|docs)/[\w./]+)`", text):
        if not name.startswith("genotypes/epoch_"):  # of a run folder
            assert (ROOT / name).exists(), f"{document.name}: {name}"


def test_no_accuracy_is_stated_without_how_it_was_measured() -> None:
    text = README.read_text(encoding="utf-8")
    (table,) = re.findall(r"\n\| Fashion-MNIST.*?\n\n\*(.*?)\*\n", text, re.DOTALL)
    for told in ("make demo", "n = 3", "standard deviation", "cores", "torch "):
        assert told in table, told
    rest = text.replace(text[text.index("| Fashion-MNIST") : text.index(table)], "")
    assert not re.search(r"\d\s*%|accuracy (?:of|is) \d|0\.\d{3}", rest)


def test_the_picture_in_the_readme_is_of_the_genotype_beside_it(tmp_path: Path) -> None:
    from binas.arch.genotype import read_genotype

    genotype = read_genotype(ROOT / "docs" / "searched_cell.json", OPS)
    drawn = (ROOT / "docs" / "searched_cell.svg").read_text(encoding="utf-8")
    for operation in genotype.operations():
        assert operation.split("_")[-1].replace("x", "×") in drawn
    assert (ROOT / "docs" / "searched_cell.png").read_bytes().startswith(b"\x89PNG")


def test_architecture_names_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    package = Path(binas.__file__).parent
    rooms = [path.name for path in package.iterdir() if (path / "__init__.py").is_file()]
    missing = [room for room in rooms if f"`{room}/`" not in text]
    assert rooms and not missing, f"docs/architecture.md has no line for {missing}"


def test_files_that_the_map_names_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[`([^`]+)/`\].*$", text, re.MULTILINE)
    assert rows
    for row in re.finditer(r"^\| \[`([^`]+)/`\].*$", text, re.MULTILINE):
        named = re.findall(r"`([a-z_]+\.py|[a-z_]+/)`", row[0])
        missing = [
            name for name in named if name != f"{row[1]}/" and not (ROOT / "binas" / row[1] / name).exists()
        ]
        assert not missing, f"docs/architecture.md: binas/{row[1]}/ has no {missing}"
