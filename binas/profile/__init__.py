"""What a network costs: parameters, bits, FLOPs, BOPs and OPs, in closed form and as executed."""

from binas.profile.closed_form import profile_genotype
from binas.profile.cost import CONVENTIONS, LayerCost, Measure, Profile
from binas.profile.count import MEASURES, Limits, count
from binas.profile.executed import profile_module
from binas.profile.formulas import Place
from binas.profile.operations import op_cost

__all__ = [
    "CONVENTIONS",
    "MEASURES",
    "LayerCost",
    "Limits",
    "Measure",
    "Place",
    "Profile",
    "count",
    "op_cost",
    "profile_genotype",
    "profile_module",
]
