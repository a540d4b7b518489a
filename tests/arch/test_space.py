"""Search spaces: the shipped files, changes to a base, every mistake; and genotypes of another space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from spaces import spaces_of

from binas.arch.genotype import CELL_KINDS, Edge, Genotype
from binas.arch.network import Network, genotype_space
from binas.arch.space import SearchSpace, load_space
from binas.binarize import BinarizerSpec
from binas.errors import UserError

BNAS_OPERATIONS = (
    "zeroise",
    "max_pool_3x3",
    "avg_pool_3x3",
    "binary_dilated_conv_3x3",
    "binary_dilated_conv_5x5",
    "binary_conv_3x3",
    "binary_conv_5x5",
)


@pytest.mark.parametrize("name", spaces_of("cell"))
def test_shipped_spaces_load_and_carry_their_name(name: str) -> None:
    space = load_space(name)
    space.check_operations()
    assert space.name == name
    assert load_space(space.model_dump(mode="json")) == space


def test_the_space_of_bnas() -> None:
    space = load_space("bnas")
    assert space.operations == BNAS_OPERATIONS
    assert (space.num_nodes, space.edges_per_node, space.inter_cell_skip) == (4, 2, True)
    assert (space.zeroise.policy, space.zeroise.gamma) == ("keep", 1.0)
    assert (space.supernet.init_channels, space.supernet.num_cells) == (16, 8)
    assert (space.network.init_channels, space.network.num_cells) == (36, 20)
    assert (space.supernet.preprocess, space.network.preprocess) == ("real", "binary")
    assert space.supernet.batch_norm_after_pool and not space.network.batch_norm_after_pool


def test_the_default_space_of_binas() -> None:
    space = load_space("binas")
    assert len(space.operations) == 12 and space.grouping.channels_per_group == 4
    assert not any("separable" in name for name in space.operations)
    assert (space.zeroise.policy, space.inter_cell_skip) == ("drop", True)


def test_changes_are_laid_over_a_base() -> None:
    space = load_space({"base": "bnas", "num_nodes": 3, "supernet": {"num_cells": 5}})
    bnas = load_space("bnas")
    assert (space.num_nodes, space.supernet.num_cells) == (3, 5)
    assert space.supernet.init_channels == bnas.supernet.init_channels
    assert space.operations == bnas.operations


def test_a_base_of_a_base_in_files(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("base: bnas\nnum_nodes: 3\nname: first\n")
    second.write_text(f"base: {first}\nedges_per_node: 1\n")
    space = load_space(str(second))
    assert (space.name, space.num_nodes, space.edges_per_node) == ("first", 3, 1)
    assert space.operations == BNAS_OPERATIONS


def test_another_binarizer_does_not_inherit_the_options_of_the_base() -> None:
    change = {"activation": {"name": "approx_sign"}, "pad_value": -1}
    binarization = load_space({"base": "bnas", "binarization": change}).binarization
    assert binarization.activation == BinarizerSpec(name="approx_sign")
    assert binarization.weight.options == {"center": True} and binarization.pad_value == -1
    wider = load_space({"base": "bnas", "binarization": {"activation": {"window": 1.25}}}).binarization
    assert wider.activation.options == {"window": 1.25} and wider.activation.name == "sign"


def test_a_file_based_on_itself(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(f"base: {second}\n")
    second.write_text(f"base: {first}\n")
    with pytest.raises(UserError, match=r"first\.yaml: base: the file is based on itself"):
        load_space(str(first))


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"num_nods": 4}, r"unknown key 'num_nods'; did you mean 'num_nodes'"),
    "unknown nested key": ({"supernet": {"num_cels": 4}}, r"'supernet.num_cels'; did you mean 'num_cells'"),
    "no operations": ({"operations": []}, "operations"),
    "an operation twice": ({"operations": ["skip", "zeroise", "skip"]}, "operations: 'skip' stands twice"),
    "zeroise alone": ({"operations": ["zeroise"]}, "zeroise alone"),
    "no nodes": ({"num_nodes": 0}, "num_nodes.*greater than or equal to 1"),
    "no edges": ({"edges_per_node": 0}, "edges_per_node"),
    "both groupings": ({"grouping": {"groups": 4}}, "exactly one of channels_per_group and groups"),
    "no grouping": ({"grouping": {"channels_per_group": None}}, "exactly one of"),
    "gamma": ({"zeroise": {"gamma": 0}}, r"zeroise\.gamma.*greater than 0"),
    "policy": ({"zeroise": {"policy": "maybe"}}, r"zeroise\.policy.*'keep', 'drop' or 'discount'"),
    "reduction beyond the end": (
        {"network": {"num_cells": 3, "reductions": [1, 3]}},
        "position 3 is beyond the 3 cells",
    ),
    "reductions out of order": ({"supernet": {"reductions": [3, 1]}}, "ascending"),
    "negative reduction": ({"supernet": {"reductions": [-1]}}, "not below 0"),
    "padding value": ({"binarization": {"pad_value": 2}}, "pad_value"),
    "wrong type": ({"num_nodes": "four"}, "num_nodes.*'four'"),
    "kind of skip": ({"reduction_skip": "max_pool"}, "reduction_skip"),
}


@pytest.mark.parametrize(("changes", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_name_key_and_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_space({"base": "bnas", **changes})


def test_unknown_operation_names_the_nearest() -> None:
    space = load_space({"base": "bnas", "operations": ["zeroise", "binary_conv3x3"]})
    with pytest.raises(UserError, match=r"did you mean 'binary_conv_3x3'") as told:
        space.check_operations()
    assert told.value.hint == "plugins"


@pytest.mark.parametrize(
    ("value", "message"),
    [("bnsa", "did you mean 'bnas'"), (3, "a name, a file or a mapping"), (None, "not None")],
    ids=str,
)
def test_what_is_no_space(value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_space(value)


def genotype(space: Any, num_nodes: int = 2, edges_per_node: int = 2, op: str = "skip") -> Genotype:
    edges = tuple(
        Edge(node, source, op)
        for node in range(2, 2 + num_nodes)
        for source in range(min(edges_per_node, node))
    )
    return Genotype(
        space=space, num_nodes=num_nodes, edges_per_node=edges_per_node, normal=edges, reduce=edges
    )


def two_nodes(**changes: Any) -> dict[str, Any]:
    return load_space({"base": "binas", "num_nodes": 2, **changes}).model_dump(mode="json")


def test_a_genotype_carries_its_space_whole_or_by_name() -> None:
    assert genotype_space(genotype(two_nodes())) == SearchSpace.model_validate(two_nodes())
    assert genotype_space(genotype({"name": "binas"}, num_nodes=4)) == load_space("binas")


FOREIGN: dict[str, tuple[Genotype, str]] = {
    "no space": (genotype({}), "key 'space' is empty"),
    "unknown name": (genotype({"name": "bins"}), "did you mean 'binas'"),
    "another operation": (
        genotype(two_nodes(operations=["zeroise", "max_pool_3x3"])),
        r"operation 'skip' is not in its space 'binas' \(zeroise, max_pool_3x3\).*another space",
    ),
    "other nodes": (genotype(two_nodes(), num_nodes=3), "3 nodes with 2 edges.*has 2 with 2"),
    "other edges": (genotype(two_nodes(), edges_per_node=1), "2 nodes with 1 edges.*has 2 with 2"),
    "a damaged space": (
        genotype({**two_nodes(), "num_cells": 3}),
        "genotype: space: unknown key 'num_cells'",
    ),
}


@pytest.mark.parametrize(("foreign", "message"), FOREIGN.values(), ids=FOREIGN)
def test_genotypes_of_another_space(foreign: Genotype, message: str) -> None:
    with pytest.raises(UserError, match=message):
        genotype_space(foreign)
    with pytest.raises(UserError, match=message):
        Network(foreign, 3, 10)


def test_cells_of_both_kinds_are_checked() -> None:
    mixed = genotype(two_nodes(operations=["skip", "zeroise"]))
    for kind in CELL_KINDS:
        edges = tuple(edge._replace(op="max_pool_3x3") for edge in mixed.cell(kind))
        with pytest.raises(UserError, match="max_pool_3x3"):
            genotype_space(mixed.model_copy(update={kind: edges}))
