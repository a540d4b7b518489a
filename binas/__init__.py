"""binas: architecture search for binary neural networks, from search space to a checked binary network.

What stands here is the public interface; each name is imported when it is asked for, so that `import binas`
costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from binas import nn as nn
    from binas.api.building import create_model as create_model
    from binas.api.building import create_network as create_network
    from binas.api.exporting import export as export
    from binas.api.loading import load_genotype as load_genotype
    from binas.api.loading import load_network as load_network
    from binas.api.loading import load_plugin as load_plugin
    from binas.api.loading import load_recipe as load_recipe
    from binas.api.loading import load_space as load_space
    from binas.api.loading import load_table as load_table
    from binas.api.loading import open_data as open_data
    from binas.api.names import list_binarizers as list_binarizers
    from binas.api.names import list_genotypes as list_genotypes
    from binas.api.names import list_models as list_models
    from binas.api.names import list_operations as list_operations
    from binas.api.names import list_recipes as list_recipes
    from binas.api.names import list_spaces as list_spaces
    from binas.api.preprocess import Preprocess as Preprocess
    from binas.api.running import Front as Front
    from binas.api.running import SearchResult as SearchResult
    from binas.api.running import TrainResult as TrainResult
    from binas.api.running import run_evolution as run_evolution
    from binas.api.running import run_retrain as run_retrain
    from binas.api.running import run_search as run_search
    from binas.api.using import Predictions as Predictions
    from binas.api.using import check_binary as check_binary
    from binas.api.using import count_cost as count_cost
    from binas.api.using import draw_cells as draw_cells
    from binas.api.using import evaluate as evaluate
    from binas.api.using import predict as predict
    from binas.arch.genotype import Genotype as Genotype
    from binas.arch.space import SearchSpace as SearchSpace
    from binas.binarize.contract import register_activation_binarizer as register_activation_binarizer
    from binas.binarize.contract import register_weight_binarizer as register_weight_binarizer
    from binas.data.open_data import Data as Data
    from binas.data.source import register_dataset as register_dataset
    from binas.errors import BinasError as BinasError
    from binas.errors import UserError as UserError
    from binas.models.model_registry import register_model as register_model
    from binas.ops.contract import register_op as register_op
    from binas.ops.nonlinearities import register_nonlinearity as register_nonlinearity
    from binas.profile.cost import Profile as Profile
    from binas.profile.measures import Limits as Limits
    from binas.profile.measures import register_measure as register_measure
    from binas.recipe import Recipe as Recipe
    from binas.search.decisions.base import register_decision as register_decision
    from binas.search.regularizers.base import register_regularizer as register_regularizer
    from binas.search.relaxations.base import register_relaxation as register_relaxation
    from binas.search.strategies.base import register_strategy as register_strategy
    from binas.train.parts.base import register_stage_part as register_stage_part

__version__ = "0.1.0"
_NAMES = {
    "binas.api.building": (
        "create_model",
        "create_network",
    ),
    "binas.api.names": (
        "list_binarizers",
        "list_genotypes",
        "list_models",
        "list_operations",
        "list_recipes",
        "list_spaces",
    ),
    "binas.api.loading": (
        "load_genotype",
        "load_network",
        "load_plugin",
        "load_recipe",
        "load_space",
        "load_table",
        "open_data",
    ),
    "binas.api.preprocess": ("Preprocess",),
    "binas.api.running": (
        "Front",
        "SearchResult",
        "TrainResult",
        "run_evolution",
        "run_retrain",
        "run_search",
    ),
    "binas.api.exporting": ("export",),
    "binas.api.using": (
        "Predictions",
        "check_binary",
        "count_cost",
        "draw_cells",
        "evaluate",
        "predict",
    ),
    "binas.arch.genotype": ("Genotype",),
    "binas.arch.space": ("SearchSpace",),
    "binas.binarize.contract": (
        "register_activation_binarizer",
        "register_weight_binarizer",
    ),
    "binas.data.open_data": ("Data",),
    "binas.data.source": ("register_dataset",),
    "binas.errors": (
        "BinasError",
        "UserError",
    ),
    "binas.models.model_registry": ("register_model",),
    "binas.ops.contract": ("register_op",),
    "binas.ops.nonlinearities": ("register_nonlinearity",),
    "binas.profile.cost": ("Profile",),
    "binas.profile.measures": (
        "Limits",
        "register_measure",
    ),
    "binas.recipe": ("Recipe",),
    "binas.search.decisions.base": ("register_decision",),
    "binas.search.regularizers.base": ("register_regularizer",),
    "binas.search.relaxations.base": ("register_relaxation",),
    "binas.search.strategies.base": ("register_strategy",),
    "binas.train.parts.base": ("register_stage_part",),
}
"""The public names by the module that has them."""
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted([*_MODULE_OF, "nn"])


def __getattr__(name: str) -> Any:
    if name == "nn":
        return importlib.import_module("binas.nn")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'binas' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
