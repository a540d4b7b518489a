"""What an evolution varies: the genes, the network that a genome stands for, and its cost before training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from binas.arch.genotype import Genotype
from binas.arch.network import Network, genotype_space
from binas.arch.space import NetworkSettings
from binas.config import build, merged
from binas.data.opening import Data
from binas.errors import UserError
from binas.evolve.config import EvolveConfig
from binas.evolve.genome import Choice, Gene, Genome, GenomeSpace
from binas.models import ModelChoice
from binas.models.mobilenet import GroupOptions, block_channels
from binas.plugins import PluginRecord
from binas.profile.closed_form import profile_genotype
from binas.profile.cost import Profile
from binas.profile.count import profile_built
from binas.profile.executed import profile_module
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
    """

    ops: float
    bits: float


class Problem:
    """The genomes, and what they stand for.

    Args:
        genes: one for each layer, block or cell.
        variant: the network of these values.
        uniform: choices to mark, by the name of the mark: networks that have them everywhere, if possible.
        data: the images.
        stages: of the training, completed; the last one decides the cost.
        plugins: those that are loaded.
    """

    def __init__(
        self, genes: Sequence[Gene], variant: Callable[[tuple[Choice, ...]], Variant],
        uniform: Mapping[str, Choice], data: Data, stages: Sequence[StageConfig],
        plugins: tuple[PluginRecord, ...] = (),
    ) -> None:  # fmt: skip
        self.space = GenomeSpace(tuple(genes))
        self.data, self.stages, self.plugins = data, tuple(stages), plugins
        self._variant = variant
        self._costs: dict[Genome, Cost] = {}
        found = {name: self.space.uniform(choice) for name, choice in uniform.items()}
        self.references = {name: genome for name, genome in found.items() if genome is not None}

    def variant(self, genome: Genome) -> Variant:
        """The network that a genome stands for."""
        return self._variant(self.space.values(genome))

    def structure(self, genome: Genome, stages: Sequence[StageConfig] = ()) -> ModelStructure:
        """What its network is built from, in the first of these stages; none: the last of the training."""
        return structure_of(self.variant(genome), stages or self.stages[-1:], self.data)

    def cost(self, genome: Genome) -> Cost:
        """What its network costs, counted without training it; told once for each genome."""
        if genome not in self._costs:
            profile = profile_of(self.structure(genome))
            self._costs[genome] = Cost(profile.ops, profile.bits)
        return self._costs[genome]

    def largest(self) -> Genome:
        """The costliest choice of every gene: the last ones of widths, the fewest groups."""
        return max((self.space.nth(0), self.space.nth(self.space.size - 1)), key=lambda g: self.cost(g).ops)


def structure_of(variant: Variant, stages: Sequence[StageConfig], data: Data) -> ModelStructure:
    """What a network is built from, with the binarizers of all these stages, in the first of them."""
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
            structure.read_genotype(), *sizes, structure.num_classes, structure.settings,
            binarization=stage.binarization, binarize_activations=stage.binarize_activations,
            binarize_weights=stage.binarize_weights, layers=stage.layers,
        )  # fmt: skip
    # on small images real numbers are computed faster than the meta device finds shapes
    device = "cpu" if math.prod(structure.image_size) <= SMALL_IMAGE else "meta"
    return profile_built(structure.build_network, lambda network: profile_module(network, *sizes), device)


def limit_of(problem: Problem, config: EvolveConfig) -> Callable[[Genome], dict[str, float]]:
    """By how much, as a part of the limit, a genome exceeds each limit; at most 0 where it keeps it."""

    def violations(genome: Genome) -> dict[str, float]:
        cost = problem.cost(genome)
        limits = {"ops": (cost.ops, config.max_ops), "bits": (cost.bits, config.max_bits)}
        return {name: value / most - 1 for name, (value, most) in limits.items() if most is not None}

    return violations


