"""What opens the project to others: licence, citation, hooks, workflow and targets agree with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

import binas

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def recipe(target: str) -> list[str]:
    """The commands of a target, without the environment's folder."""
    lines = MAKEFILE.partition(f"\n{target}:")[2].partition("\n\n")[0].splitlines()[1:]
    return [line.strip().removeprefix("$(BIN)/") for line in lines]


def test_the_licence_is_named_everywhere() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "Copyright 2026 the binas authors" in text
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert all((ROOT / file).exists() for file in PROJECT["project"]["license-files"])


def test_the_version_stands_once() -> None:
    assert "version" in PROJECT["project"]["dynamic"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == binas.__version__ and citation["license"] == "Apache-2.0"
    assert citation["cff-version"] == "1.2.0" and citation["authors"] and citation["title"]


def test_hooks_do_what_make_check_does() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0][
        "hooks"
    ]
    assert [hook["entry"] for hook in hooks] == recipe("check")


def test_the_workflow_calls_targets_that_are_there() -> None:
    text = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    assert yaml.safe_load(text)["jobs"] and "has not run yet" in text
    targets = set(re.findall(r"make (?:PYTHON=python )?([a-z-]+)", text))
    assert targets >= {"install", "test", "check", "demo"}
    assert all(re.search(rf"^{target}:", MAKEFILE, re.MULTILINE) for target in targets)


def test_rooms_of_contributing_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = {room for found in re.findall(r"`make ((?:test-[a-z]+ ?)+)`", text) for room in found.split()}
    assert len(rooms) > 10
    for room in rooms:
        assert list((ROOT / "tests" / room.removeprefix("test-")).glob("test_*.py")), room


def test_types_travel() -> None:
    assert (Path(binas.__file__).parent / "py.typed").exists()
