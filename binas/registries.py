"""Every registry that a plug-in may register names in."""

from __future__ import annotations

from typing import Any

from binas.binarize import ACTIVATION_BINARIZERS, GRADIENT_QUANTIZERS, WEIGHT_BINARIZERS
from binas.data.datasets import DATASETS
from binas.deploy import measures as measures  # registers those of exported networks
from binas.models import MODELS
from binas.ops import NONLINEARITIES, OPS
from binas.profile import MEASURES
from binas.registry import Registry
from binas.search.parts import DECISIONS, REGULARIZERS, RELAXATIONS, STRATEGIES
from binas.train.parts.base import STAGE_PARTS

REGISTRIES: tuple[Registry[Any], ...] = (
    OPS,
    NONLINEARITIES,
    ACTIVATION_BINARIZERS,
    WEIGHT_BINARIZERS,
    GRADIENT_QUANTIZERS,
    MODELS,
    DATASETS,
    STRATEGIES,
    RELAXATIONS,
    REGULARIZERS,
    DECISIONS,
    MEASURES,
    STAGE_PARTS,
)
