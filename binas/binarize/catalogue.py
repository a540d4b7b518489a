"""Every registered binarizer with what it declares: what `binas binarizers` lists."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Size, nn

from binas.binarize.contract import (
    ACTIVATION_BINARIZERS,
    GRADIENT_QUANTIZERS,
    WEIGHT_BINARIZERS,
    ActivationBinarizer,
    GradientQuantizer,
    WeightBinarizer,
)
from binas.binarize.spec import Binarization, BinarizerSpec
from binas.registry import Registry

KINDS: dict[str, Registry[Any]] = {
    "activation": ACTIVATION_BINARIZERS,
    "weight": WEIGHT_BINARIZERS,
    "gradient": GRADIENT_QUANTIZERS,
}
"""The key of a `Binarization` under which an entry of each registry stands."""
EXAMPLE_CHANNELS = 8
EXAMPLE_SHAPE = Size((8, 8, 3, 3))
MAX_LEVELS_SHOWN = 4

Quantizer = ActivationBinarizer | WeightBinarizer | GradientQuantizer


def binarization_with(kind: str, name: str, options: dict[str, Any]) -> Binarization:
    """The default binarization with one entry in place of its own."""
    return Binarization(**{kind: BinarizerSpec(name=name, **options)})


def kinds_of(name: str) -> list[str]:
    """The registries in which a name stands."""
    return [kind for kind, registry in KINDS.items() if name in registry]


def variants(kind: str, name: str) -> tuple[dict[str, Any], ...]:
    """The sets of options that an entry says should be built."""
    return tuple(getattr(KINDS[kind][name], "variants", ({},)))


def example(kind: str, name: str, options: dict[str, Any]) -> Quantizer:
    """An entry built for a small layer."""
    binarization = binarization_with(kind, name, options)
    if kind == "activation":
        return binarization.build_activation(EXAMPLE_CHANNELS)
    return binarization.build_weight(EXAMPLE_SHAPE) if kind == "weight" else binarization.build_gradient()


def summary(entry: Any) -> str:
    """The first sentence of an entry's docstring."""
    text = " ".join((inspect.getdoc(entry) or "").split("\n\n")[0].split())
    return text.split(". ")[0].rstrip(".") + "." if text else ""


def rows() -> Iterator[dict[str, Any]]:
    """A mapping in plain types for every registered binarizer; the first variant stands for it."""
    for kind, registry in KINDS.items():
        for name in sorted(registry):
            built = [(options, example(kind, name, options)) for options in variants(kind, name)]
            _, first = built[0]
            yield {
                "name": name,
                "kind": kind,
                **_declared(first),
                "learnable": [key for key, _ in first.named_parameters()],
                "annealed": first.annealed,
                "paper": first.paper,
                "summary": summary(registry[name]),
                "from": Path(registry.origin(name)).name,
                "variants": [{"options": options, **_declared(module)} for options, module in built],
            }


def to_line(row: dict[str, Any]) -> str:
    """A row in one line of text."""
    learnable = f"learns {', '.join(row['learnable'])}" if row["learnable"] else "learns nothing"
    origin = f" [{row['from']}]" if row["from"] else ""
    annealed = "annealed" if row["annealed"] else "not annealed"
    bases = "" if row["bases"] == 1 else f", {row['bases']} bases"
    bits = "1 bit" if row["bits"] == 1 else f"{row['bits']} bits"
    what = f"{bits} {format_levels(row['levels'])}{bases}; {learnable}; {annealed}"
    return f"{row['kind']:<10}  {row['name']:<20}  {what}  {row['paper']}. {row['summary']}{origin}"


def format_levels(levels: list[int]) -> str:
    """{−1, +1}, or the ends and the number of many."""
    if len(levels) > MAX_LEVELS_SHOWN:
        return f"{{{levels[0]:+d} … {levels[-1]:+d}: {len(levels)}}}"
    return "{" + ", ".join(f"{level:+d}" if level else "0" for level in levels) + "}"


def _declared(module: nn.Module) -> dict[str, Any]:
    assert isinstance(module, ActivationBinarizer | WeightBinarizer | GradientQuantizer)
    return {"bits": module.bits, "levels": list(module.levels), "bases": module.num_bases}
