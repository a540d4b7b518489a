"""Published sets of small images that torchvision knows: MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100.

Files that lie in `data.root` (or where a package of the system puts them) are read as they are;
otherwise torchvision downloads them there.
"""

from __future__ import annotations

import gzip
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from binas.data.config import DataConfig
from binas.data.source import DATASETS, ArraySource, RawData
from binas.errors import UserError

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
IDX_TRAINING = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
IDX_TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def default_root() -> Path:
    """Where published sets are kept if `data.root` is not set."""
    return Path.home() / ".cache" / "binas"


@DATASETS.register("mnist")
def mnist(config: DataConfig) -> RawData:
    """Handwritten digits: 60,000 and 10,000 grey 28×28 images of 10 classes."""
    return _idx_set(config, "MNIST", tuple(str(digit) for digit in range(10)))


@DATASETS.register("fashion_mnist")
def fashion_mnist(config: DataConfig) -> RawData:
    """Clothes: 60,000 and 10,000 grey 28×28 images of 10 classes."""
    return _idx_set(config, "FashionMNIST", CLOTHES, DEBIAN_FASHION_MNIST)


@DATASETS.register("cifar10")
def cifar10(config: DataConfig) -> RawData:
    """Animals and vehicles: 50,000 and 10,000 colour 32×32 images of 10 classes."""
    return _cifar(config, "CIFAR10", "cifar-10-batches-py")


@DATASETS.register("cifar100")
def cifar100(config: DataConfig) -> RawData:
    """Things and creatures: 50,000 and 10,000 colour 32×32 images of 100 classes."""
    return _cifar(config, "CIFAR100", "cifar-100-python")


def read_idx(path: Path) -> Tensor:
    """The uint8 array in a file of the IDX format, gzipped or not."""
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {error}; remove it to have it downloaded anew") from None
    num_dimensions = data[3] if data[:3] == b"\x00\x00\x08" and len(data) > 3 else 0
    start = 4 + 4 * num_dimensions
    shape = np.frombuffer(data[4:start], dtype=">u4").tolist() if len(data) >= start else []
    if not shape or len(data) - start != int(np.prod(shape)):
        raise UserError(f"{path}: is no whole IDX file of bytes; remove it to have it downloaded anew")
    # copied, because a tensor over read-only bytes is refused
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape).copy())


def _idx_set(config: DataConfig, name: str, class_names: tuple[str, ...], *elsewhere: Path) -> RawData:
    root = (config.root or default_root()).expanduser()
    raw = root / name / "raw"
    paths = next(filter(None, map(_idx_files, (root, raw, *elsewhere))), None)
    if paths is None:
        files = ", ".join(f"{file}.gz" for file in (*IDX_TRAINING, *IDX_TEST))
        remedy = f"put the files {files} there"
        _torchvision_set(config, name, root, remedy)
        paths = _idx_files(raw)
        if paths is None:
            raise UserError(f"data.root: {root} holds no complete {name}; {remedy}")
    return _idx_data(paths, class_names)


def idx_set(folder: Path, class_names: tuple[str, ...]) -> RawData:
    """The set whose four files in the IDX format lie in a folder.

    Raises:
        UserError: one is missing or damaged.
    """
    paths = _idx_files(folder)
    if paths is None:
        raise UserError(f"{folder}: holds no complete set; install the package again")
    return _idx_data(paths, class_names)


def _idx_data(paths: list[Path], class_names: tuple[str, ...]) -> RawData:
    num_classes = len(class_names)
    return RawData(
        class_names,
        _idx_source(paths[0], paths[1], num_classes),
        _idx_source(paths[2], paths[3], num_classes),
    )


def _idx_source(images_path: Path, labels_path: Path, num_classes: int) -> ArraySource:
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.dim() != 3 or labels.shape != images.shape[:1] or not 0 < int(labels.max()) < num_classes:
        raise UserError(f"{images_path}: does not belong together with {labels_path}")
    return ArraySource(images.unsqueeze(1), labels.long())


def _idx_files(folder: Path) -> list[Path] | None:
    paths = []
    for file in (*IDX_TRAINING, *IDX_TEST):
        found = next((path for path in (folder / file, folder / f"{file}.gz") if path.is_file()), None)
        if found is None:
            return None
        paths.append(found)
    return paths


def _cifar(config: DataConfig, name: str, folder: str) -> RawData:
    root = (config.root or default_root()).expanduser()
    remedy = f"put the unpacked folder {folder} there"
    training, test = (_torchvision_set(config, name, root, remedy, train) for train in (True, False))
    return RawData(tuple(training.classes), _cifar_source(training), _cifar_source(test))


def _cifar_source(dataset: Any) -> ArraySource:
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return ArraySource(images, torch.tensor(dataset.targets, dtype=torch.int64))


def _torchvision_set(config: DataConfig, name: str, root: Path, remedy: str, train: bool = True) -> Any:
    from torchvision import datasets

    try:
        with warnings.catch_warnings():
            # the arrays of CIFAR were stored with a numpy whose headers today's numpy warns of
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            return getattr(datasets, name)(root, train=train, download=config.download)
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        failed = f"could not be downloaded ({reason})" if config.download else "is not there"
        switch = "" if config.download else ", or set data.download: true"
        raise UserError(
            f"data.root: {name} was looked for in {root} and {failed}; {remedy}{switch}"
        ) from None
