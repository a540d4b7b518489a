"""Genotype to profile without its network, so that thousands can be counted in a search.

Operations are measured alone, once for each place (`operations.py`); what lies around them is in closed form.
Follows `binas.arch.trunk` and `binas.arch.cell` layer by layer; a test holds it equal to what runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from binas.arch.cell import edge_key
from binas.arch.cell_plan import (
    CellPlan,
    EdgeChoices,
    EdgeOperations,
    chosen_context,
    edge_choices,
    edge_operations,
    plan_cells,
)
from binas.arch.genotype import CELL_KINDS, ZEROISE, Edge, Genotype
from binas.arch.network import Network, genotype_space
from binas.arch.space import NetworkSettings, SearchSpace
from binas.binarize import Binarization, LayerRule, set_precision
from binas.ops import OpContext
from binas.profile.cost import LayerCost, Profile, Shape
from binas.profile.executed import ROOT, profile_module
from binas.profile.formulas import Place, activation, batch_norm, binary_conv, linear, pool, real_conv
from binas.profile.operations import op_cost

WHY_STEM = "the stem reads pixels, not signs, and has few weights"
WHY_HEAD = "the classifier's outputs are the class scores, and it has few weights"
WHY_SKIP = "down-sampling shortcut; the space sets reduction_skip: real"
WHY_PREPROCESS = "input preprocessing; the settings say preprocess: real"


def profile_genotype(
    genotype: Genotype,
    in_channels: int,
    image_size: tuple[int, int],
    num_classes: int,
    settings: NetworkSettings | None = None,
    *,
    binarization: Binarization | None = None,
    binarize_activations: bool = True,
    binarize_weights: bool = True,
    layers: tuple[LayerRule, ...] | None = None,
) -> Profile:
    """The profile of the network that a genotype stands for; with rules for layers it is built and run.

    Args:
        genotype: the cells, with their space.
        in_channels: of the images.
        image_size: height and width.
        num_classes: outputs of the head.
        settings: None means the `network` settings of the genotype's space.
        binarization: of the training stage that counts; None means the space's.
        binarize_activations, binarize_weights: the switches of that stage.
        layers: rules of that stage for single layers; None means the space's.
    """
    space = genotype_space(genotype)
    space.check_operations()
    settings = settings or space.network
    rules = space.layers if layers is None else layers
    if rules:
        network = Network(
            genotype,
            in_channels,
            num_classes,
            settings=settings,
            binarizations=(binarization or space.binarization,),
            layers=(rules,),
        )
        set_precision(network, binarize_activations, binarize_weights)
        return profile_module(network, in_channels, image_size)
    context = space.context(settings, (binarization,) if binarization else ())
    image = (in_channels, *image_size)
    counted, before, previous = _stem(image, settings)
    unread: list[LayerCost] = []
    live = genotype.pruned()
    edges = {kind: edge_operations(live.cell(kind)) for kind in CELL_KINDS}
    choices = {kind: edge_choices(genotype.cell(kind)) for kind in CELL_KINDS}
    dropped = {kind: _dropped(genotype.cell(kind), live.cell(kind)) for kind in CELL_KINDS}
    for plan in plan_cells(settings, space.num_nodes):
        place = Place(f"cells.{plan.index}", (), 1, context, binarize_activations, binarize_weights)
        cell = _Cell(plan, space, settings, place, before, previous, choices[plan.kind])
        counted += cell.layers(edges[plan.kind])
        unread += cell.unread(edges[plan.kind], dropped[plan.kind])
        before, previous = previous, cell.output_shape
    head = linear("classifier", previous[0], num_classes, WHY_HEAD)
    average = LayerCost(ROOT, "pool", image, head.output_shape, extra_operations=math.prod(previous))
    return Profile((*counted, head, average), tuple(unread))


def _stem(image: Shape, settings: NetworkSettings) -> tuple[list[LayerCost], Shape, Shape]:
    """The stem's layers, and the shapes of the first cell's inputs."""
    channels = settings.stem_channels
    if settings.stem == "cifar":
        conv = real_conv("stem.1", image, channels, 3, 1, 1, why=WHY_STEM)
        shape = conv.output_shape
        return [batch_norm("stem.0", image, affine=True), conv, activation("stem.2", shape)], shape, shape
    first = real_conv("stem.quarter.0", image, channels // 2, 3, 2, 1, why=WHY_STEM)
    half = first.output_shape
    second = real_conv("stem.quarter.3", half, channels, 3, 2, 1, why=WHY_STEM)
    quarter = second.output_shape
    third = real_conv("stem.eighth.1", quarter, channels, 3, 2, 1, why=WHY_STEM)
    eighth = third.output_shape
    return (
        [
            first,
            batch_norm("stem.quarter.1", half, True),
            activation("stem.quarter.2", half),
            second,
            batch_norm("stem.quarter.4", quarter, True),
            activation("stem.eighth.0", quarter),
            third,
            batch_norm("stem.eighth.2", eighth, True),
        ],
        quarter,
        eighth,
    )


def even(shape: Shape) -> Shape:
    """The shape after padding odd height and width by one."""
    return (shape[0], *(length + length % 2 for length in shape[1:]))


def _dropped(edges: tuple[Edge, ...], live: tuple[Edge, ...]) -> EdgeOperations:
    """Operations that only dead nodes feed: released networks hold and run them on zeros."""
    return edge_operations(
        edge for edge, kept in zip(edges, live, strict=True) if kept.op == ZEROISE != edge.op
    )


@dataclass(frozen=True)
class _Cell:
    plan: CellPlan
    space: SearchSpace
    settings: NetworkSettings
    place: Place
    before: Shape
    previous: Shape
    choices: EdgeChoices

    @property
    def node_shape(self) -> Shape:
        return (self.plan.channels, *(-(-length // self.plan.stride) for length in self.previous[1:]))

    @property
    def output_shape(self) -> Shape:
        return (self.space.num_nodes * self.plan.channels, *self.node_shape[1:])

    @property
    def context(self) -> OpContext:
        return self.place.context

    def layers(self, edges: EdgeOperations) -> Iterator[LayerCost]:
        """Everything that runs in this cell."""
        for source in (0, 1):
            if any(edge[1] == source for edge in edges):
                yield from self._preprocess(source)
        normalized: set[int] = set()
        additions = 0
        for node in range(2, 2 + self.space.num_nodes):
            arriving = [
                (source, name) for (to, source), names in edges.items() if to == node for name in names
            ]
            additions += max(0, len(arriving) - 1) * math.prod(self.node_shape)
            for source, name in arriving:
                operation = op_cost(name, self._op_place(node, source, name))
                shared = self.context.normalized_input and operation.takes_normalized_input
                if shared and source not in normalized:
                    normalized.add(source)
                    yield batch_norm(f"{self.place.name}.norms.{source}", self._source_shape(source), False)
                yield from operation.layers
        if self.space.inter_cell_skip and self.plan.index > 0:
            yield from self._skip()
            additions += math.prod(self.output_shape)
        if additions:
            yield LayerCost(
                self.place.name, "arithmetic", self.before, self.output_shape, extra_operations=additions
            )

    def unread(self, edges: EdgeOperations, dropped: EdgeOperations) -> Iterator[LayerCost]:
        """What a released network holds in this cell although nothing reads it."""
        for source in (0, 1):
            if not any(edge[1] == source for edge in edges):
                yield from self._preprocess(source)
        for (node, source), names in dropped.items():
            for name in names:
                yield from op_cost(name, self._op_place(node, source, name)).layers

    def _source_shape(self, source: int) -> Shape:
        if source >= 2:
            return self.node_shape
        return (self.plan.channels, *self.previous[1:])

    def _op_place(self, node: int, source: int, name: str) -> Place:
        return replace(
            self.place,
            context=chosen_context(self.context, self.choices.get((node, source))),
            name=f"{self.place.name}.edges.{edge_key(node, source)}.{name}",
            shape=self._source_shape(source),
            stride=self.plan.stride if source < 2 else 1,
        )

    def _preprocess(self, source: int) -> list[LayerCost]:
        shape = (self.before, self.previous)[source]
        stride = self.plan.first_input_stride if source == 0 else 1
        kernel, padding = (3, 1) if stride == 2 else (1, 0)
        name, channels = f"{self.place.name}.preprocess.{source}", self.plan.channels
        affine = self.context.batch_norm_affine and stride == 1
        if self.settings.preprocess == "binary":
            conv = binary_conv(self.place, f"{name}.1", shape, channels, kernel, stride, padding)
        else:
            conv = real_conv(f"{name}.1", shape, channels, kernel, stride, padding, why=WHY_PREPROCESS)
        norm = batch_norm(f"{name}.0", shape, affine)
        return [norm, conv, activation(f"{name}.2", conv.output_shape)]

    def _skip(self) -> list[LayerCost]:
        if self.plan.kind == "normal":
            return []
        name, shape, channels = f"{self.place.name}.skip", even(self.previous), self.output_shape[0]
        if self.space.reduction_skip == "avg_pool":
            return [pool(f"{name}.reduce", shape, 2, 2, 0)]
        norm = batch_norm(f"{name}.norm", self.previous, self.context.batch_norm_affine)
        if self.space.reduction_skip == "binary":
            return [norm, binary_conv(self.place, f"{name}.reduce", shape, channels, 2, 2, 0)]
        return [norm, real_conv(f"{name}.reduce", shape, channels, 2, 2, 0, bias=True, why=WHY_SKIP)]
