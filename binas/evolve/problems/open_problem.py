"""The searches: which genes a network or a genotype has, and what network their choices make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from binas.arch.genotype import Genotype
from binas.arch.network import Network, genotype_space
from binas.arch.space import NetworkSettings
from binas.config import build, merged
from binas.data.open_data import Data
from binas.errors import UserError
from binas.evolve.config import EvolveConfig
from binas.evolve.problems.genome import Gene, GeneChoice, GenomeSpace
from binas.evolve.problems.joint import JointProblem
from binas.evolve.problems.problem import Problem, Variant
from binas.models import ModelChoice
from binas.models.mobilenet import GroupOptions, block_channels
from binas.plugins import PluginRecord


def open_problem(
    config: EvolveConfig,
    what: Variant,
    network: dict[str, Any],
    data: Data,
    *,
    plugins: tuple[PluginRecord, ...] = (),
) -> Problem:
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
    stages = config.training.stages

    def problem(
        genes: list[Gene],
        variant: Callable[[tuple[GeneChoice, ...]], Variant],
        uniform: Mapping[str, GeneChoice],
    ) -> Problem:
        space = GenomeSpace(tuple(genes))
        found = {name: space.uniform(choice) for name, choice in uniform.items()}
        marked = {name: genome for name, genome in found.items() if genome is not None}
        return Problem(space, variant, marked, data, stages, plugins=plugins)

    if config.search == "joint":
        return JointProblem(config.joint, what, data, stages, plugins=plugins)
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
    return problem(_cells(base, ratios, data), lambda values: widened(base, values), uniform)


def _option(choice: ModelChoice, key: str, search: str) -> tuple[Any, ...]:
    value = getattr(choice.options(), key, None)
    if value is None:
        raise UserError(
            f"evolve.search: {search}: network '{choice.name}' has no option '{key}'; binas models NAME lists"
            " those of a network"
        )
    return tuple(value)


def _with_option(choice: ModelChoice, key: str) -> Callable[[tuple[GeneChoice, ...]], Variant]:
    given = {name: value for name, value in (choice.model_extra or {}).items() if name != key}

    def variant(values: tuple[GeneChoice, ...]) -> Variant:
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


def widened(genotype: Genotype, values: Sequence[GeneChoice]) -> Genotype:
    """The genotype whose network has these widths, times those that it has already."""
    settings = genotype_space(genotype).network
    before = settings.widths or (1.0,) * settings.num_cells
    widths = [old * float(value) for old, value in zip(before, values, strict=True)]
    network = {**settings.model_dump(mode="json"), "widths": widths}
    return genotype.model_copy(update={"space": {**genotype.space, "network": network}})


def _cells(genotype: Genotype, ratios: tuple[float, ...], data: Data) -> list[Gene]:
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
