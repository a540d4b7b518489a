"""A user's own images: one subfolder a class, or `train/` and `test/` with class folders in them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from binas.data.config import DataConfig
from binas.data.image_file import Decoder, Header, read_header
from binas.data.image_set import Images, ImageSet, StreamedImageSet
from binas.data.picture import CHANNELS_OF_MODE, ENDINGS
from binas.data.source import DATASETS, RawData
from binas.errors import UserError

READY_MADE = ("train", "test")


@dataclass(frozen=True, eq=False)
class FileSource:
    """Image files that are decoded when they are loaded; the hash is over names, file sizes and labels."""

    root: Path
    paths: Sequence[Path]
    labels: Tensor
    decoder: Decoder

    def digest(self, indices: Tensor) -> str:
        """The sha256 of indices, labels, relative names and file sizes; nothing is decoded for it."""
        digest = hashlib.sha256()
        for index in indices.tolist():
            path = self.paths[index]
            name = path.relative_to(self.root).as_posix()
            digest.update(f"{index}\0{int(self.labels[index])}\0{name}\0{path.stat().st_size}\n".encode())
        return digest.hexdigest()

    def load(self, indices: Tensor, config: DataConfig) -> Images:
        """The images decoded, or a streamed set where they take more than `in_memory_limit_mb`."""
        paths = [self.paths[index] for index in indices.tolist()]
        shape = (self.decoder.channels, *self.decoder.size)
        streamed = StreamedImageSet(paths, self.labels[indices], shape, self.decoder, config.num_workers)
        if len(paths) * shape[0] * shape[1] * shape[2] > config.in_memory_limit_mb * 2**20:
            return streamed
        return ImageSet(streamed.read(torch.arange(len(paths))), streamed.labels)


@DATASETS.register("folder")
def folder(config: DataConfig) -> RawData:
    """Images in class folders; classes, size and channels are what is found in them."""
    if config.root is None:
        raise UserError("data.root: the dataset 'folder' needs the folder that holds the class folders")
    root = config.root.expanduser()
    if not root.is_dir():
        raise UserError(f"data.root: {root} is no folder; name the one that holds the class folders")
    names = _subfolders(root)
    if not set(READY_MADE) <= set(names):
        class_names, training = _labelled(root, names)
        paths = [path for path, _ in training]
        return RawData(class_names, _source(root, training, _decoder(paths, config)))
    if others := sorted(set(names) - set(READY_MADE)):
        raise UserError(
            f"data.root: {root} holds '{others[0]}' beside train and test; validation images are cut from"
            f" train, so move '{others[0]}' away or its images into train"
        )
    class_names, training = _labelled(root / "train", _subfolders(root / "train"))
    if unknown := [name for name in _subfolders(root / "test") if name not in class_names]:
        raise UserError(f"data.root: {root / 'test' / unknown[0]}: there is no class of that name in train")
    test = [(path, label) for label, name in enumerate(class_names) for path in _files(root / "test" / name)]
    if not test:
        raise UserError(f"data.root: {root / 'test'} holds no images")
    decoder = _decoder([path for path, _ in (*training, *test)], config)
    return RawData(class_names, _source(root, training, decoder), _source(root, test, decoder))


def _subfolders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(root: Path) -> list[Path]:
    found = (path for path in root.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    return sorted((path for path in found if not path.name.startswith(".")), key=Path.as_posix)


def _labelled(root: Path, names: list[str]) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    if not names:
        raise UserError(f"data.root: {root} holds no class folders; make one subfolder of images a class")
    if len(names) == 1:
        raise UserError(f"data.root: {root} holds one class only, '{names[0]}'; at least two are needed")
    labelled = []
    for label, name in enumerate(names):
        files = _files(root / name)
        if not files:
            raise UserError(
                f"data.root: {root / name} holds no images ({', '.join(sorted(ENDINGS))});"
                " fill it or remove it"
            )
        labelled += [(path, label) for path in files]
    return tuple(names), labelled


def _source(root: Path, labelled: list[tuple[Path, int]], decoder: Decoder) -> FileSource:
    labels = torch.tensor([label for _, label in labelled], dtype=torch.int64)
    return FileSource(root, [path for path, _ in labelled], labels, decoder)


def _decoder(paths: Sequence[Path], config: DataConfig) -> Decoder:
    headers = [read_header(path) for path in paths]
    return Decoder(config.channels or _channels(paths, headers), config.image_size or _size(paths, headers))


def _size(paths: Sequence[Path], headers: Sequence[Header]) -> tuple[int, int]:
    sizes = [(header.height, header.width) for header in headers]
    for path, (height, width) in zip(paths, sizes, strict=True):
        if (height, width) != sizes[0]:
            raise UserError(
                f"{path}: is {height} x {width} pixels (height x width) and {paths[0]} is"
                f" {sizes[0][0]} x {sizes[0][1]}; set data.image_size to bring all images to one size"
            )
    return sizes[0]


def _channels(paths: Sequence[Path], headers: Sequence[Header]) -> int:
    modes = [header.mode for header in headers]
    for path, mode in zip(paths, modes, strict=True):
        if mode not in CHANNELS_OF_MODE:
            raise UserError(
                f"{path}: has mode {mode}, neither grey nor RGB; set data.channels: 3 (or 1) to convert"
            )
        if CHANNELS_OF_MODE[mode] != CHANNELS_OF_MODE[modes[0]]:
            raise UserError(
                f"{path}: has mode {mode} and {paths[0]} has mode {modes[0]};"
                " set data.channels: 3 (or 1) to convert all images"
            )
    return CHANNELS_OF_MODE[modes[0]]
