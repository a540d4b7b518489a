"""The network that a genotype stands for: its live operations only."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from binas.arch.cell import Cell, Preprocess, global_average
from binas.arch.cell_plan import edge_choices, edge_operations
from binas.arch.genotype import CELL_KINDS, ZEROISE, Genotype
from binas.arch.space import NetworkSettings, SearchSpace, load_space
from binas.arch.trunk import Trunk
from binas.binarize import ACTIVATION_BINARIZERS, Binarization, BinarizerSpec, LayerRule
from binas.errors import UserError
from binas.kernels.layouts.images_last import images_first, images_last
from binas.kernels.sign_conv.sign_conv import can_fuse
from binas.ops import NONLINEARITIES
from binas.registry import nearest


class Network(Trunk):
    """A network built from a genotype; zeroised edges and what only dead nodes feed run no operation.

    Args:
        genotype: the cells.
        in_channels, num_classes: of the data.
        settings: None means the `network` settings of the genotype's space.
        binarizations: of all training stages; empty means the space's own.
        layers: rules of all training stages, as many as binarizations; empty means the space's own.
        auxiliary: whether a second classifier reads the cell at two thirds of the depth in training.
    Shape: (N, in_channels, H, W) -> (N, num_classes); in training with `auxiliary` a pair of these.
    """

    def __init__(
        self,
        genotype: Genotype,
        in_channels: int,
        num_classes: int,
        *,
        settings: NetworkSettings | None = None,
        binarizations: tuple[Binarization, ...] = (),
        auxiliary: bool = False,
        layers: tuple[tuple[LayerRule, ...], ...] = (),
    ) -> None:
        space = genotype_space(genotype)
        pruned = genotype.pruned()
        edges = {kind: edge_operations(pruned.cell(kind)) for kind in CELL_KINDS}
        choices = {kind: edge_choices(pruned.cell(kind)) for kind in CELL_KINDS}
        super().__init__(
            space,
            settings or space.network,
            edges,
            in_channels,
            num_classes,
            binarizations=binarizations,
            layers=layers,
            choices=choices,
        )
        self.genotype = genotype
        self.drop_rate = 0.0
        self.auxiliary_position = 2 * self.settings.num_cells // 3
        self.auxiliary: nn.Module | None = None
        if auxiliary:
            channels = space.num_nodes * self.plans[self.auxiliary_position].channels
            self.auxiliary = AuxiliaryHead(channels, num_classes)

    def cell_inputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the stem gives to the first cell; with images last where cells read them so."""
        before, previous = super().cell_inputs(x)
        first = cast(Cell, self.cells[0]).preprocess
        parts = [cast(Preprocess, part) for part in first.values()]
        if not any(can_fuse(part[0], part[1], previous) for part in parts):
            return before, previous
        last = images_last(previous)
        return (last if before is previous else images_last(before)), last

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """The logits; in training with an auxiliary head also those of the latter."""
        if self.auxiliary is None or not self.training:
            return self.run(x, drop_rate=self.drop_rate)
        extra: list[Tensor] = []
        head = self.auxiliary

        def watch(index: int, output: Tensor) -> None:
            if index == self.auxiliary_position:
                extra.append(head(images_first(output)))

        logits = self.run(x, drop_rate=self.drop_rate, watch=watch)
        return logits, extra[0]


class AuxiliaryHead(nn.Module):
    """A real-valued second classifier that is used in training only.

    Shape: (N, C, H, W) -> (N, num_classes).
    Reference: Liu et al., DARTS, arXiv:1806.09055 (auxiliary tower).
    Deviation: pools to 2×2 adaptively, so that any image size works.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, num_classes)
        for layer in self.modules():
            layer.why_real = "auxiliary head: used in training only"  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        logits: Tensor = self.classifier(global_average(self.features(x)))
        return logits


def genotype_space(genotype: Genotype) -> SearchSpace:
    """The search space that a genotype carries, checked against its cells and what was chosen for edges."""
    if not genotype.space:
        raise UserError("genotype: key 'space' is empty; it holds the search space or the name of one")
    named = genotype.space
    space = load_space(named["name"] if set(named) == {"name"} else named, "genotype: space")
    if (space.num_nodes, space.edges_per_node) != (genotype.num_nodes, genotype.edges_per_node):
        raise UserError(
            f"genotype: it has {genotype.num_nodes} nodes with {genotype.edges_per_node} edges, but its space"
            f" '{space.name}' has {space.num_nodes} with {space.edges_per_node}; it is of another space"
        )
    foreign = sorted(genotype.operations() - {*space.operations, ZEROISE})
    if foreign:
        raise UserError(
            f"genotype: operation '{foreign[0]}' is not in its space '{space.name}'"
            f" ({', '.join(space.operations)}); it is of another space"
        )
    for kind in CELL_KINDS:
        for position, edge in enumerate(genotype.cell(kind)):
            check_choices(f"genotype: {kind}.{position}", edge.activation, edge.estimator)
    return space


def check_choices(place: str, activation: str | None, estimator: BinarizerSpec | None) -> None:
    """Raises a `UserError` for an activation or estimator of a genotype that nothing registers."""
    for key, name, registry in (
        ("activation", activation, NONLINEARITIES),
        ("estimator", None if estimator is None else estimator.name, ACTIVATION_BINARIZERS),
    ):
        if name is not None and name not in registry:
            raise UserError(
                f"{place}.{key}: unknown {registry.kind} '{name}';{nearest(name, registry)}", hint="plugins"
            )
