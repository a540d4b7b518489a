"""The shape of the package: imports go one way and do no work, nothing is eval'd."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import binas

PACKAGE = Path(binas.__file__).parent
TOOLS = Path(sys.executable).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("matplotlib", "sklearn", "skimage", "tensorboard", "torchvision", "networkx", "graphviz", "optuna")
PURE = [
    "arch.network",
    "arch.sample",
    "binarize",
    "ops",
    "ops.op_check",
    "config",
    "registry",
    "plugins",
    "data.config",
    "search.config",
    "evolve.config",
    "train.stage",
    "recipe",
    "cli.main",
    "cli.session",
]
"""Modules that every command needs, and that none of the heavy libraries may slow down."""


def loads_more_than_tensors(text: str) -> list[str]:
    """Lines at which torch.load could run what stands in a file; the linter knows the other ways."""
    return [
        f"{node.lineno}: torch.load without weights_only=True"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
        if not any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
    ]


def test_nothing_that_stands_in_a_file_is_run() -> None:
    found = {path: loads_more_than_tensors(path.read_text(encoding="utf-8")) for path in MODULES}
    assert not {path: lines for path, lines in found.items() if lines}


@pytest.mark.parametrize("text", ["torch.load('a')", "torch.load('a', weights_only=False)"])
def test_a_load_of_anything_would_be_seen(text: str) -> None:
    assert loads_more_than_tensors(text) and not loads_more_than_tensors("torch.load(p, weights_only=True)")


FORBIDDEN = {
    "eval('1')": "S307",
    "exec('1')": "S102",
    "import pickle": "TID251",
    "from pickle import loads": "TID251",
    "import dill as d": "TID251",
    "try:\n    f()\nexcept:\n    pass": "E722",
    "def f():\n    global a\n    a = 1": "PLW0603",
    "from os import *": "F403",
    "import yaml\nyaml.unsafe_load('')": "TID251",
    "import yaml\nyaml.load('', yaml.Loader)": "S506",
    "from .cell import Cell": "TID252",
    "print(1)": "T201",
    "# TODO later": "FIX002",
    "x = 1": "D100",
}
"""Text of a module of the library, and the rule of the linter that refuses it."""


def test_the_linter_refuses_what_a_module_may_not_do() -> None:
    for text, rule in FORBIDDEN.items():
        done = subprocess.run(
            [
                *(str(TOOLS / "ruff"), "check", "--output-format=concise", "--no-cache", "-"),
                "--stdin-filename=binas/some.py",
            ],
            input=f"{text}\n",
            cwd=PACKAGE.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1 and f" {rule} " in done.stdout, (text, done.stdout, done.stderr)


def test_every_room_has_its_place() -> None:
    contracts = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    layers = contracts["tool"]["importlinter"]["contracts"][0]["layers"]
    entries = [
        entry for entry in PACKAGE.iterdir() if entry.suffix == ".py" or (entry / "__init__.py").exists()
    ]
    assert {entry.stem for entry in entries} - {"__init__"} == set(layers)


def test_an_upward_import_would_be_seen(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "binas", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PACKAGE.parent / "pyproject.toml", tmp_path)
    with (tmp_path / "binas" / "errors.py").open("a", encoding="utf-8") as file:
        file.write("\n\ndef late():\n    from binas.search.parts import STRATEGIES\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [str(TOOLS / "lint-imports"), "--no-cache"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "binas.errors -> binas.search.parts" in done.stdout, done.stdout


def top_level_work(text: str) -> list[str]:
    """Calls that a module makes while it is imported as statements of their own, other than registering."""
    calls = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            calls.append(ast.unparse(node.value.func))
        if isinstance(node, ast.With | ast.While | ast.Try):
            calls.append(type(node).__name__)
    return calls


def test_importing_does_no_work() -> None:
    for path in MODULES:
        if path.name != "__main__.py":
            calls = top_level_work(path.read_text(encoding="utf-8"))
            work = [call for call in calls if not call.rsplit(".", 1)[-1].startswith(("register", "add_"))]
            assert not work, f"{path}: at import it runs {work}"


def run_python(code: str, folder: Path) -> str:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_loads_no_heavy_library_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Each of PURE in one fresh process, in an empty folder; random state and default type stay."""
    code = f"""
import importlib, random, sys
import torch
def state():
    kept = random.getstate(), torch.get_rng_state().tolist()
    return *kept, torch.get_default_dtype(), torch.get_num_threads()
before = state()
path = list(sys.path)
for name in {PURE!r}:
    importlib.import_module("binas." + name)
    loaded = [heavy for heavy in {HEAVY!r} if heavy in sys.modules]
    assert not loaded, (name, loaded)
assert before == state() and sys.path == path
"""
    assert run_python(code, tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


def test_help_does_not_wait_for_torch(tmp_path: Path) -> None:
    heavy = ("torch", *HEAVY)
    code = f"import sys, binas.cli.main; print([name for name in {heavy!r} if name in sys.modules])"
    assert run_python(code, tmp_path) == "[]"
