"""Cases for pytest that the author of a plug-in runs on his own: what binas relies on, tried for real.

    from binas.testing import check_operation

    def test_blur() -> None:
        check_operation("blur")

Each raises an `AssertionError` that says which promise is broken. Our own names are tested by the same cases.
"""

from binas.testing.images import check_dataset
from binas.testing.layers import (
    check_activation_binarizer,
    check_nonlinearity,
    check_operation,
    check_weight_binarizer,
)
from binas.testing.networks import check_measure, check_network
from binas.testing.searching import check_decision, check_regularizer, check_relaxation, check_strategy
from binas.testing.training import check_stage_part

__all__ = [
    "check_activation_binarizer",
    "check_dataset",
    "check_decision",
    "check_measure",
    "check_network",
    "check_nonlinearity",
    "check_operation",
    "check_regularizer",
    "check_relaxation",
    "check_stage_part",
    "check_strategy",
    "check_weight_binarizer",
]
