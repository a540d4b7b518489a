"""What a message tells to do can be done by who has installed the package alone."""

from __future__ import annotations

import ast
from pathlib import Path

import binas

PACKAGE = Path(binas.__file__).parent


def test_no_text_of_the_package_names_a_file_that_is_not_in_it() -> None:
    """`tools/`, `tests/` and `benchmarks/` are in a checkout only."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found += [
                    f"{path}:{node.lineno}: {folder}"
                    for folder in ("tools/", "tests/", "benchmarks/")
                    if folder in node.value
                ]
    assert not found
