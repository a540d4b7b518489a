"""A supernet with one-hot edge weights is the network of that genotype; sizes, skips and counts."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from spaces import spaces_of
from torch import Tensor, nn

from binas.arch.cell import Cell, Preprocess, ReductionSkip
from binas.arch.cell_plan import CellPlan, edge_operations, plan_cells
from binas.arch.discretize import genotype_of, one_hot
from binas.arch.drop_path import drop_path
from binas.arch.genotype import CELL_KINDS, Edge, Genotype, cell_edges, read_genotype
from binas.arch.network import Network
from binas.arch.sample import random_genotype
from binas.arch.space import NetworkSettings, SearchSpace, load_space
from binas.arch.supernet import Supernet, all_candidates
from binas.binarize import Binarization, BinarizerSpec, BinaryConv2d, binary_convolutions, set_precision
from binas.config import find_file
from binas.errors import UserError
from binas.ops import OPS

SPACES = spaces_of("cell")
SMALL = {"init_channels": 4, "num_cells": 3, "reductions": [1], "stem_multiplier": 2}
SIZES = [(8, 8), (15, 15), (7, 9)]


def small(space: str, **changes: Any) -> SearchSpace:
    """A shipped space with narrow, short networks for search and retraining."""
    given: dict[str, Any] = {"base": space, "supernet": SMALL, "network": SMALL}
    if space == "bats":  # its 12 groups do not divide these few channels
        given["grouping"] = {"groups": 2}
    return load_space({"base": given, **changes})


def copied(supernet: Supernet, genotype: Genotype, settings: NetworkSettings) -> Network:
    """The genotype's network with the supernet's own weights and statistics under the same names."""
    network = Network(genotype, supernet.in_channels, supernet.num_classes, settings=settings)
    state = supernet.state_dict()
    assert set(network.state_dict()) <= set(state)
    network.load_state_dict({name: state[name] for name in network.state_dict()}, strict=True)
    return network


def assert_same_function(
    space: SearchSpace,
    genotype: Genotype,
    settings: NetworkSettings,
    size: tuple[int, int],
    real: bool = False,
) -> None:
    torch.manual_seed(2)
    supernet = Supernet(space, 3, 5, settings=settings)
    network = copied(supernet, genotype, settings)
    weights: dict[str, Tensor] = one_hot(genotype, space)
    x = torch.randn(4, 3, *size)
    if real:
        supernet, network, x = supernet.double(), network.double(), x.double()
        weights = {kind: value.double() for kind, value in weights.items()}
        set_precision(supernet, False, False)
        set_precision(network, False, False)

    def same(a: Tensor, b: Tensor) -> bool:
        # real-valued sums may be taken in another order: 1e-12 in float64
        return torch.allclose(a, b, rtol=1e-12, atol=1e-12) if real else torch.equal(a, b)

    for mode in (True, False):
        supernet.train(mode), network.train(mode)
        assert same(network(x), supernet(x, weights)), "training" if mode else "evaluation"
        buffers = dict(supernet.named_buffers())
        for name, buffer in network.named_buffers():
            assert same(buffer, buffers[name]), name


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("space", SPACES)
def test_one_hot_supernet_is_the_network(space: str, seed: int) -> None:
    it = small(space, num_nodes=3)
    genotype = random_genotype(it, random.Random(seed))
    assert_same_function(it, genotype, it.network if seed == 1 else it.supernet, SIZES[seed])


@pytest.mark.parametrize("space", SPACES)
def test_one_hot_supernet_is_the_network_in_real_numbers(space: str) -> None:
    it = small(space, num_nodes=2)
    assert_same_function(it, random_genotype(it, random.Random(9)), it.supernet, (7, 9), real=True)


def cell(*edges: tuple[int, int, str]) -> tuple[Edge, ...]:
    return tuple(Edge(*edge) for edge in edges)


CONV, POOL, ZERO = "binary_conv_3x3", "max_pool_3x3", "zeroise"
ODD_CELLS = {
    "zeroise kept beside a convolution": cell((2, 0, ZERO), (2, 1, CONV), (3, 1, POOL), (3, 2, ZERO)),
    "a dead node feeds a live one": cell((2, 0, ZERO), (2, 1, ZERO), (3, 1, CONV), (3, 2, CONV)),
    "a dead chain": cell((2, 0, POOL), (2, 1, ZERO), (3, 0, ZERO), (3, 1, ZERO)),
    "input 0 is not read": cell((2, 0, ZERO), (2, 1, POOL), (3, 1, CONV), (3, 2, CONV)),
    "input 1 is not read": cell((2, 0, CONV), (2, 1, ZERO), (3, 0, POOL), (3, 2, CONV)),
}


@pytest.mark.parametrize("affine", [False, True], ids=["shared norms", "own norms"])
@pytest.mark.parametrize("edges", ODD_CELLS.values(), ids=ODD_CELLS)
def test_zeroise_dead_nodes_and_unread_inputs(edges: tuple[Edge, ...], affine: bool) -> None:
    space = small("bnas", num_nodes=2)
    genotype = genotype_of({"normal": edges, "reduce": edges}, space)
    settings = space.supernet.model_copy(update={"batch_norm_affine": affine})
    assert_same_function(space, genotype, settings, (7, 9))


@pytest.mark.parametrize("skip", ["real", "binary", "avg_pool", None])
def test_one_hot_with_each_inter_cell_skip(skip: str | None) -> None:
    changes = (
        {"inter_cell_skip": False} if skip is None else {"reduction_skip": skip, "inter_cell_skip": True}
    )
    space = small("binas", num_nodes=2, **changes)
    assert_same_function(space, random_genotype(space, random.Random(1)), space.supernet, (15, 15))


def test_zeroised_parts_have_no_modules() -> None:
    space = small("bnas", num_nodes=2)
    edges = ODD_CELLS["a dead node feeds a live one"]
    network = Network(genotype_of({"normal": edges, "reduce": edges}, space), 3, 5)
    for block in network.cells:
        assert list(block.edges) == ["edge_3_1"] and list(block.preprocess) == ["1"]


def test_the_order_of_edges_in_a_file_changes_nothing() -> None:
    edges = ODD_CELLS["input 0 is not read"]
    assert list(edge_operations(edges)) == list(edge_operations(edges[::-1])) == [(2, 1), (3, 1), (3, 2)]
    space, states = small("bnas", num_nodes=2), []
    for order in (edges, edges[::-1]):
        torch.manual_seed(0)
        states.append(Network(genotype_of({"normal": order, "reduce": order}, space), 3, 5).state_dict())
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_dead_node_stands_as_zeros() -> None:
    space = small("bnas", num_nodes=2, inter_cell_skip=False)
    edges = ODD_CELLS["a dead node feeds a live one"]
    network = Network(genotype_of({"normal": edges, "reduce": edges}, space), 3, 5)
    outputs: list[Tensor] = []
    network.run(torch.randn(2, 3, 8, 8), watch=lambda index, output: outputs.append(output))
    for plan, output in zip(network.plans, outputs, strict=True):
        assert not output[:, : plan.channels].any() and output[:, plan.channels :].any()


@pytest.mark.parametrize("space", SPACES)
def test_sizes_and_channels_of_every_cell(space: str) -> None:
    it = small(space, num_nodes=2)
    supernet = Supernet(it, 3, 5)
    weights = {kind: torch.ones(len(cell_edges(2)), len(it.operations)) for kind in CELL_KINDS}
    for size in SIZES:
        shapes: list[Any] = []
        x = torch.randn(2, 3, *size)
        logits = supernet.run(x, weights, watch=lambda index, y, shapes=shapes: shapes.append(tuple(y.shape)))
        half = (-(-size[0] // 2), -(-size[1] // 2))
        assert shapes == [(2, 8, *size), (2, 16, *half), (2, 16, *half)]
        assert logits.shape == (2, 5)


PLANS: list[tuple[dict[str, Any], list[CellPlan]]] = [
    (
        {"init_channels": 4, "num_cells": 3, "reductions": None, "stem_multiplier": 3},
        [
            CellPlan(0, "normal", 4, (12, 12), 1),
            CellPlan(1, "reduce", 8, (12, 16), 1),
            CellPlan(2, "reduce", 16, (16, 32), 2),
        ],
    ),
    (
        {"init_channels": 4, "num_cells": 4, "reductions": [0, 2], "stem_multiplier": 1},
        [
            CellPlan(0, "reduce", 8, (4, 4), 1),
            CellPlan(1, "normal", 8, (4, 32), 2),
            CellPlan(2, "reduce", 16, (32, 32), 1),
            CellPlan(3, "normal", 16, (32, 64), 2),
        ],
    ),
    (
        {"init_channels": 2, "num_cells": 2, "reductions": [], "stem_multiplier": 2},
        [CellPlan(0, "normal", 2, (4, 4), 1), CellPlan(1, "normal", 2, (4, 8), 1)],
    ),
]


@pytest.mark.parametrize(("settings", "expected"), PLANS, ids=["thirds", "first cell reduces", "none"])
def test_plan_cells(settings: dict[str, Any], expected: list[CellPlan]) -> None:
    plans = plan_cells(NetworkSettings.model_validate(settings), num_nodes=4)
    assert plans == expected
    assert [plan.stride for plan in plans] == [2 if plan.kind == "reduce" else 1 for plan in expected]


@pytest.mark.parametrize(
    ("num_cells", "positions"),
    [(1, (0,)), (2, (0, 1)), (3, (1, 2)), (5, (1, 3)), (8, (2, 5)), (10, (3, 6)), (20, (6, 13))],
)
def test_default_reductions_at_a_third_and_two_thirds(num_cells: int, positions: tuple[int, ...]) -> None:
    assert NetworkSettings(num_cells=num_cells).reduction_positions() == positions


@pytest.mark.parametrize("settings", [plan[0] for plan in PLANS], ids=str)
def test_networks_of_every_plan_run_and_learn(settings: dict[str, Any]) -> None:
    space = small("binas", network=settings, grouping={"channels_per_group": 2})
    network = Network(random_genotype(space, random.Random(3)), 1, 4)
    network(torch.randn(4, 1, 16, 16)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_inter_cell_skips_by_position() -> None:
    supernet = Supernet(small("bnas"), 3, 5)
    kinds = [type(block.skip) for block in supernet.cells]  # cell 0 has none
    assert kinds == [type(None), ReductionSkip, nn.Identity]
    reduce = supernet.cells[1].skip.reduce
    assert isinstance(reduce, nn.Conv2d) and reduce.bias is not None
    assert (reduce.kernel_size, reduce.stride) == ((2, 2), (2, 2))
    assert all(block.skip is None for block in Supernet(small("bats"), 3, 5).cells)
    binary = Supernet(small("bnas", reduction_skip="binary"), 3, 5).cells[1].skip.reduce
    assert isinstance(binary, BinaryConv2d)


def test_average_skip_against_a_loop() -> None:
    space = small("bnas")
    x = torch.randn(2, 3, 5, 7)
    y = ReductionSkip(3, 8, "avg_pool", space.context(space.supernet))(x)
    assert y.shape == (2, 8, 3, 4)
    for c in range(8):
        for row in range(3):
            for column in range(4):
                window = x[:, c % 3, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                torch.testing.assert_close(y[:, c, row, column], window.sum(dim=(1, 2)) / 4)


def test_the_skip_is_added_to_the_cell_output() -> None:
    with_skip, without = small("bnas"), small("bnas", inter_cell_skip=False)
    plan = CellPlan(1, "normal", 4, (16, 16), 1)
    edges = edge_operations([Edge(node, source, CONV) for node, source in cell_edges(4)])
    cells = [
        Cell(plan, 4, edges, {CONV: 0}, "real", skip, space.context(space.supernet))
        for space, skip in ((with_skip, "real"), (without, None))
    ]
    cells[1].load_state_dict(cells[0].state_dict())
    before, previous = torch.randn(2, 16, 8, 8), torch.randn(2, 16, 8, 8)
    assert torch.equal(cells[0](before, previous), cells[1](before, previous) + previous)


def test_bnas_a_has_the_published_number_of_parameters() -> None:
    path = Path(find_file("bnas_latest_cell_zeroise", "genotypes"))
    genotype = read_genotype(path, OPS)
    network = Network(genotype, 3, 10)
    live = sum(parameter.numel() for parameter in network.parameters())
    # the released code also counts what only zeroised edges read: the second input of both reductions
    assert all("1" not in block.preprocess for block in network.cells if block.plan.kind == "reduce")
    context = network.space.context(network.settings)
    unread = [
        Preprocess(plan.input_channels[1], plan.channels, 1, "binary", context)
        for plan in network.plans
        if plan.kind == "reduce"
    ]
    dead = sum(parameter.numel() for module in unread for parameter in module.parameters())
    assert (live, dead, live + dead) == (5_525_548, 52_704, 5_578_252)


def test_what_is_binary_in_a_network() -> None:
    space = small("bnas", network={"preprocess": "binary"}, supernet={"preprocess": "real"})
    network, supernet = Network(random_genotype(space, random.Random(0)), 3, 5), Supernet(space, 3, 5)
    for model, places in ((network, {"preprocess", "edges"}), (supernet, {"edges"})):
        assert {name.split(".")[2] for name, _ in binary_convolutions(model)} == places
        real = {name.split(".")[0] for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
        assert "stem" in real


def test_candidates_decide_which_modules_exist() -> None:
    space = small("bnas")
    candidates = all_candidates(space)
    candidates["normal"][0] = [CONV]
    candidates["reduce"][2] = [ZERO]
    supernet = Supernet(space, 3, 5, candidates=candidates)
    assert list(supernet.cells[0].edges["edge_2_0"]) == [CONV]
    assert len(supernet.cells[0].edges["edge_2_1"]) == len(space.operations) - 1
    assert len(supernet.cells[1].edges["edge_3_0"]) == 0
    weights = {kind: torch.full((14, 7), 1 / 7) for kind in CELL_KINDS}
    assert supernet(torch.randn(2, 3, 8, 8), weights).isfinite().all()


def test_one_hot_weights() -> None:
    space = small("bnas", num_nodes=2)
    edges = ODD_CELLS["a dead node feeds a live one"]
    weights = one_hot(genotype_of({"normal": edges, "reduce": edges}, space), space)
    expected = torch.zeros(5, 7)
    expected[3, space.operations.index(CONV)] = 1  # (3, 1); the edge from dead node 2 carries nothing
    assert torch.equal(weights["normal"], expected) and torch.equal(weights["reduce"], expected)


def test_drop_path_drops_whole_images_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    y = drop_path(torch.ones(4000, 2, 3, 3), 0.25)
    flat = y.flatten(1)
    assert ((flat == 0).all(dim=1) | (flat == 1 / 0.75).all(dim=1)).all()
    assert abs((flat[:, 0] == 0).double().mean().item() - 0.25) < 0.03  # over 4 standard deviations


def test_drop_path_only_in_training_and_never_on_the_identity() -> None:
    space = small("binas", supernet=SMALL, network={**SMALL, "reductions": []})
    network = Network(random_genotype(space, random.Random(5)), 3, 5)
    network.eval()
    x = torch.randn(4, 3, 8, 8)
    plain = network(x)
    network.drop_rate = 0.9
    assert torch.equal(network(x), plain)
    network.train()
    torch.manual_seed(0)
    first = network(x)
    torch.manual_seed(1)
    assert not torch.equal(network(x), first)
    skips = cell(*((node, source, "skip") for node in range(2, 6) for source in (0, 1)))
    identities = Network(genotype_of({"normal": skips, "reduce": skips}, space), 3, 5)
    before = identities(x)
    identities.drop_rate = 0.9
    assert torch.equal(identities(x), before)


def test_auxiliary_head_reads_two_thirds_of_the_depth_in_training_only() -> None:
    space = small("binas")
    genotype = random_genotype(space, random.Random(5))
    network = Network(genotype, 3, 5, auxiliary=True)
    x = torch.randn(4, 3, 16, 16)
    logits, extra = network(x)
    assert logits.shape == extra.shape == (4, 5) and network.auxiliary_position == 2
    extra.sum().backward()
    assert network.classifier.weight.grad is None and network.cells[1].skip is not None
    assert network.eval()(x).shape == (4, 5)


CHOSEN: dict[str, Any] = {"activation": "prelu", "estimator": BinarizerSpec(name="approx_sign")}


def test_what_is_chosen_for_every_edge_equals_a_space_that_says_so() -> None:
    """Activations by the space and estimators by a rule give the same logits, gradients and keys."""
    space = load_space("bnas").model_dump(mode="json")
    plain = random_genotype(load_space(space), random.Random(3))
    chosen = plain.model_copy(
        update={
            kind: tuple(
                edge if edge.op == "zeroise" else edge._replace(**CHOSEN) for edge in plain.cell(kind)
            )
            for kind in CELL_KINDS
        }
    )
    rule = {"match": "cells.*.edges", "binarization": {"activation": {"name": "approx_sign"}}}
    said = plain.model_copy(update={"space": {**space, "activation": "prelu", "layers": [rule]}})
    settings = NetworkSettings(init_channels=4, num_cells=3)
    one, two = (Network(genotype, 3, 5, settings=settings).train() for genotype in (chosen, said))
    two.load_state_dict(one.state_dict(), strict=True)
    x = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    for network in (one, two):
        network(x).square().sum().backward()
    gradients = [{name: p.grad for name, p in network.named_parameters()} for network in (one, two)]
    assert any(".activation.weight" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        assert gradient is not None and torch.equal(gradient, gradients[1][name]), name


def test_a_stage_leaves_a_chosen_estimator_and_changes_the_rest() -> None:
    space = {**load_space("bnas").model_dump(mode="json"), "name": "x"}
    cell = tuple(Edge(n, s, "binary_conv_3x3", **CHOSEN) for n in (2, 3, 4, 5) for s in (0, 1))
    genotype = Genotype(space=space, normal=cell, reduce=tuple(Edge(*edge[:3]) for edge in cell))
    stages = (
        Binarization(),
        Binarization(activation=BinarizerSpec(name="rsign"), weight=BinarizerSpec(name="react")),
    )
    network = Network(
        genotype, 3, 5, settings=NetworkSettings(init_channels=4, num_cells=3), binarizations=stages
    )
    set_precision(network, binarization=stages[1])
    found = {
        name.split(".")[2] + name.split(".")[1]: (conv.active_activation, conv.active_weight)
        for name, conv in binary_convolutions(network)
    }
    assert found["edges0"] == ("approx_sign", "react")
    assert found["edges1"] == ("rsign", "react")
    assert found["preprocess0"] == ("rsign", "react")


def test_an_unknown_choice_names_place_and_nearest() -> None:
    space = load_space("bnas").model_dump(mode="json")
    plain = random_genotype(load_space(space), random.Random(0))
    for choice, message in (
        ({"activation": "prelo"}, r"normal\.0\.activation: unknown activation 'prelo'; did you mean 'prelu'"),
        ({"estimator": BinarizerSpec(name="aprox_sign")}, r"normal\.0\.estimator: .*did you mean 'approx_si"),
    ):
        first = Edge(plain.normal[0].node, plain.normal[0].source, "max_pool_3x3", **choice)
        genotype = plain.model_copy(update={"normal": (first, *plain.normal[1:])})
        with pytest.raises(UserError, match=message):
            Network(genotype, 3, 5)
