"""What an evolution varies: the genes, the network that a genome stands for, and its cost before training."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from binas.arch.genotype import Genotype, cells_only
from binas.arch.network import genotype_space
from binas.data.open_data import Data
from binas.errors import UserError
from binas.evolve.problems.genome import GeneChoice, Genome, GenomeSpace
from binas.models import ModelChoice
from binas.models.mobilenet_v2 import BINARIZATION, InvertedOptions
from binas.plugins import PluginRecord
from binas.profile.closed_form import profile_genotype
from binas.profile.cost import Profile
from binas.profile.count import profile_built
from binas.profile.executed import profile_module
from binas.profile.inverted import profile_inverted
from binas.profile.measures import Limits
from binas.train.model_file import ModelStructure, read_from
from binas.train.stage import StageConfig, different_choices

SMALL_IMAGE = 16 * 16
"""Pixels."""
Variant = ModelChoice | Genotype
"""A network as `binas retrain` takes it."""


@dataclass(frozen=True)
class Cost:
    """What a candidate costs.

    Args:
        ops: FLOPs + BOPs/64 of its convolutions and linear layers, for one image.
        bits: of its parameters.
        measured: what the limits measure, by the measure's name.
    """

    ops: float
    bits: float
    measured: Mapping[str, float] = field(default_factory=dict)


class Problem:
    """The genomes, and what they stand for.

    Args:
        space: of the genomes.
        variant: the network of these values.
        references: genomes to mark, by the name of the mark.
        data: the images.
        stages: of the training; the last one decides the cost.
        plugins: those that are loaded.
    """

    def __init__(
        self,
        space: GenomeSpace,
        variant: Callable[[tuple[GeneChoice, ...]], Variant],
        references: Mapping[str, Genome],
        data: Data,
        stages: Sequence[StageConfig],
        *,
        plugins: tuple[PluginRecord, ...] = (),
    ) -> None:
        self.space, self.references = space, dict(references)
        self.data, self.stages, self.plugins = data, tuple(stages), plugins
        self._variant = variant
        self._costs: dict[Genome, Cost] = {}
        self.limits = Limits()

    def variant(self, genome: Genome) -> Variant:
        """The network that a genome stands for."""
        return self._variant(self.space.values(genome))

    def shared_variant(self, genome: Genome) -> Variant:
        """The network that a genome has inside the shared network."""
        return self.variant(genome)

    def shared_kinds(self) -> tuple[str, ...]:
        """Kinds of genes that the shared network uses: all of them."""
        return tuple(dict.fromkeys(self.space.kinds))

    def blocks(self, genome: Genome) -> dict[str, Hashable]:
        """Modules of a genome's part that those of other genomes have too, by path, and what each depends on:
        none, so that each part is built as a whole."""
        return {}

    def prepare(self, shared: nn.Module, kinds: Collection[str]) -> None:
        """What the shared network needs before genes of these kinds begin to vary: nothing."""

    def structure(self, genome: Genome, stages: Sequence[StageConfig] = ()) -> ModelStructure:
        """What its network is built from, in the first of these stages; none: the last of the training."""
        return structure_of(self.variant(genome), stages or self.stages[-1:], self.data)

    def cost(self, genome: Genome) -> Cost:
        """What its network costs, counted without training it; told once for each genome."""
        if genome not in self._costs:
            structure = self.structure(genome)
            profile = profile_of(structure)
            try:
                measured = self.limits.values(profile, structure.build_network)
            except UserError as error:
                words = ",".join(map(str, self.space.values(genome)))
                raise UserError(f"{error} (genome {words})", hint=error.hint) from None
            self._costs[genome] = Cost(profile.ops, profile.bits, measured)
        return self._costs[genome]

    def measure(self, limits: Limits) -> None:
        """From now on costs have what these limits measure.

        Raises:
            UserError: the costliest network cannot be measured, e.g. since a latency table lacks a layer.
        """
        self.limits = limits
        self._costs.clear()
        self.largest()

    def largest(self) -> Genome:
        """The costliest choice of every gene: the last ones of widths, the fewest groups."""
        return max((self.space.nth(0), self.space.nth(self.space.size - 1)), key=lambda g: self.cost(g).ops)


def completed(variant: Variant, stages: Sequence[StageConfig]) -> list[StageConfig]:
    """The stages with what the network itself says where they say nothing."""
    own = variant if isinstance(variant, ModelChoice) else genotype_space(variant)
    return [stage.completed(own) for stage in stages]


def structure_of(variant: Variant, stages: Sequence[StageConfig], data: Data) -> ModelStructure:
    """What a network is built from, with the binarizers of all these stages, in the first of them."""
    stages = completed(variant, stages)
    different = different_choices(stages)
    what: dict[str, Any] = {"model": variant}
    if isinstance(variant, Genotype):
        what = {"genotype": variant.to_json(), "settings": genotype_space(variant).network}
    return ModelStructure(
        **what,
        binarizations=tuple(binarization for binarization, _ in different),
        layers=tuple(layers for _, layers in different),
        auxiliary=False,
        **read_from(data),
        validation_fraction=0.0,
        stage=stages[0],
    )


def profile_of(structure: ModelStructure) -> Profile:
    """The count of a structure's network in its stage: in closed form, or without memory where it can be."""
    stage = structure.stage
    sizes = (structure.in_channels, structure.image_size)
    if structure.model is None:
        return profile_genotype(
            cells_only(structure.read_genotype(), "evolve"),
            *sizes,
            structure.num_classes,
            structure.settings,
            binarization=stage.binarization,
            binarize_activations=stage.binarize_activations,
            binarize_weights=stage.binarize_weights,
            layers=stage.layers,
        )
    options = structure.model.options()
    if isinstance(options, InvertedOptions) and _is_as_published(structure, structure.model):
        return profile_inverted(
            options, *sizes, structure.num_classes, binarization=stage.binarization or BINARIZATION
        )
    # on small images real numbers are computed faster than the meta device finds shapes
    device = "cpu" if math.prod(structure.image_size) <= SMALL_IMAGE else "meta"
    return profile_built(structure.build_network, lambda network: profile_module(network, *sizes), device)


def _is_as_published(structure: ModelStructure, choice: ModelChoice) -> bool:
    """Whether the stage leaves all layers in the precision that the network's options say."""
    stage = structure.stage
    switches = stage.binarize_activations, stage.binarize_weights
    return all(switches) and stage.layers == choice.layers and not choice.options().real


def reference_cost(problem: Problem) -> float:
    """The OPs at which the hypervolume ends: the limit, or those of the costliest network."""
    return min(problem.cost(problem.largest()).ops, problem.limits.at_most.get("ops", math.inf))
