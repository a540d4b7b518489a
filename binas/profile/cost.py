"""What a network costs: one `LayerCost` per layer, and the `Profile` that adds them up.

The first column ("convolutions and linear") counts the operations of convolutions and linear layers, as
published tables do; the second ("everything") adds those of all other layers. Parameters and bits are
those of all layers in both. `CONVENTIONS` says every rule and stands under every table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

Total = Literal["parameters", "parameters_as_published", "binary_parameters", "bits", "flops", "bops", "ops"]
"""The totals of the first column: what an objective can be."""

Shape = tuple[int, ...]

REAL_BITS = 32
WHY_BINARIZER = "what its binarizers learn: thresholds, scales or levels"
WHY_ACTIVATION = "slopes that an activation learns"
WHY_UNSAID = "no reason given; the module can say one in an attribute why_real"
MAX_BITWISE = 8
"""Codes of at most so many bits are multiplied bit by bit; wider ones count as real-valued."""

CONVENTIONS = """\
A multiply-accumulate is one operation. FLOPs: real-valued ones; BOPs: 1-bit ones; OPs = FLOPs + BOPs/64.
m-bit codes on n-bit codes are m·n BOPs (m, n up to 8); real weights on binary inputs, or the reverse, are
FLOPs. "Convolutions and linear" counts these layers' operations only; a bias belongs to its accumulation.
"Everything" adds to the FLOPs: batch-norm 1 per element; k×k pool k² per output element, global average
1 per input element; activation 1 per element; sign 1 per input element and scale 1 per output element of
a binary convolution (1 for each of several scales inside its kernel); addition 1 per element. Copies,
padding, concatenation and shuffles are free, and so is what a binarizer asks of its input to choose a
scale (XNOR-Net's K). Bits = binary weights × bits of a code × bases (1 for ±1, 2 for ternary ones) +
32 × (real-valued parameters + scale and shift of affine batch-norms). Running statistics, what only
training uses (auxiliary head, latent weights) and binarizers of other stages are not counted. Packed
bytes are bits/8, rounded up per layer. The scale per filter of a binary convolution, 32 bit each, follows
from its latent weights: it is no parameter and not in the bits, but a packed file holds it, so it is
stated beside them. 1 kB is 1000 bytes. Counts are for one image."""


@dataclass(frozen=True)
class Kernel:
    """How a convolution looks at its input.

    Args:
        size, stride, dilation: height and width each, in pixels.
        groups: parts of the channels that are convolved apart.
    """

    size: Shape
    stride: Shape
    dilation: Shape
    groups: int

    @classmethod
    def square(cls, size: int, stride: int, dilation: int = 1, groups: int = 1) -> Kernel:
        """The one that is as wide as high."""
        return cls((size,) * 2, (stride,) * 2, (dilation,) * 2, groups)


@dataclass(frozen=True)
class LayerCost:
    """What one layer holds and does for one image.

    Args:
        name: as in the network's state dict.
        kind: convolution, linear, batch_norm, pool, activation, arithmetic or parameters.
        input_shape, output_shape: without the batch dimension.
        input_bits: width of the codes that a convolution or linear layer multiplies, 32 for real values.
        weight_bits: what is stored of one weight, 32 for real-valued ones.
        binary_parameters: weights that are stored as codes of `weight_bits` bits.
        real_parameters: all others but those of batch-norms.
        norm_parameters: scales and shifts of affine batch-norms.
        flops, bops: of convolutions and linear layers.
        extra_operations: what the column "everything" adds to the FLOPs.
        scale_bits: for the scales of a binary layer; not in `bits`.
        why_real: the reason for real-valued weights, see `reason`.
        kernel: of a convolution, where it is known.
        input_bases, weight_bases: pairs of codes and scale that stand for the input and for the weights.
        runs: how often the layer is computed for one image.
    """

    name: str
    kind: str
    input_shape: Shape
    output_shape: Shape
    input_bits: int = REAL_BITS
    weight_bits: int = REAL_BITS
    binary_parameters: int = 0
    real_parameters: int = 0
    norm_parameters: int = 0
    flops: int = 0
    bops: int = 0
    extra_operations: int = 0
    scale_bits: int = 0
    why_real: str = field(default="", compare=False)
    kernel: Kernel | None = None
    input_bases: int = 1
    weight_bases: int = 1
    runs: int = 1

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.binary_parameters + self.real_parameters + self.norm_parameters

    @property
    def bits(self) -> int:
        """Of all parameters, as `CONVENTIONS` says."""
        real = self.real_parameters + self.norm_parameters
        return self.binary_parameters * self.weight_bits + REAL_BITS * real

    @property
    def packed_bytes(self) -> int:
        """The bits in whole bytes."""
        return -(-self.bits // 8)

    @property
    def ops(self) -> float:
        """FLOPs + BOPs/64."""
        return self.flops + self.bops / 64

    @property
    def activation_elements(self) -> int:
        """Elements of the output."""
        return math.prod(self.output_shape)

    @property
    def activation_bytes(self) -> int:
        """The output as float32."""
        return self.activation_elements * REAL_BITS // 8

    @property
    def reason(self) -> str:
        """Why there are real-valued parameters besides those of batch-norms; empty where there are none."""
        if not self.real_parameters:
            return ""
        if self.why_real:
            return self.why_real
        if self.binary_parameters:
            return WHY_BINARIZER
        return WHY_ACTIVATION if self.kind == "activation" else WHY_UNSAID

    @property
    def precision(self) -> str:
        """Weights × inputs in words, empty for a layer that multiplies no weights with its input."""
        if self.kind not in ("convolution", "linear"):
            return ""
        words = {1: "binary", REAL_BITS: "real"}
        weights, inputs = (words.get(bits, f"{bits}-bit") for bits in (self.weight_bits, self.input_bits))
        return f"{weights} × {inputs}"

    def to_json(self) -> dict[str, Any]:
        """All fields and what follows from them, in plain types."""
        return {
            "name": self.name,
            "kind": self.kind,
            "precision": self.precision,
            "input_shape": list(self.input_shape),
            "output_shape": list(self.output_shape),
            "parameters": self.parameters,
            "binary_parameters": self.binary_parameters,
            "real_parameters": self.real_parameters,
            "batch_norm_parameters": self.norm_parameters,
            "bits": self.bits,
            "packed_bytes": self.packed_bytes,
            "scale_bits": self.scale_bits,
            "flops": self.flops,
            "bops": self.bops,
            "ops": self.ops,
            "extra_operations": self.extra_operations,
            "activation_elements": self.activation_elements,
            "activation_bytes": self.activation_bytes,
            "why_real": self.reason,
        }


@dataclass(frozen=True)
class Profile:
    """The cost of a network, layer by layer and in total.

    Args:
        layers: everything that runs, in the order in which it runs.
        unread: what a released network also holds although nothing reads its output.
    """

    layers: tuple[LayerCost, ...]
    unread: tuple[LayerCost, ...] = ()

    @property
    def parameters(self) -> int:
        """Of all layers that run."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def parameters_as_published(self) -> int:
        """With those that nothing reads."""
        return self.parameters + sum(layer.parameters for layer in self.unread)

    @property
    def binary_parameters(self) -> int:
        """Weights that are stored as codes."""
        return sum(layer.binary_parameters for layer in self.layers)

    @property
    def bits(self) -> int:
        """Of all parameters, as `CONVENTIONS` says."""
        return sum(layer.bits for layer in self.layers)

    @property
    def packed_bytes(self) -> int:
        """The bits in whole bytes, rounded up per layer; without scales."""
        return sum(layer.packed_bytes for layer in self.layers)

    @property
    def scale_bytes(self) -> int:
        """What the scales of binary layers take."""
        return sum(layer.scale_bits for layer in self.layers) // 8

    @property
    def file_bytes(self) -> int:
        """What a packed file would take: parameters and scales."""
        return self.packed_bytes + self.scale_bytes

    @property
    def float_bytes(self) -> int:
        """What the same parameters take as float32."""
        return self.parameters * REAL_BITS // 8

    @property
    def flops(self) -> int:
        """Real-valued multiply-accumulates of convolutions and linear layers."""
        return sum(layer.flops for layer in self.layers)

    @property
    def bops(self) -> int:
        """1-bit multiply-accumulates."""
        return sum(layer.bops for layer in self.layers)

    @property
    def ops(self) -> float:
        """FLOPs + BOPs/64 of convolutions and linear layers."""
        return self.flops + self.bops / 64

    @property
    def flops_of_everything(self) -> int:
        """The FLOPs with those of batch-norms, pools, activations, signs, scales and additions."""
        return self.flops + sum(layer.extra_operations for layer in self.layers)

    @property
    def ops_of_everything(self) -> float:
        """FLOPs + BOPs/64 of all layers."""
        return self.flops_of_everything + self.bops / 64

    @property
    def binary_share(self) -> float:
        """Binary parameters among all, from 0 to 1."""
        return self.binary_parameters / self.parameters if self.parameters else 0.0

    def by_precision(self) -> dict[str, tuple[int, int]]:
        """Parameters and their bits by precision: codes by their width, real-valued ones, batch-norms."""
        found: dict[str, tuple[int, int]] = {}
        for layer in sorted(self.layers, key=lambda layer: layer.weight_bits):
            if layer.binary_parameters:
                name = f"{layer.weight_bits}-bit weights"
                count, bits = found.get(name, (0, 0))
                count += layer.binary_parameters
                found[name] = (count, bits + layer.binary_parameters * layer.weight_bits)
        for name, count in (
            ("32-bit weights", sum(layer.real_parameters for layer in self.layers)),
            ("32-bit batch-norm scales and shifts", sum(layer.norm_parameters for layer in self.layers)),
        ):
            if count:
                found[name] = (count, count * REAL_BITS)
        return found

    @property
    def largest_activation_bytes(self) -> int:
        """Input and output, as float32, of the layer where they are largest together."""
        elements = (math.prod(layer.input_shape) + layer.activation_elements for layer in self.layers)
        return max(elements, default=0) * REAL_BITS // 8

    def __str__(self) -> str:
        from binas.profile.table import to_table  # the table is made of profiles

        return to_table(self)

    def totals(self) -> dict[str, int | float]:
        """The totals of the column "convolutions and linear", by `Total`."""
        return {
            "parameters": self.parameters,
            "parameters_as_published": self.parameters_as_published,
            "binary_parameters": self.binary_parameters,
            "bits": self.bits,
            "flops": self.flops,
            "bops": self.bops,
            "ops": self.ops,
        }

    def to_json(self) -> dict[str, Any]:
        """The totals of the first column, those of "everything", storage, and all layers."""
        return {
            **self.totals(),
            "everything": {
                "flops": self.flops_of_everything,
                "bops": self.bops,
                "ops": self.ops_of_everything,
            },
            "by_precision": {
                name: {"parameters": count, "bits": bits}
                for name, (count, bits) in self.by_precision().items()
            },
            "binary_share": self.binary_share,
            "storage": {
                "packed_bytes": self.packed_bytes,
                "scale_bytes": self.scale_bytes,
                "float32_bytes": self.float_bytes,
                "largest_activation_bytes": self.largest_activation_bytes,
            },
            "conventions": CONVENTIONS.replace("\n", " "),
            "layers": [layer.to_json() for layer in self.layers],
        }
