"""Candidate operations: what can sit on an edge of a cell, by name."""

import binas.ops.convolutions
import binas.ops.parameter_free  # noqa: F401 (both register their operations)
from binas.ops.contract import OPS, OpContext, build_op, register_op
from binas.ops.kind import operation_kind
from binas.ops.nonlinearities import NONLINEARITIES

__all__ = ["NONLINEARITIES", "OPS", "OpContext", "build_op", "operation_kind", "register_op"]
