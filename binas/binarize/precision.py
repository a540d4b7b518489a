"""Switching what is binary in a whole network, and telling its binarizers how far training has come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from binas.binarize.contract import ActivationBinarizer, GradientQuantizer, WeightBinarizer
from binas.binarize.conv import BinaryConv2d, RealActivation
from binas.binarize.rules import LayerRule, use_by_rules
from binas.binarize.spec import Binarization, BinarizerSpec


def binary_convolutions(model: nn.Module) -> Iterator[tuple[str, BinaryConv2d]]:
    """All binary convolutions of a model, by name; binary because of their type."""
    for name, module in model.named_modules():
        if isinstance(module, BinaryConv2d):
            yield name, module


def set_precision(
    model: nn.Module,
    binarize_activations: bool = True,
    binarize_weights: bool = True,
    *,
    binarization: Binarization | None = None,
    layers: Sequence[LayerRule] = (),
    real_activation: RealActivation = "none",
) -> None:
    """Switch activations and weights of all binary convolutions between binary and raw.

    Args:
        binarization: which of the owned binarizations becomes active; None leaves it.
        layers: rules that except some layers from it.
        real_activation: what the input passes through where it is not binarized, but for layers whose
            activations rules keep real.
    """
    if binarization is not None:
        use_by_rules(model, (binarization, layers))
    for _, module in binary_convolutions(model):
        module.binarize_activations = binarize_activations and not module.keeps_real_activations
        module.binarize_weights = binarize_weights and not module.keeps_real_weights
        module.real_activation = "none" if module.keeps_real_activations else real_activation


def choose_estimator(model: nn.Module, spec: BinarizerSpec) -> None:
    """Keep this activation binarizer in all binary convolutions of a model, whatever a stage says.

    They are to be built with it: it says what `use` and `own` make of binarizations from now on.
    """
    for _, module in binary_convolutions(model):
        module.estimator = spec


def set_progress(model: nn.Module, progress: float) -> None:
    """Tell every binarizer how far training has come, from 0 to 1, for those that are annealed."""
    for module in model.modules():
        if isinstance(module, ActivationBinarizer | WeightBinarizer | GradientQuantizer):
            module.progress = progress


def is_annealed(model: nn.Module) -> bool:
    """Whether a binarizer of the model moves with the progress of training."""
    binarizers = (m for m in model.modules() if isinstance(m, ActivationBinarizer | WeightBinarizer))
    return any(binarizer.annealed for binarizer in binarizers)


def binary_weights(model: nn.Module) -> dict[str, str]:
    """The key of the binarizer at work on each layer's weights; layers with raw weights are left out."""
    return {
        name: module.active_weight for name, module in binary_convolutions(model) if module.binarize_weights
    }


def program_of(model: nn.Module) -> tuple[object, ...]:
    """What decides which operations a pass runs and what it gives gradients: equal values, equal passes."""
    layers = ((name, conv.behaviour) for name, conv in binary_convolutions(model))
    return (*layers, *(parameter.requires_grad for parameter in model.parameters()))


@torch.no_grad()
def restart_weight_binarizers(model: nn.Module, before: Mapping[str, str]) -> None:
    """Lets weight binarizers that were not at work before start from the latent weights as they are now.

    Args:
        before: what `binary_weights` gave before precision or binarization was changed.
    """
    for name, module in binary_convolutions(model):
        if module.binarize_weights and before.get(name) != module.active_weight:
            module.weight_binarizer.restart(module.weight)


@torch.no_grad()
def after_optimizer_step(model: nn.Module, weight_clipping: float | None = None) -> None:
    """What follows an optimizer step: the weight binarizers' own state, and clipping of latent weights."""
    for _, module in binary_convolutions(model):
        if module.binarize_weights:
            module.weight_binarizer.after_step(module.weight)
        if weight_clipping is not None:
            module.weight.clamp_(-weight_clipping, weight_clipping)
