"""What a shared network and its samples are made from, as their files say it.

A file of an earlier version lacks the settings that came later; it is read as if they stood there with their
defaults, which is how it was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from binas.config import build
from binas.errors import UserError
from binas.evolve.config import JointConfig, SharedConfig
from binas.train.model_file import ModelStructure
from binas.train.stage import RetrainConfig

Identity = dict[str, Any]
NOT_TRAINED_BY = {"checkpoint", "calibration_batches"}
"""Keys of `evolve.shared` that its weights do not depend on."""


def shared_identity(
    genes: list[list[str]], seed: int, config: SharedConfig, structure: ModelStructure
) -> Identity:
    """What a shared network is trained from, in plain types."""
    return {
        "genes": genes,
        "seed": seed,
        "config": config.model_dump(mode="json", exclude=NOT_TRAINED_BY),
        "structure": structure.model_dump(mode="json"),
    }


def samples_identity(
    shared: Mapping[str, Any], calibration_batches: int, training: RetrainConfig, joint: JointConfig
) -> Identity:
    """What samples are measured with, in plain types."""
    return {
        "shared": {**shared, "calibration_batches": calibration_batches},
        "training": training.model_dump(mode="json"),
        "joint": joint.model_dump(mode="json"),
    }


def is_shared_identity(found: Any, own: Identity) -> bool:
    """Whether the identity in a file is our own."""
    try:
        return bool(found == own) or _shared_today(found) == own
    except (UserError, KeyError, TypeError):
        return False


def is_samples_identity(found: Any, own: Identity) -> bool:
    """Whether the identity in a file of samples is our own."""
    if found == own:
        return True
    try:
        shared = found["shared"]
        today = samples_identity(
            _shared_today(shared),
            shared["calibration_batches"],
            build(RetrainConfig, found["training"], "training"),
            build(JointConfig, found["joint"], "joint"),
        )
    except (UserError, KeyError, TypeError):
        return False
    return today == own


def _shared_today(found: Mapping[str, Any]) -> Identity:
    structure = build(ModelStructure, found["structure"], "structure")
    if structure.genotype:  # its text is another one in each version of the format
        text = structure.read_genotype().to_json()
        structure = structure.model_copy(update={"genotype": text})
    config = build(SharedConfig, found["config"], "config")
    return shared_identity(found["genes"], found["seed"], config, structure)
