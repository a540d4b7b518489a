"""`binas profile`: from a genotype or checkpoint and sizes to tables, JSON, CSV and a chart."""

from __future__ import annotations

DEFAULT_SIZES = {"in_channels": 3, "image_size": (32, 32), "num_classes": 10}
"""Sizes of CIFAR-10, for a genotype that no recipe goes with."""
