"""Penalties that a stage adds to its loss: BNN+ on latent weights, sparsity on batch-norm scales."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from binas.binarize import binary_convolutions
from binas.binarize.schemes.bnn_plus import bnn_plus_penalty
from binas.config import Config
from binas.errors import UserError
from binas.train.parts.base import PartLoss, StagePart, StageSetting

PENALTIES = {"bnn_plus": bnn_plus_penalty}


class WeightRegularizer(Config):
    """A penalty on the latent weights of all binary convolutions."""

    name: Literal["bnn_plus"] = "bnn_plus"
    """bnn_plus: the distance of every weight from minus or plus alpha."""
    norm: Literal["manhattan", "euclidean"] = "manhattan"
    """manhattan: R1, the sum of distances; euclidean: R2, of their squares."""
    weight: float = Field(1e-6, gt=0)
    """Of the sum over all layers (lambda)."""
    scale: float | None = Field(None, gt=0)
    """Alpha of all layers; null: for each filter the one that makes the penalty least."""

    def __call__(self, model: nn.Module) -> Tensor:
        """The weighted sum of the penalty over all binary convolutions, whatever their precision."""
        terms = []
        for _, conv in binary_convolutions(model):
            scale = None if self.scale is None else conv.weight.new_tensor(self.scale)
            terms.append(PENALTIES[self.name](conv.weight, scale, self.norm))
        if not terms:
            raise UserError("weight_regularizer: the network has no binary convolution; leave the key out")
        return self.weight * torch.stack(terms).sum()


class WeightPenalty(StagePart):
    """Adds the penalty on latent weights to a stage's loss.

    Args:
        config: the penalty.
    """

    def __init__(self, config: WeightRegularizer) -> None:
        self.config = config

    def start(self, setting: StageSetting) -> None:
        """See `StagePart`."""
        self.network = setting.network

    def loss(self, images: Tensor, logits: Tensor, labels: Tensor) -> PartLoss:
        """See `StagePart`."""
        loss = self.config(self.network)
        return loss, {"regularizer_loss": loss}


class BatchNormSparsity(StagePart):
    """Adds weight · `batch_norm_penalty` to a stage's loss.

    Args:
        weight: of the sum of all scales.
    """

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def start(self, setting: StageSetting) -> None:
        """See `StagePart`."""
        self.network = setting.network

    def loss(self, images: Tensor, logits: Tensor, labels: Tensor) -> PartLoss:
        """See `StagePart`."""
        loss = self.weight * batch_norm_penalty(self.network)
        return loss, {"sparsity_loss": loss}


def batch_norm_penalty(model: nn.Module) -> Tensor:
    """The sum of the magnitudes of all batch-norm scales, which makes superfluous channels visible.

    Those of a stem and of an auxiliary head do not count: their channels are not for taking out.

    Reference: Liu et al., Network Slimming, arXiv:1708.06519, eq. 1; the squeezing of Liu et al., Widening
        and Squeezing, arXiv:2002.00555, whose own penalty was not at hand.
    Raises:
        UserError: no batch-norm of the network learns a scale.
    """
    scales = [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        and module.affine
        and name.split(".")[0] not in ("stem", "auxiliary")
    ]
    if not scales:
        raise UserError(
            "batch_norm_sparsity: no batch-norm of the network has a scale to shrink; set"
            " retrain.network.batch_norm_affine: true, or leave the key out"
        )
    return torch.stack([scale.abs().sum() for scale in scales]).sum()
