"""Published sets from files in their own formats, and what is said when they are missing or damaged."""

import gzip
import hashlib
import pickle

import numpy as np
import pytest
import torch
from torchvision import datasets

from binas.data import published
from binas.data.config import DataConfig
from binas.data.open_data import open_data
from binas.errors import UserError

GENERATOR = np.random.default_rng(0)


def idx(array):
    shape = np.array(array.shape, dtype=">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + shape + array.astype(np.uint8).tobytes()


def write_idx_set(folder, zipped):
    folder.mkdir(parents=True)
    arrays = {}
    for count, names in ((40, published.IDX_TRAINING), (20, published.IDX_TEST)):
        images, labels = GENERATOR.integers(0, 256, (count, 28, 28)), np.arange(count) % 10
        for name, array in zip(names, (images, labels), strict=True):
            arrays[name] = torch.from_numpy(array)
            path = folder / (f"{name}.gz" if zipped else name)
            path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    return arrays


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No set of the system is found, and whoever downloads is refused at once."""
    monkeypatch.setattr(published, "DEBIAN_FASHION_MNIST", tmp_path / "nowhere")
    for dataset in (datasets.MNIST, datasets.FashionMNIST):
        monkeypatch.setattr(dataset, "mirrors", ["http://127.0.0.1:9/"])
    for dataset in (datasets.CIFAR10, datasets.CIFAR100):
        monkeypatch.setattr(dataset, "url", "http://127.0.0.1:9/cifar.tar.gz")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("name", "below"), [("mnist", "MNIST/raw"), ("fashion_mnist", "."), ("mnist", ".")])
def test_idx_files_in_the_users_folder_are_read(tmp_path, offline, name, below, zipped):
    arrays = write_idx_set(tmp_path / "root" / below, zipped)
    data = open_data(DataConfig(name=name, root=tmp_path / "root", download=False))
    assert data.image_size == (28, 28) and data.channels == 1
    assert data.counts == {"train": (2,) * 10, "search_validation": (2,) * 10, "test": (2,) * 10}
    assert torch.equal(data.test().images[:, 0], arrays[published.IDX_TEST[0]].byte())
    assert torch.equal(data.test().labels, arrays[published.IDX_TEST[1]])


def test_fashion_mnist_of_the_system_is_found(tmp_path, monkeypatch):
    write_idx_set(tmp_path / "system", zipped=True)
    monkeypatch.setattr(published, "DEBIAN_FASHION_MNIST", tmp_path / "system")
    data = open_data(DataConfig(name="fashion_mnist", root=tmp_path / "empty", download=False))
    assert data.class_names[9] == "Ankle boot"
    assert sum(data.counts["test"]) == 20


@pytest.mark.skipif(
    not published.DEBIAN_FASHION_MNIST.is_dir(), reason="dataset-fashion-mnist is not installed"
)
def test_the_real_fashion_mnist():
    data = open_data(DataConfig(name="fashion_mnist", subset=100))
    assert data.counts["test"] == (1000,) * 10
    assert data.counts["train"] == (5,) * 10


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
@pytest.mark.parametrize("download", [True, False])
def test_a_set_that_cannot_be_had_says_where_to_put_it(tmp_path, offline, name, download):
    with pytest.raises(UserError) as caught:
        open_data(DataConfig(name=name, root=tmp_path / "root", download=download))
    text = str(caught.value)
    assert text.startswith("data.root: ") and str(tmp_path / "root") in text and "put the" in text
    assert ("could not be downloaded" in text) == download
    assert ("data.download: true" in text) == (not download)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:3],
        lambda data: b"",
        lambda data: b"<html>not found</html>",
        lambda data: data[:2] + b"\x0d" + data[3:],
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_idx_file_is_named(tmp_path, offline, damage, zipped):
    write_idx_set(tmp_path / "root", zipped)
    path = tmp_path / "root" / (published.IDX_TRAINING[0] + (".gz" if zipped else ""))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="remove it") as caught:
        open_data(DataConfig(name="mnist", root=tmp_path / "root"))
    assert str(caught.value).startswith(str(path))


def test_labels_of_another_set_are_refused(tmp_path, offline):
    write_idx_set(tmp_path / "root", zipped=False)
    labels = tmp_path / "root" / published.IDX_TRAINING[1]
    for wrong in (np.arange(39) % 10, np.full(40, 10)):
        labels.write_bytes(idx(wrong))
        with pytest.raises(UserError, match="belong together"):
            open_data(DataConfig(name="mnist", root=tmp_path / "root"))


@pytest.mark.parametrize(
    ("name", "dataset", "key", "names"),
    [
        ("cifar10", datasets.CIFAR10, "labels", "label_names"),
        ("cifar100", datasets.CIFAR100, "fine_labels", "fine_label_names"),
    ],
)
def test_cifar_is_read_from_its_own_format(tmp_path, monkeypatch, name, dataset, key, names):
    folder = tmp_path / dataset.base_folder
    folder.mkdir()
    pixels = {}

    def written(file, content):
        (folder / file).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / file).read_bytes()).hexdigest()

    def batch(file):
        pixels[file] = GENERATOR.integers(0, 256, (12, 3072), dtype=np.uint8)
        return [file, written(file, {"data": pixels[file], key: [0, 1, 2] * 4})]

    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(dataset, attribute, [batch(file) for file, _ in getattr(dataset, attribute)])
    meta = dataset.meta["filename"]
    checksum = written(meta, {names: ["ant", "bee", "cat"]})
    monkeypatch.setattr(dataset, "meta", {"filename": meta, "key": names, "md5": checksum})
    data = open_data(DataConfig(name=name, root=tmp_path))
    assert data.class_names == ("ant", "bee", "cat")
    test_file = dataset.test_list[0][0]
    expected = torch.from_numpy(pixels[test_file]).view(12, 3, 32, 32)
    assert torch.equal(data.test().images, expected)
    assert data.test().labels.tolist() == [0, 1, 2] * 4
    (folder / test_file).write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"data\.root"):
        open_data(DataConfig(name=name, root=tmp_path, download=False))
