"""What supernet and network have in common: stem, cells in a row, head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from binas.arch.cell import Cell, global_average
from binas.arch.cell_plan import EdgeChoices, EdgeOperations, plan_cells
from binas.arch.checkpointing import run_checkpointed
from binas.arch.space import NetworkSettings, SearchSpace
from binas.arch.stem import ImageNetStem, small_stem
from binas.binarize import Binarization, LayerRule
from binas.binarize.rules import own_by_rules


class Trunk(nn.Module):
    """Stem, cells and head of a network over a search space.

    The stem is real-valued, see `binas.arch.stem`; the head is a global average and a real-valued linear
    layer.

    Args:
        space: the search space.
        settings: depth, width and cell settings: `space.supernet` or `space.network`.
        edges: for each cell kind, the operations on each edge.
        in_channels: of the images.
        num_classes: outputs of the head.
        binarizations: of all training stages; empty means the space's own.
        layers: rules of all training stages, as many as binarizations; empty means the space's own.
        choices: for each cell kind, edges with an activation or an estimator of their own.
    Shape: (N, in_channels, H, W) -> (N, num_classes).
    """

    checkpoint_cells: bool = False
    """Whether training keeps only what cells hand on, and computes their inside again for the gradient."""

    def __init__(
        self,
        space: SearchSpace,
        settings: NetworkSettings,
        edges: Mapping[str, EdgeOperations],
        in_channels: int,
        num_classes: int,
        *,
        binarizations: tuple[Binarization, ...] = (),
        layers: tuple[tuple[LayerRule, ...], ...] = (),
        choices: Mapping[str, EdgeChoices] | None = None,
    ) -> None:
        super().__init__()
        space.check_operations()
        self.space, self.settings = space, settings
        self.in_channels, self.num_classes = in_channels, num_classes
        self.stem: nn.Module = (
            ImageNetStem(in_channels, settings.stem_channels)
            if settings.stem == "imagenet"
            else small_stem(in_channels, settings.stem_channels)
        )
        columns = {name: column for column, name in enumerate(space.operations)}
        context = space.context(settings, binarizations)
        skip = space.reduction_skip if space.inter_cell_skip else None
        self.plans = plan_cells(settings, space.num_nodes)
        chosen = choices or {}
        self.cells = nn.ModuleList(
            Cell(
                plan,
                space.num_nodes,
                edges[plan.kind],
                columns,
                settings.preprocess,
                skip,
                context,
                chosen.get(plan.kind),
            )
            for plan in self.plans
        )
        stages = binarizations or (space.binarization,)
        present = {name for cell in edges.values() for names in cell.values() for name in names}
        own_by_rules(
            self,
            list(zip(stages, layers or (space.layers,) * len(stages), strict=True)),
            may_be_absent=set(space.operations) - present,
        )
        self.classifier = nn.Linear(space.num_nodes * self.plans[-1].channels, num_classes)
        self.classifier.why_real = "last layer: its outputs are compared as real numbers"  # type: ignore[assignment]

    def cell_inputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the stem gives to the first cell."""
        output = self.stem(x)
        return output if isinstance(output, tuple) else (output, output)

    def run(
        self,
        x: Tensor,
        edge_weights: Mapping[str, Tensor] | None = None,
        drop_rate: float = 0.0,
        watch: Callable[[int, Tensor], None] | None = None,
        paths: Mapping[str, Sequence[int]] | None = None,
    ) -> Tensor:
        """The logits; `watch` is called with each cell's index and output."""
        keeps_inside = not (self.checkpoint_cells and self.training and torch.is_grad_enabled())
        before, previous = self.cell_inputs(x)
        for plan, cell in zip(self.plans, self.cells, strict=True):
            of_cell = None if edge_weights is None else edge_weights[plan.kind]
            path = None if paths is None else paths[plan.kind]
            arguments = (before, previous, of_cell, drop_rate, path)
            output = cell(*arguments) if keeps_inside else run_checkpointed(cell, *arguments)
            before, previous = previous, output
            if watch is not None:
                watch(plan.index, previous)
        logits: Tensor = self.classifier(global_average(previous))
        return logits
