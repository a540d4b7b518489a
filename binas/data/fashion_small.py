"""Real images that the package carries: a subset of Fashion-MNIST."""

from __future__ import annotations

from pathlib import Path

from binas.data.config import DataConfig
from binas.data.published import CLOTHES, idx_set
from binas.data.source import DATASETS, RawData

FOLDER = Path(__file__).with_name("fashion_small")
"""Four IDX files and the set's licence."""


@DATASETS.register("fashion_small")
def fashion_small(config: DataConfig) -> RawData:
    """Clothes: the first 1,000 training and 500 test images of each class of Fashion-MNIST; grey, 28×28.

    Nothing is downloaded. Test images come from the set's own 10,000 alone.
    Source: Xiao, Rasul, Vollgraf, Fashion-MNIST, arXiv:1708.07747.
    """
    return idx_set(FOLDER, CLOTHES)
