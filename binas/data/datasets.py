"""Every dataset that comes with the package, registered: import `DATASETS` from here."""

from __future__ import annotations

from binas.data import bundled as bundled
from binas.data import fashion_small as fashion_small
from binas.data import folder as folder
from binas.data import photos as photos
from binas.data import published as published
from binas.data import synthetic as synthetic
from binas.data.source import DATASETS as DATASETS
from binas.data.source import ArraySource as ArraySource
from binas.data.source import RawData as RawData
from binas.data.source import Source as Source
