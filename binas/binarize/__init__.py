"""What "binary" means here: sign estimators, weight binarizers, and the layers that use them."""

from binas.binarize.contract import (
    ACTIVATION_BINARIZERS,
    GRADIENT_QUANTIZERS,
    WEIGHT_BINARIZERS,
    ActivationBinarizer,
    GradientQuantizer,
    LayerGeometry,
    WeightBinarizer,
)
from binas.binarize.conv import BinaryConv2d, RealActivation
from binas.binarize.linear import BinaryLinear
from binas.binarize.precision import (
    after_optimizer_step,
    binary_convolutions,
    binary_weights,
    choose_estimator,
    is_annealed,
    program_of,
    restart_weight_binarizers,
    set_precision,
    set_progress,
)
from binas.binarize.rules import LayerRule
from binas.binarize.sign import sign
from binas.binarize.spec import Binarization, BinarizerSpec

__all__ = [
    "ACTIVATION_BINARIZERS",
    "GRADIENT_QUANTIZERS",
    "WEIGHT_BINARIZERS",
    "ActivationBinarizer",
    "Binarization",
    "BinarizerSpec",
    "BinaryConv2d",
    "BinaryLinear",
    "GradientQuantizer",
    "LayerGeometry",
    "LayerRule",
    "RealActivation",
    "WeightBinarizer",
    "after_optimizer_step",
    "binary_convolutions",
    "binary_weights",
    "choose_estimator",
    "is_annealed",
    "program_of",
    "restart_weight_binarizers",
    "set_precision",
    "set_progress",
    "sign",
]
