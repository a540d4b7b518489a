"""Procedures that change what is binary from epoch to epoch within a stage: layer by layer, or by portions.

What an epoch does follows from its number alone, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

from pydantic import Field, field_validator
from torch import nn

from binas.binarize import binary_convolutions
from binas.binarize.schemes.inq import Inq
from binas.config import Config
from binas.errors import UserError
from binas.train.parts.base import StagePart


class Layerwise(Config):
    """Layers become binary one after another, the whole network trained in between.

    Reference: Wang et al., Flexible Network Binarization with Layer-wise Priority, arXiv:1709.04344.
    Deviation: what remains uncertain is the paper's own formula; the stage's binarizer is used. Depth is
        the order in which layers were built, which is the order of computation in all our networks.
    """

    order: Literal["inverse_depth", "depth"] = "inverse_depth"
    """inverse_depth: from the last layer to the first, as in the paper; depth: from the first on."""
    epochs_per_layer: int = Field(1, ge=1)
    """Epochs of training after each layer."""
    layers: int | None = Field(None, ge=1)
    """Stop after so many layers and train on with the others real; null: all, as far as epochs reach."""

    def num_binary(self, epoch: int) -> int | None:
        """How many layers are binary in an epoch (from 0); None where there is no limit."""
        reached = 1 + epoch // self.epochs_per_layer
        return reached if self.layers is None else min(reached, self.layers)

    def apply(self, model: nn.Module, epoch: int) -> list[str]:
        """Switches those layers off whose turn has not come; gives the names of the others.

        Layers that a rule keeps real have no turn.
        """
        convs = [(name, conv) for name, conv in binary_convolutions(model) if not conv.keeps_real]
        ordered = convs[::-1] if self.order == "inverse_depth" else convs
        count = self.num_binary(epoch)
        for _, conv in ordered[count:]:
            conv.binarize_activations = conv.binarize_weights = False
        return [name for name, _ in ordered[:count]]


class Portions(Config):
    """Weights become powers of two portion by portion; those that have are fixed, the others train on.

    Reference: Zhou et al., Incremental Network Quantization, arXiv:1702.03044, sec. 2.2.
    """

    shares: tuple[float, ...] = Field((0.5, 0.75, 0.875, 1.0), min_length=1)
    """Accumulated share of each layer's weights that is fixed, the largest magnitudes first."""
    epochs_per_portion: int = Field(1, ge=1)
    """Epochs of training after each portion; the last portion stays for the rest of the stage."""

    @field_validator("shares")
    @classmethod
    def _growing(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 <= low < high <= 1 for low, high in pairwise((0.0, *value))):
            raise ValueError("shares grow from above 0 to at most 1")
        return value

    def share(self, epoch: int) -> float:
        """The share that is fixed in an epoch (from 0)."""
        return self.shares[min(epoch // self.epochs_per_portion, len(self.shares) - 1)]

    def apply(self, model: nn.Module, epoch: int) -> float:
        """Fixes that share of the weights of every layer, instead of what progress would ask for; gives it.

        Raises:
            UserError: a layer's weight binarizer is another one.
        """
        share = self.share(epoch)
        for name, conv in binary_convolutions(model):
            binarizer = conv.weight_binarizer
            if not conv.binarize_weights:
                continue
            if not isinstance(binarizer, Inq):
                raise UserError(
                    f"portions: '{name}' has another weight binarizer; the stage needs"
                    " binarization.weight: {name: inq}, or leave the key out"
                )
            binarizer.asked = share
            binarizer.freeze(conv.weight, share)
        return share

    @staticmethod
    def release(model: nn.Module) -> None:
        """Lets progress decide again, for a stage without portions."""
        for _, conv in binary_convolutions(model):
            for binarizer in conv.weight_binarizers.values():
                if isinstance(binarizer, Inq):
                    binarizer.asked = None


class LayerByLayer(StagePart):
    """Layers become binary one after another in a stage; see `Layerwise`.

    Args:
        config: in which order, and how fast.
    """

    def __init__(self, config: Layerwise) -> None:
        self.config = config

    def precision(self, network: nn.Module, epoch: int) -> Mapping[str, float]:
        """See `StagePart`."""
        return {"binary_layers": float(len(self.config.apply(network, epoch)))}


class PortionByPortion(StagePart):
    """Weights become powers of two portion by portion in a stage; see `Portions`.

    Args:
        config: which portions.
    """

    def __init__(self, config: Portions) -> None:
        self.config = config

    def precision(self, network: nn.Module, epoch: int) -> Mapping[str, float]:
        """See `StagePart`."""
        return {"fixed_share": self.config.apply(network, epoch)}
