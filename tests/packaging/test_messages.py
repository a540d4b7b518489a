"""The library speaks its own words: its texts name no flag, and the command line knows every hint."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import binas
from binas.cli.hints import HINTS, with_hint
from binas.errors import BinasError, UserError
from binas.plugins import load_plugins

PACKAGE = Path(binas.__file__).parent
FLAG = re.compile(r"(?<![\w-])--[a-z]")
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if "cli" not in path.relative_to(PACKAGE).parts]


def texts(tree: ast.AST) -> Iterator[ast.Constant]:
    """Every text of a file but the arguments of git, which has flags of its own."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_git":
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node
        yield from texts(node)


def test_no_text_of_the_library_names_a_flag() -> None:
    assert len(FILES) > 150
    found = [
        f"{path.relative_to(PACKAGE)}:{text.lineno}: {text.value}"
        for path in FILES
        for text in texts(ast.parse(path.read_text()))
        if FLAG.search(text.value)
    ]
    assert not found, "\n".join(found)


def test_a_flag_would_be_found() -> None:
    tree = ast.parse('raise UserError(f"{path}: name it with --plugins {file}")')
    assert any(FLAG.search(text.value) for text in texts(tree))


def test_every_hint_is_known_and_every_known_one_is_given() -> None:
    given = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "hint":
                given |= {
                    inner.value
                    for inner in ast.walk(node.value)
                    if isinstance(inner, ast.Constant) and isinstance(inner.value, str) and inner.value
                }
    assert given == set(HINTS)


def test_the_command_line_adds_the_flags() -> None:
    assert with_hint(UserError("a.py: no such file")) == "a.py: no such file"
    assert with_hint(UserError("a.py: no such file", hint="plugin_copy")) == (
        "a.py: no such file; name your copy with --plugins FILE"
    )
    assert with_hint(UserError("what to try:\n  - less", hint="settings")).endswith(f"\n{HINTS['settings']}")


def test_one_base_for_all_errors() -> None:
    assert issubclass(UserError, BinasError) and not issubclass(BinasError, ValueError)
    with pytest.raises(BinasError, match=r"a\.py: no such plug-in file"):
        load_plugins(["a.py"], ())
