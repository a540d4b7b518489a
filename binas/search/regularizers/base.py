"""What a regularizer is: one more term in a loss of the search, or a change to what is mixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from binas.arch.alphas import Alphas
from binas.search.parts import REGULARIZERS
from binas.search.relaxations.base import EdgeMix

if TYPE_CHECKING:
    from binas.search.setting import SearchSetting

register_regularizer = REGULARIZERS.register


@dataclass(frozen=True)
class Relaxed:
    """What a regularizer sees of a forward pass.

    Args:
        alphas: the architecture parameters.
        probabilities: for each cell kind the (E, O) probabilities of this pass, with their gradient.
        edge_weights: for each cell kind the (E, O) edge weights of this pass.
        temperatures: T of each cell kind, a number or a scalar tensor.
    """

    alphas: Alphas
    probabilities: Mapping[str, Tensor]
    edge_weights: Mapping[str, Tensor]
    temperatures: Mapping[str, float | Tensor]


class Regularizer:
    """Adds to the losses of a search. Every method may be left as it is.

    The search calls `start` once and `begin_epoch` before each epoch; then each alpha step and each weight
    step calls `mix` with what the relaxation gives, runs the supernet, and adds `loss` (alpha steps) or
    `weight_loss` (weight steps) to the loss of the images. `figures` is logged at the end of the epoch. Its
    constructor takes its options.
    """

    keeps_program: ClassVar[bool] = False
    """Whether its terms read nothing that moves between epochs but tensors that stay in place: captured
    steps then live through the epochs of a phase."""

    def start(self, setting: SearchSetting) -> None:
        """Told what the search is about, before its first epoch."""

    def begin_epoch(self, alpha_epochs: int, progress: float) -> None:
        """Told before an epoch how many epochs have trained alphas, and what part of the search is over."""

    def mix(self, mix: EdgeMix, generator: torch.Generator) -> EdgeMix:
        """What is mixed instead; a regularizer that changes it keeps steps from being captured."""
        return mix

    def loss(self, relaxed: Relaxed) -> Tensor | None:
        """What is added to the loss of an alpha step; None: nothing."""
        return None

    def weight_loss(self, relaxed: Relaxed) -> Tensor | None:
        """What is added to the loss of a weight step; None: nothing."""
        return None

    def figures(self) -> Mapping[str, float]:
        """What is logged of an epoch."""
        return {}
