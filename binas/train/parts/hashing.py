"""The start of a stage by hashing: binary weights that keep the inner products with a layer's real inputs."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from binas.binarize import BinaryConv2d, binary_convolutions
from binas.binarize.contract import LayerGeometry
from binas.binarize.schemes.bwnh import Bwnh
from binas.config import Config
from binas.engine.batch_norm import frozen_running_statistics
from binas.errors import UserError
from binas.train.parts.base import StagePart


class HashingStart(Config):
    """From how many images, and how long, codes and scales are optimised."""

    images: int = Field(64, ge=1)
    """Training images whose inputs to every layer are looked at, from the first batch of the stage."""
    iterations: int = Field(20, ge=1)
    """Most turns of the alternating optimisation for a layer."""

    @torch.no_grad()
    def apply(self, network: nn.Module, images: Tensor) -> int:
        """Sets signs and scales of all layers, one after another, as each is reached; gives their number.

        A layer sees what the layers before it give with their new binary weights; batch-norms use the
        statistics of these images and keep their running ones.

        Args:
            network: in the precision of its stage; it is left in its mode.
            images: (N, C, H, W) normalised images; the first `images` of them are used.
        Reference: Hu et al., From Hashing to CNNs, arXiv:1802.02733: layer by layer.
        Raises:
            UserError: a layer's weight binarizer is another one.
        """
        layers = [(name, conv) for name, conv in binary_convolutions(network) if conv.binarize_weights]
        for name, conv in layers:
            if not isinstance(conv.weight_binarizer, Bwnh):
                raise UserError(
                    f"hashing: '{name}' has another weight binarizer; the stage needs"
                    " binarization.weight: {name: bwnh}, or leave the key out"
                )
        if not layers:
            raise UserError("hashing: the stage has no binary weights to start; leave the key out")
        reached: set[str] = set()
        handles = [conv.register_forward_pre_hook(self._hook(name, reached)) for name, conv in layers]
        was_training = network.training
        try:
            with frozen_running_statistics(network):
                network.train()(images[: self.images])
        finally:
            network.train(was_training)
            for handle in handles:
                handle.remove()
        missed = [name for name, _ in layers if name not in reached]
        if missed:
            raise UserError(f"hashing: '{missed[0]}' is never run by the network, so it has no inputs")
        return len(reached)

    def _hook(self, name: str, reached: set[str]) -> Any:
        def start(conv: BinaryConv2d, given: tuple[Tensor, ...]) -> None:
            binarizer = conv.weight_binarizer
            if name in reached or not isinstance(binarizer, Bwnh):
                return
            reached.add(name)
            binarizer.hash(conv.weight, _convolved(conv, given[0]), geometry(conv), self.iterations)

        return start


class Hashing(StagePart):
    """Starts a stage with hashed weights; see `HashingStart`.

    Args:
        config: from how many images, and how long.
    """

    def __init__(self, config: HashingStart) -> None:
        self.config = config

    def first_batch(self, network: nn.Module, images: Tensor) -> str:
        """See `StagePart`."""
        return f"binary weights of {self.config.apply(network, images)} layers hashed"


def geometry(conv: BinaryConv2d) -> LayerGeometry:
    """A layer's geometry as binarizers are told it."""
    return LayerGeometry(
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        conv.in_channels,
        conv.out_channels,
    )


def _convolved(conv: BinaryConv2d, x: Tensor) -> Tensor:
    """What the layer convolves: the codes' sum, each times its scale unless that is a map of the output."""
    if not conv.binarize_activations:
        return x
    total = torch.zeros_like(x)
    for codes, scale in conv.activation_binarizer(x):
        is_map = scale is None or scale.shape[-2:].numel() > 1
        total += codes if is_map or scale is None else codes * scale
    return total
