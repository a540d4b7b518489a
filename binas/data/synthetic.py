"""Generated images for tests: stripes whose direction is the class, with a random phase and noise."""

from __future__ import annotations

import math

import torch

from binas.data.config import DataConfig
from binas.data.source import DATASETS, ArraySource, RawData

DEFAULT_SIZE = (8, 8)
WAVELENGTH = 4.0
NOISE = 0.25


@DATASETS.register("synthetic")
def synthetic(config: DataConfig) -> RawData:
    """`num_classes` directions of stripes, `images_per_class` images each, generated at `image_size`."""
    height, width = config.image_size or DEFAULT_SIZE
    generator = torch.Generator().manual_seed(config.split_seed)
    labels = torch.arange(config.num_classes).repeat_interleave(config.images_per_class)
    angles = labels * (math.pi / config.num_classes)
    phases = torch.rand(len(labels), generator=generator) * 2 * math.pi
    rows = torch.arange(height).view(1, height, 1)
    columns = torch.arange(width).view(1, 1, width)
    along = angles.cos().view(-1, 1, 1) * columns + angles.sin().view(-1, 1, 1) * rows
    waves = (2 * math.pi / WAVELENGTH * along + phases.view(-1, 1, 1)).sin().unsqueeze(1)
    shape = (len(labels), config.channels or 1, height, width)
    noisy = 0.5 + 0.35 * waves + NOISE * torch.randn(shape, generator=generator)
    images = (noisy * 255).round().clamp(0, 255).to(torch.uint8)
    names = tuple(f"stripes_{round(180 * k / config.num_classes)}" for k in range(config.num_classes))
    return RawData(names, ArraySource(images, labels))
