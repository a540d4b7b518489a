"""Legacy genotype texts: right ones are read, everything else is refused with its source named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from binas.arch.genotype import Edge, read_genotype
from binas.arch.legacy import NAMES, import_genotype
from binas.arch.space import SearchSpace
from binas.config import build, find_file, shipped_names
from binas.errors import UserError
from binas.ops import OPS

ROOT = Path(__file__).parents[2]
PUBLISHED = (
    "bats",
    "bnas_latest_cell",
    "bnas_latest_cell_zeroise",
    "darts_v1",
    "darts_v2",
    "ebnas",
    "pc_darts_cifar",
    "pc_darts_image",
)
CELL = "[('skip_connect', 1), ('none', 0), ('max_pool_3x3', 2), ('sep_conv_3x3', 0)]"
GOOD = f"Genotype(normal={CELL}, normal_concat=range(2, 4), reduce={CELL}, reduce_concat=[3, 2])"


def text_with(**changes: str) -> str:
    fields = {"normal": CELL, "normal_concat": "range(2, 4)", "reduce": CELL, "reduce_concat": "[2, 3]"}
    return f"Genotype({', '.join(f'{key}={value}' for key, value in (fields | changes).items())})"


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"  Cells = {GOOD}\n",
        f"Genotype({CELL}, range(2, 4), {CELL}, (2, 3))",
        f"Genotype({CELL}, [2, 3], reduce={CELL}, reduce_concat=range(2, 4))",
        f"# a comment\nA = {GOOD}  # another",
    ],
    ids=["keywords", "named", "positional", "mixed", "comments"],
)
def test_each_way_of_writing_it(text: str) -> None:
    genotype = import_genotype(text, "bats", "cells.txt", {"name": "x"})
    cell = (
        Edge(2, 1, "skip"),
        Edge(2, 0, "zeroise"),
        Edge(3, 2, "max_pool_3x3"),
        Edge(3, 0, "binary_group_conv_3x3"),
    )
    assert genotype.normal == genotype.reduce == cell
    assert (genotype.num_nodes, genotype.edges_per_node, genotype.space) == (2, 2, {"name": "x"})


@pytest.mark.parametrize(
    ("names", "operation"),
    [("darts", "binary_separable_conv_3x3"), ("bats", "binary_group_conv_3x3")],
)
def test_one_word_means_different_operations(names: str, operation: str) -> None:
    assert import_genotype(GOOD, names, "cells.txt", {}).normal[3].op == operation


@pytest.mark.parametrize(
    ("names", "legacy", "operation"),
    [
        ("darts", "dil_conv_5x5", "binary_dilated_conv_5x5"),
        ("bnas", "bin_conv_5x5", "binary_conv_5x5"),
        ("bnas", "bin_dil_conv_3x3", "binary_dilated_conv_3x3"),
        ("bats", "dil_conv_5x5", "binary_dilated_group_conv_5x5"),
        ("bats", "none", "zeroise"),
        ("darts", "avg_pool_3x3", "avg_pool_3x3"),
    ],
)
def test_names(names: str, legacy: str, operation: str) -> None:
    assert NAMES[names][legacy] == operation


@pytest.mark.parametrize("names", NAMES)
def test_every_name_stands_for_a_known_operation(names: str) -> None:
    assert set(NAMES[names].values()) <= set(OPS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (text_with(normal="[('bin_conv_3x3', 0), ('none', 1)]"), r"unknown darts operation .*names of bnas"),
        (text_with(normal="[('sepconv_3x3', 0), ('none', 1)]"), "did you mean 'sep_conv_3x3'"),
        (text_with(normal="[('none', 0), ('none', 1), ('none', 2)]"), "3 pairs, an odd number"),
        (text_with(normal="[('none', 0), ('none', 1)]", normal_concat="[2]"), "different numbers of edges"),
        (text_with(normal="[]"), "normal is no list"),
        (text_with(normal="'none'"), "normal is no list"),
        (text_with(normal="[('none', '0'), ('none', 1)]"), r"normal\.0: not an"),
        (text_with(normal="[('none', True), ('none', 0)]"), r"normal\.0: not an"),
        (text_with(normal="[('none', 0, 1), ('none', 1)]"), r"normal\.0: not an"),
        (text_with(normal=CELL.replace("2)", "7)")), "node"),
        (text_with(normal=CELL.replace("'none', 0", "'none', 1")), "two edges from node 1 to node 2"),
        (text_with(normal_concat="range(3, 4)"), "normal_concat does not hold each of the nodes 2 to 3"),
        (text_with(normal_concat="[2, 2]"), "normal_concat"),
        (text_with(normal_concat="[2, 3, 4]"), "normal_concat"),
        (text_with(normal_concat="['2', 3]"), "normal_concat"),
        (text_with(normal_concat="2"), "normal_concat"),
        (text_with(normal_concat="range(10**9)"), "normal_concat is not a plain value"),
        (text_with(normal_concat=f"range(0, {10**30})"), "normal_concat"),
        (text_with(normal_concat="range(2, 4, 1)"), "normal_concat is not a plain value"),
        (text_with(normal_concat="range(2.0, 4)"), "normal_concat is not a plain value"),
        (text_with(normal="range(2, 4)"), "normal is not a plain value"),
        (text_with(normal="[open('/etc/passwd').read()]"), "normal is not a plain value"),
        (text_with(normal="[x for x in ()]"), "normal is not a plain value"),
        (text_with(normal="{[]: 1}"), "normal is not a plain value"),
        (text_with(normal="__import__('os').system('touch ran')"), "normal is not a plain value"),
        (text_with(extra="1"), "unknown key 'extra'"),
        (f"Genotype(**{{'normal': {CELL}}})", "unknown key 'None'"),
        (f"Genotype({CELL}, normal={CELL})", "stands twice"),
        (f"Genotype(*[{CELL}])", "is missing"),
        ("Genotype(1, 2, 3, 4, 5)", "takes 4 values"),
        (f"Genotype(normal={CELL})", "key 'normal_concat' is missing"),
        ("", "holds 0 statements"),
        (f"import os\nA = {GOOD}", "holds 2 statements"),
        (f"A = {GOOD}\nB = {GOOD}", "holds 2 statements"),
        ("import os", r"not a Genotype\(…\) call"),
        ("[1, 2]", r"not a Genotype\(…\) call"),
        (f"os.{GOOD}", r"not a Genotype\(…\) call"),
        (GOOD.replace("Genotype", "print"), r"not a Genotype\(…\) call"),
        (GOOD[:-5], "not a Python literal"),
        ("\0", "not a Python literal"),
        ("[" * 5000 + "]" * 5000, "not a Python literal"),
        ("A" * 200_000, "too many"),
    ],
)
def test_whatever_else_is_a_user_error(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        import_genotype(text, "darts", "cells.txt", {})
    assert "cells.txt" in str(error.value)
    assert list(tmp_path.iterdir()) == []  # nothing has run


def test_unknown_map_of_names() -> None:
    with pytest.raises(UserError, match=r"names 'dart': .*did you mean 'darts'.*bats, bnas, darts"):
        import_genotype(GOOD, "dart", "cells.txt", {})


def test_all_published_cells_are_shipped() -> None:
    assert set(PUBLISHED) <= set(shipped_names("genotypes"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_cell_loads_with_its_space_and_source(name: str) -> None:
    genotype = read_genotype(find_file(name, "genotypes"), OPS)
    assert set(genotype.provenance) == {"paper", "source", "note"}
    space = build(SearchSpace, genotype.space, name)
    assert genotype.operations() <= set(space.operations)
    assert (genotype.num_nodes, genotype.edges_per_node) == (space.num_nodes, space.edges_per_node)


def test_bnas_cell_with_zeroise_is_as_published() -> None:
    genotype = read_genotype(find_file("bnas_latest_cell_zeroise", "genotypes"), OPS)
    assert genotype.normal == (
        Edge(2, 1, "zeroise"),
        Edge(2, 0, "binary_dilated_conv_3x3"),
        Edge(3, 1, "binary_conv_3x3"),
        Edge(3, 2, "zeroise"),
        Edge(4, 2, "zeroise"),
        Edge(4, 3, "zeroise"),
        Edge(5, 3, "zeroise"),
        Edge(5, 4, "zeroise"),
    )
    assert genotype.dead_nodes("normal") == genotype.dead_nodes("reduce") == {4, 5}


def test_published_cells_differ() -> None:
    hashes = {read_genotype(find_file(name, "genotypes"), OPS).hash() for name in PUBLISHED}
    assert len(hashes) == len(PUBLISHED)


def test_shipped_files_are_what_the_tool_writes(tmp_path: Path) -> None:
    tool = [sys.executable, str(ROOT / "tools" / "convert_legacy.py"), str(tmp_path)]
    subprocess.run(tool, check=True, capture_output=True, timeout=120)
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert written == {f"{name}.json": find_file(name, "genotypes").read_text() for name in PUBLISHED}
