"""Makes the subset of Fashion-MNIST that the package carries (`binas/data/fashion_small/`).

    python tools/make_fashion_small.py [--source FOLDER] [--output FOLDER]

The first 1,000 training images and the first 500 test images of each class, in the order of the full set;
test images come from the set's own 10,000 alone. The files are IDX, compressed by gzip without a time, so
that the same set gives the same pixels; their hashes are printed. Compression may differ between versions
of zlib, the content that is hashed does not.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from binas.data.published import DEBIAN_FASHION_MNIST, IDX_TEST, IDX_TRAINING, read_idx
from binas.run.files import atomic_path

COUNTS = {IDX_TRAINING: 1000, IDX_TEST: 500}
"""Images of each class, by part of the set."""


def idx_bytes(array: Tensor) -> bytes:
    """The content of an IDX file that holds a uint8 array."""
    shape = np.array(array.shape, dtype=">u4").tobytes()
    return bytes([0, 0, 8, array.dim()]) + shape + array.to(torch.uint8).numpy().tobytes()


def firsts(labels: Tensor, count: int) -> Tensor:
    """The positions of the first images of each class, in their order."""
    chosen = [torch.nonzero(labels == label).flatten()[:count] for label in range(10)]
    if short := [label for label, positions in enumerate(chosen) if len(positions) < count]:
        raise SystemExit(f"classes {short} have fewer than {count} images")
    return torch.cat(chosen).sort().values


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = Path(__file__).resolve().parents[1] / "binas/data/fashion_small"
    parser.add_argument("--source", type=Path, default=DEBIAN_FASHION_MNIST, help="folder of the full set")
    parser.add_argument("--output", type=Path, default=here, help="where the four files go")
    args = parser.parse_args()
    for (images_name, labels_name), count in COUNTS.items():
        images, labels = (read_idx(args.source / f"{name}.gz") for name in (images_name, labels_name))
        positions = firsts(labels.long(), count)
        for name, array in ((images_name, images[positions]), (labels_name, labels[positions])):
            content = idx_bytes(array)
            with atomic_path(args.output / f"{name}.gz") as temporary:
                temporary.write_bytes(gzip.compress(content, 9, mtime=0))
            print(f"{name}.gz {tuple(array.shape)} sha256 of content {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
