"""The regularizer that makes a search pay for what its network is expected to cost."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from binas.arch.discretize import one_hot
from binas.arch.genotype import CELL_KINDS, ZEROISE, Edge, Genotype, cell_edges
from binas.arch.space import SearchSpace
from binas.errors import UserError
from binas.profile.cost import Profile
from binas.profile.count import count
from binas.profile.measures import Limits, Measure
from binas.search.parts import REGULARIZERS
from binas.search.regularizers.base import Regularizer, Relaxed

if TYPE_CHECKING:
    from binas.search.setting import SearchSetting

EDGE = re.compile(r"cells\.\d+\.edges\.edge_(\d+)_(\d+)\.")


@REGULARIZERS.register("expected_cost")
class ExpectedCost(Regularizer):
    """Adds weight · max(0, E/target − 1) to the loss of alpha steps, E the expected cost of the network.

    E = rest + Σ over nodes k/S·Σ_e Σ_o p_eo·c_eo, c_eo what operation o costs on edge e in all cells of its
    kind, S = Σ_e (1 − p of zeroise) the expected number of edges of the node, k those that it keeps; where
    the space may choose zeroise, max(k, S) in place of S. At one-hot probabilities E is what `binas profile`
    counts for that genotype.

    Args:
        measure: one that is a sum over layers: ops, bits, parameters, flops, bops, packed_kb, latency_ms.
        target: the cost above which the search pays; None: half of what uniform probabilities cost.
        weight: of the term.
        options: of the measure: `{table: phone.yaml}` for latency_ms.
    Raises:
        UserError: the measure looks at whole networks.
    Reference: Cai et al., ProxylessNAS, arXiv:1812.00332, sec. 3.3 (an expected cost that is differentiable).
    Deviation: the cost is that of the final network, and what is below the target is free.
    """

    def __init__(
        self,
        measure: str = "ops",
        target: float | None = None,
        weight: float = 1.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if target is not None and not 0 < target < float("inf"):
            raise UserError(f"expected_cost: target: a number above 0 is needed, not {target}")
        if not weight >= 0:
            raise UserError(f"expected_cost: weight: a number from 0 on is needed, not {weight}")
        limits = Limits.model_validate({measure: dict(options or {})})
        self.name, self.measure = measure, limits.measures[measure]
        if getattr(self.measure, "reads_network", True):
            raise UserError(
                f"expected_cost: measure '{measure}' looks at whole networks; take a sum over layers: ops,"
                " bits, parameters, flops, bops, packed_kb or latency_ms"
            )
        self.target, self.weight = target, weight
        self.last: Tensor | None = None

    def start(self, setting: SearchSetting) -> None:
        """Counts what each operation costs on each edge."""
        space = setting.cells
        self.may_zeroise = space.zeroise.policy != "drop"
        costs = operation_costs(space, self.measure, setting)
        self.rest, self.keeps = costs.rest, space.edges_per_node
        self.costs = {kind: rows.to(setting.device) for kind, rows in costs.rows.items()}
        ends = torch.tensor([node for node, _ in cell_edges(space.num_nodes)], device=setting.device)
        self.edges_of = [ends == node for node in range(2, 2 + space.num_nodes)]
        self.zeroise = space.operations.index(ZEROISE) if ZEROISE in space.operations else None
        if self.target is None:
            shape = next(iter(self.costs.values())).shape
            uniform = {kind: torch.full(shape, 1 / shape[1], device=setting.device) for kind in CELL_KINDS}
            self.target = float(self.expected(uniform)) / 2

    def expected(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        """E. Shape: (E, O) of each cell kind -> ()."""
        total = torch.tensor(self.rest, dtype=torch.float64, device=next(iter(self.costs.values())).device)
        for kind, costs in self.costs.items():
            p = probabilities[kind].to(costs)
            there = torch.ones_like(p[:, 0]) if self.zeroise is None else 1 - p[:, self.zeroise]
            by_edge = (p * costs).sum(1)
            for own in self.edges_of:
                keeps = min(self.keeps, int(own.sum()))
                edges = there[own].sum().clamp_min(keeps if self.may_zeroise else 1e-6)
                total = total + keeps / edges * by_edge[own].sum()
        return total

    def loss(self, relaxed: Relaxed) -> Tensor | None:
        """See the class."""
        if not self.weight or self.target is None:
            return None
        expected = self.expected(relaxed.probabilities)
        self.last = expected.detach()
        return self.weight * (expected / self.target - 1).clamp_min(0)

    def figures(self) -> Mapping[str, float]:
        """The expected cost of the last alpha step."""
        return {} if self.last is None else {f"expected_{self.name}": float(self.last)}


class OperationCosts:
    """What operations cost on edges, in all cells of a kind together, and what everything else does.

    Args:
        rows: (E, O) of each cell kind, float64.
        rest: of the network without operations.
    """

    def __init__(self, rows: dict[str, Tensor], rest: float) -> None:
        self.rows, self.rest = rows, rest


def operation_costs(space: SearchSpace, measure: Measure, setting: SearchSetting) -> OperationCosts:
    """Counts genotypes that have every operation on every edge, and takes their layers apart."""
    edges, operations = cell_edges(space.num_nodes), space.operations
    rows = {kind: torch.zeros(len(edges), len(operations), dtype=torch.float64) for kind in CELL_KINDS}
    rest = 0.0
    for column, name in enumerate(operations):
        if name == ZEROISE:
            continue
        for genotype in _covering(space, name, setting):
            profile, kinds = _counted(genotype, setting)
            seen = {kind: one_hot(genotype, space)[kind][:, column] > 0 for kind in CELL_KINDS}
            found = {kind: torch.zeros(len(edges), dtype=torch.float64) for kind in CELL_KINDS}
            rest = measure(None, profile)  # type: ignore[arg-type]
            for layer in profile.layers:
                if place := EDGE.match(layer.name):
                    cost = measure(None, Profile((layer,)))  # type: ignore[arg-type]
                    row = edges.index((int(place[1]), int(place[2])))
                    found[kinds[int(layer.name.split(".")[1])]][row] += cost
                    rest -= cost
            for kind in CELL_KINDS:
                rows[kind][seen[kind], column] = found[kind][seen[kind]]
    return OperationCosts(rows, rest)


def _covering(space: SearchSpace, name: str, setting: SearchSetting) -> Iterator[Genotype]:
    """Genotypes with one operation everywhere, which together have every edge."""
    most = space.num_nodes + 1
    for first in range(0, most, space.edges_per_node):
        cells = []
        for node in range(2, 2 + space.num_nodes):
            sources = sorted({(first + step) % node for step in range(min(space.edges_per_node, node))})
            cells += [Edge(node, source, name) for source in sources]
        yield Genotype(
            space=space.model_dump(mode="json"),
            num_nodes=space.num_nodes,
            edges_per_node=space.edges_per_node,
            normal=tuple(cells),
            reduce=tuple(cells),
            plugins=setting.plugins,
        )


def _counted(genotype: Genotype, setting: SearchSetting) -> tuple[Profile, list[str]]:
    """Its profile as limits count it, and the kind of each cell."""
    from binas.arch.cell_plan import plan_cells
    from binas.arch.network import genotype_space

    channels, height, width = setting.image_shape
    space = genotype_space(genotype)
    kinds = [plan.kind for plan in plan_cells(space.network, space.num_nodes)]
    return count(genotype, (height, width), setting.num_classes, channels), kinds
