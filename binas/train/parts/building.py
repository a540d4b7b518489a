"""The parts of a stage, from its keys and from its list of parts by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binas.errors import UserError
from binas.train.parts.base import StagePart
from binas.train.parts.compactness import ClassCentres
from binas.train.parts.hashing import Hashing
from binas.train.parts.procedure import LayerByLayer, PortionByPortion
from binas.train.parts.regularizer import BatchNormSparsity, WeightPenalty

if TYPE_CHECKING:
    from binas.train.stage import StageConfig


def parts_of(stage: StageConfig) -> dict[str, StagePart]:
    """The parts of a stage by the key or name under which they stand, in the order in which they act."""
    from binas.train.parts.teacher import Taught  # which opens networks, and so knows of stages

    found: dict[str, StagePart] = {}
    for key, part in (
        ("teacher", Taught),
        ("compactness", ClassCentres),
        ("weight_regularizer", WeightPenalty),
        ("batch_norm_sparsity", BatchNormSparsity),
        ("layerwise", LayerByLayer),
        ("portions", PortionByPortion),
        ("hashing", Hashing),
    ):
        settings = getattr(stage, key)
        if settings is not None:
            found[key] = part(settings)
    for choice in stage.parts:
        found[choice.name] = choice.build()
    return found


def check_parts(stage: StageConfig, where: str) -> None:
    """Raises a `UserError` for an unknown part or option, by its key below `where`."""
    for place, choice in enumerate(stage.parts):
        try:
            choice.check(0)
        except UserError as error:
            raise UserError(f"{where}.parts.{place}: {error}", hint=error.hint) from None
