"""What a network takes on a device: bytes of its file, and of the memory in which it computes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from binas.deploy.c.emit import emit
from binas.deploy.export import export_module
from binas.deploy.model_file import Model

RULE = """\
Exported bytes: signs take one bit each, without padding to words, and so does the direction of a threshold;
levels of k bits take k; scales, folded batch-norms and thresholds of real numbers are float32; thresholds of
sums of signs are int16 (int32 where a sum can be larger). A batch-norm and a scale in front of a sign are in
its thresholds and take nothing; nor do numbers that are all the same, as the shifts of a scale. A .binas file
holds these bytes and a header of names, shapes and classes.
Activation memory: the arena of the C program, values that live at the same time side by side."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of an exported network.

    Args:
        sign_bytes: of weights and other constants of a few bits.
        real_bytes: of all other constants.
        activation_bytes: of all values that are kept at the same time, the largest while it runs.
        constant_bytes: of all constants as the C program holds them, in words.
    """

    sign_bytes: int
    real_bytes: int
    activation_bytes: int
    constant_bytes: int

    @property
    def export_bytes(self) -> int:
        """Of all constants; see `RULE`."""
        return self.sign_bytes + self.real_bytes

    @property
    def sign_share(self) -> float:
        """1-bit bytes among all, from 0 to 1."""
        return self.sign_bytes / max(self.export_bytes, 1)

    def __str__(self) -> str:
        return (
            f"exported: {self.export_bytes / 1000:,.1f} kB, {self.sign_share:.0%} of it signs"
            f" ({self.sign_bytes:,} bytes of signs, {self.real_bytes:,} of real numbers);"
            f" it computes in {self.activation_bytes / 1000:,.1f} kB"
        )

    def to_json(self) -> Mapping[str, Any]:
        """As plain types."""
        return {
            "export_bytes": self.export_bytes,
            "export_sign_bytes": self.sign_bytes,
            "export_real_bytes": self.real_bytes,
            "activation_bytes": self.activation_bytes,
            "constant_bytes": self.constant_bytes,
        }


def footprint_of(model: Model) -> Footprint:
    """Of what has been exported."""
    sizes, program = model.sizes(), emit(model.graph)
    return Footprint(sizes["1-bit"], sizes["real"], program.arena_bytes, program.constant_bytes)


def footprint(module: nn.Module, image_shape: tuple[int, int, int], *, fresh: bool = False) -> Footprint:
    """Of a network as it is, or as it will be.

    Args:
        image_shape: (C, H, W).
        fresh: the network was not trained; parameters that begin at 0 or 1, as shifts and slopes do, are
            moved off in a copy, and so are statistics: what is the same for all channels takes nothing in a
            file, and training leaves little of that.
    Raises:
        UserError: something of it is known to no back end.
    """
    module = as_if_trained(module) if fresh else module
    return footprint_of(export_module(module, torch.zeros(1, *image_shape)))


@torch.no_grad()
def as_if_trained(module: nn.Module) -> nn.Module:
    """A copy whose parameters and statistics have left the 0 or 1 at which they began."""
    module = copy.deepcopy(module).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for number in (*module.parameters(), *module.buffers()):
            is_many = number.is_floating_point() and number.numel() > 1
            if is_many and (number == number.flatten()[0]).all():
                number.add_(torch.randn(number.shape) * 0.01)
    return module
