"""Switching what is binary in a whole network, and telling its binarizers how far training has come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from binas.binarize.contract import ActivationBinarizer, GradientQuantizer, WeightBinarizer
from binas.binarize.conv import BinaryConv2d
from binas.binarize.rules import LayerRule, use_by_rules
from binas.binarize.spec import Binarization


def binary_convolutions(model: nn.Module) -> Iterator[tuple[str, BinaryConv2d]]:
    """All binary convolutions of a model, by name; binary because of their type."""
    for name, module in model.named_modules():
        if isinstance(module, BinaryConv2d):
            yield name, module


def set_precision(
    model: nn.Module,
    binarize_activations: bool = True,
    binarize_weights: bool = True,
    binarization: Binarization | None = None,
    layers: Sequence[LayerRule] = (),
) -> None:
    """Switch activations and weights of all binary convolutions between binary and raw.

    Args:
        binarization: which of the owned binarizations becomes active; None leaves it.
        layers: rules that except some layers from it.
    """
    if binarization is not None:
        use_by_rules(model, (binarization, layers))
    for _, module in binary_convolutions(model):
        module.binarize_activations = binarize_activations and not module.keeps_real
        module.binarize_weights = binarize_weights and not module.keeps_real


def set_progress(model: nn.Module, progress: float) -> None:
    """Tell every binarizer how far training has come, from 0 to 1, for those that are annealed."""
    for module in model.modules():
        if isinstance(module, ActivationBinarizer | WeightBinarizer | GradientQuantizer):
            module.progress = progress


@torch.no_grad()
def after_optimizer_step(model: nn.Module, weight_clipping: float | None = None) -> None:
    """What follows an optimizer step: the weight binarizers' own state, and clipping of latent weights."""
    for _, module in binary_convolutions(model):
        if module.binarize_weights:
            module.weight_binarizer.after_step(module.weight)
        if weight_clipping is not None:
            module.weight.clamp_(-weight_clipping, weight_clipping)
