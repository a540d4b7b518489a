"""What a strategy is told of the search that it is part of: one frozen value."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from binas.arch.kinds import AnySpace, cell_space
from binas.arch.space import SearchSpace
from binas.plugins import PluginRecord
from binas.search.config import SearchConfig
from binas.search.limits import CostLimits


@dataclass(frozen=True)
class SearchSetting:
    """What a search is about.

    Args:
        space: the search space.
        config: the `search` section of the recipe; its batches are those of all ranks together.
        limits: what a genotype's network may cost.
        image_shape: (C, H, W).
        num_classes: outputs.
        seed: of everything random.
        device: where to train.
        steps_per_epoch: batches of the train split.
        largest_batch: images in the largest batch, on this rank.
        plugins: those that the space uses anything of, for genotypes.
    """

    space: AnySpace
    config: SearchConfig
    limits: CostLimits
    image_shape: tuple[int, int, int]
    num_classes: int
    seed: int
    device: torch.device
    steps_per_epoch: int
    largest_batch: int
    plugins: tuple[PluginRecord, ...] = ()

    @property
    def cells(self) -> SearchSpace:
        """The space, for strategies whose `spaces` are those of cells alone."""
        return cell_space(self.space, "this strategy searches cells")
