"""What a network costs: parameters, bits, FLOPs, BOPs and OPs, in closed form and as executed."""

from binas.profile.closed_form import profile_genotype
from binas.profile.cost import CONVENTIONS, LayerCost, Profile, Total
from binas.profile.count import TOTALS, count
from binas.profile.executed import profile_module
from binas.profile.formulas import Place
from binas.profile.latency import LatencyMilliseconds
from binas.profile.measures import MEASURES, Limits, Measure, register_measure
from binas.profile.operations import op_cost

__all__ = [
    "CONVENTIONS",
    "MEASURES",
    "TOTALS",
    "LatencyMilliseconds",
    "LayerCost",
    "Limits",
    "Measure",
    "Place",
    "Profile",
    "Total",
    "count",
    "op_cost",
    "profile_genotype",
    "profile_module",
    "register_measure",
]
