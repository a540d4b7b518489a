"""Every dataset that comes with the package, registered: import `DATASETS` from here."""

from __future__ import annotations

from binas.data import bundled, synthetic
from binas.data.source import DATASETS, ArraySource, RawData, Source

__all__ = ["DATASETS", "ArraySource", "RawData", "Source", "bundled", "synthetic"]
