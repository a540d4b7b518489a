"""Real images that are installed with a dependency: the handwritten digits of scikit-learn."""

from __future__ import annotations

import numpy as np
import torch

from binas.data.config import DataConfig
from binas.data.source import DATASETS, ArraySource, RawData


@DATASETS.register("digits")
def digits(config: DataConfig) -> RawData:
    """The 1,797 handwritten 8×8 digits of scikit-learn; grey levels 0..16 are stretched to 0..255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    images = torch.from_numpy(pixels).unsqueeze(1)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    return RawData(tuple(str(digit) for digit in range(10)), ArraySource(images, labels))
