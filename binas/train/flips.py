"""How many binary weights have changed sign: a sign of how lively a binary network still is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from binas.binarize import binary_convolutions

Codes = dict[str, list[Tensor]]


@torch.no_grad()
def weight_codes(model: nn.Module) -> Codes:
    """The codes of every binary weight as evaluation computes them, by the layer's name; changes nothing."""
    codes: Codes = {}
    for name, conv in binary_convolutions(model):
        if not conv.binarize_weights:
            continue
        binarizer = conv.weight_binarizer
        was_training = binarizer.training
        binarizer.eval()
        largest = max(map(abs, binarizer.levels))
        # a byte for each weight, where it is enough
        dtype = torch.int8 if largest <= torch.iinfo(torch.int8).max else torch.float32
        codes[name] = [code.to(dtype, copy=True) for code, _ in binarizer(conv.weight)]
        binarizer.train(was_training)
    return codes


def flip_ratio(before: Codes, after: Codes) -> float | None:
    """The share of codes that differ, of the layers that are in both; None where there is none.

    Reference: Helwegen et al., Latent Weights Do Not Exist, arXiv:1906.02107, sec. 5 (flips per update);
        here from the start of an epoch to its end, so a weight that flips twice counts as none.
    """
    pairs = [pair for name in before if name in after for pair in zip(before[name], after[name], strict=True)]
    total = sum(code.numel() for code, _ in pairs)
    return sum(int((old != new).sum()) for old, new in pairs) / total if total else None
