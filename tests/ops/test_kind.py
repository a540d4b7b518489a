"""What an operation is made of: declared, or told by its modules; its name says nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from binas.arch.discretize import discretize_cell
from binas.arch.genotype import Edge, Genotype
from binas.arch.space import load_space
from binas.binarize import BinaryConv2d
from binas.draw.graph import cell_graph
from binas.errors import UserError
from binas.ops import OPS, OpContext, operation_kind, register_op
from binas.ops.convolutions import BinaryConv
from binas.ops.kind import is_skip
from binas.profile.formulas import Place
from binas.profile.operations import op_cost
from binas.search.collapse import collapse_warnings
from binas.search.config import Collapse


class Blur(nn.Module):
    """Mean of 3×3 pixels."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(3, stride, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(x)  # type: ignore[no-any-return]


class Reader(Blur):
    """Reads a number while it is built, which the meta device does not have."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__(channels, stride)
        self.scale = nn.Parameter(torch.ones(channels))
        assert self.scale.sum().item() == channels


def mean(channels: int, stride: int, context: OpContext) -> nn.Module:
    """A binary convolution under a name that says nothing of it."""
    return BinaryConv(channels, stride, context, 3, 1, 1)


def same(channels: int, stride: int) -> nn.Module:
    """A skip under another name."""
    return nn.Identity() if stride == 1 else nn.AvgPool2d(2, ceil_mode=True)


@pytest.fixture(autouse=True)
def own() -> Any:
    """Four operations of a user's, as of a plug-in, forgotten afterwards."""
    with OPS.loading_from("test"):
        for name, factory in (("binary_blur", Blur), ("mean", mean), ("same", same), ("reader", Reader)):
            register_op(name)(factory)  # type: ignore[arg-type]
    yield
    with OPS.loading_from("test"):
        pass


def test_the_modules_tell_what_the_name_does_not() -> None:
    assert operation_kind("binary_blur") == "weightless"
    assert operation_kind("mean") == operation_kind(mean) == "binary"
    assert operation_kind("reader") == "real"
    assert operation_kind("zeroise") == "none"
    assert (operation_kind("skip"), operation_kind("skip", stride=2)) == ("weightless", "binary")


def test_what_the_packages_own_declare_is_what_they_build() -> None:
    for name, factory in OPS._entries.items():
        declared: Any = getattr(factory, "kind", None)
        if declared in (None, "none"):
            continue
        del factory.kind  # type: ignore[attr-defined]
        try:
            for stride in (1, 2):
                assert operation_kind(name, stride) == declared, (name, stride)
        finally:
            factory.kind = declared  # type: ignore[attr-defined]


def test_a_declared_kind_counts_and_must_be_one() -> None:
    with OPS.loading_from("test"):
        register_op("said", kind="real")(same)
    assert operation_kind("said") == "real" and not is_skip("said")
    del same.kind  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"operation 'odd': kind: 'ternary' is none of binary, real"):
        register_op("odd", kind="ternary")  # type: ignore[arg-type]


def test_looking_leaves_the_random_state_and_tells_what_cannot_be_built() -> None:
    before = torch.get_rng_state()
    operation_kind("mean")
    operation_kind("reader")
    assert torch.equal(before, torch.get_rng_state())
    with OPS.loading_from("broken"):
        OPS.register("broken")(lambda channels, stride: nn.Conv2d(channels, None, 3))  # type: ignore[arg-type]
    with pytest.raises(
        UserError, match=r"operation 'broken' cannot be built for 16 channels.*declare its kind"
    ):
        operation_kind("broken")
    with OPS.loading_from("broken"):
        pass


def cells(op: str) -> Genotype:
    edges = (Edge(2, 0, op), Edge(2, 1, op))
    return Genotype(space={}, num_nodes=1, edges_per_node=2, normal=edges, reduce=edges)


def test_pictures_and_warnings_ask_what_it_is() -> None:
    for name, kind in (("binary_blur", "weightless"), ("mean", "binary"), ("reader", "real")):
        shown = {data["category"] for *_, data in cell_graph(cells(name), "normal").edges(data=True)}
        assert shown == {kind, "concat"}
        warnings = collapse_warnings(cells(name), 1.0, 1.1, Collapse(max_share=0.5))
        assert len(warnings) == (kind == "weightless"), name
    assert {data["category"] for *_, data in cell_graph(cells("skip"), "reduce").edges(data=True)} == {
        "binary",
        "concat",
    }


def test_a_skip_under_another_name_counts_as_one() -> None:
    space = load_space({"operations": ["same", "mean"], "num_nodes": 1, "max_skips": 1})
    assert space.skips() == {"same"} and is_skip("skip") and not is_skip("binary_blur")
    edges = discretize_cell([[0.9, 0.1], [0.8, 0.2]], space, "normal")
    assert edges == (Edge(2, 0, "same"), Edge(2, 1, "mean"))


def test_one_that_took_anothers_name_is_counted_as_it_is() -> None:
    """The closed form belongs to the operation, not to its name."""
    place = Place("op", (8, 6, 6), 1, OpContext(), True, True)
    before = op_cost("max_pool_3x3", place)
    with OPS.loading_from("test"):
        register_op("max_pool_3x3", replace=True)(mean)
    layers = op_cost("max_pool_3x3", place).layers
    assert sum(layer.bops for layer in layers) == 8 * 8 * 9 * 36
    with OPS.loading_from("test"):
        pass
    assert op_cost("max_pool_3x3", place) == before and not any(layer.bops for layer in before.layers)
    assert isinstance(mean(8, 1, OpContext()).conv, BinaryConv2d)