def open_problem(
    config: EvolveConfig, what: Variant, network: dict[str, Any], data: Data,
    plugins: tuple[PluginRecord, ...] = (),
) -> Problem:  # fmt: skip
    """The problem that the settings describe.

    Args:
        config: the `evolve` section.
        what: the topology.
        network: changes to the network settings of a genotype, as `retrain.network`.
        data: the images.
        plugins: those that are loaded.
    Raises:
        UserError: the topology has no such genes, or no choice fits one of them.
    """
    own = what.model if isinstance(what, ModelChoice) else genotype_space(what)
    stages = [stage.completed(own) for stage in config.training.stages]

    def problem(
        genes: list[Gene], variant: Callable[[tuple[Choice, ...]], Variant], uniform: Mapping[str, Choice]
    ) -> Problem:
        return Problem(genes, variant, uniform, data, stages, plugins)

    if config.search == "groups":
        if isinstance(what, Genotype):
            raise UserError("evolve.search: groups: is for a published network with an option 'groups'")
        marks = {f"{groups} group{'s' * (groups > 1)}": groups for groups in config.groups.groups}
        return problem(_groups(config, what), _with_option(what, "groups"), marks)
    ratios = config.width.ratios
    uniform = {f"×{ratio}": ratio for ratio in (1, 2) if ratio in ratios}
    if isinstance(what, ModelChoice):
        count = len(_option(what, "ratios", "width"))
        genes = [Gene(f"ratios.{place}", ratios) for place in range(count)]
        return problem(genes, _with_option(what, "ratios"), uniform)
    base = _settled(what, network)
    return problem(_cells(base, ratios, stages[-1], data), lambda values: widened(base, values), uniform)


def _option(choice: ModelChoice, key: str, search: str) -> tuple[Any, ...]:
    value = getattr(choice.options(), key, None)
    if value is None:
        raise UserError(
            f"evolve.search: {search}: network '{choice.name}' has no option '{key}'; binas models NAME lists"
            " those of a network"
        )
    return tuple(value)


def _with_option(choice: ModelChoice, key: str) -> Callable[[tuple[Choice, ...]], Variant]:
    given = {name: value for name, value in (choice.model_extra or {}).items() if name != key}

    def variant(values: tuple[Choice, ...]) -> Variant:
        return ModelChoice.model_validate({"name": choice.name, **given, key: list(values)})

    return variant


def _groups(config: EvolveConfig, choice: ModelChoice) -> list[Gene]:
    count = len(_option(choice, "groups", "groups"))
    options = choice.options()
    assert isinstance(options, GroupOptions)
    genes = []
    for block, channels in enumerate(block_channels(options)[:count]):
        fitting = tuple(groups for groups in config.groups.groups if channels % groups == 0)
        if not fitting:
            raise UserError(
                f"evolve.groups.groups: none of {', '.join(map(str, config.groups.groups))} divides the"
                f" {channels} channels of block {block}; add a divisor of {channels}"
            )
        genes.append(Gene(f"groups.{block}", fitting))
    return genes


def _settled(genotype: Genotype, network: dict[str, Any]) -> Genotype:
    """The genotype with the changes to its network in its own space, where the next command finds them."""
    space = genotype_space(genotype)
    settings = build(NetworkSettings, merged(space.network.model_dump(), network), "retrain.network")
    changed = space.model_copy(update={"network": settings})
    return genotype.model_copy(update={"space": changed.model_dump(mode="json")})


def widened(genotype: Genotype, values: Sequence[Choice]) -> Genotype:
    """The genotype whose network has these widths, times those that it has already."""
    settings = genotype_space(genotype).network
    before = settings.widths or (1.0,) * settings.num_cells
    widths = [old * float(value) for old, value in zip(before, values, strict=True)]
    network = {**settings.model_dump(mode="json"), "widths": widths}
    return genotype.model_copy(update={"space": {**genotype.space, "network": network}})


def _cells(genotype: Genotype, ratios: tuple[float, ...], stage: StageConfig, data: Data) -> list[Gene]:
    """A gene for each cell, with the ratios for which its operations can be built."""
    count = genotype_space(genotype).network.num_cells
    genes = []
    for cell in range(count):
        fitting, reason = [], ""
        for ratio in ratios:
            tried = widened(genotype, [ratio if place == cell else 1 for place in range(count)])
            try:
                with torch.device("meta"):
                    Network(tried, data.channels, data.num_classes)
                fitting.append(ratio)
            except UserError as error:
                reason = str(error)
        if not fitting:
            raise UserError(f"evolve.width.ratios: none fits cell {cell}: {reason}")
        genes.append(Gene(f"widths.{cell}", tuple(fitting)))
    return genes


def box(problem: Problem, config: EvolveConfig) -> float:
    """The OPs at which the hypervolume ends: the limit, or those of the costliest network."""
    largest = problem.cost(problem.largest()).ops
    return largest if config.max_ops is None or math.isinf(config.max_ops) else min(largest, config.max_ops)
