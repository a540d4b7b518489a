"""The set of clothes that the package carries: what is in it, where it comes from, that it is whole."""

import gzip
import hashlib
from importlib.resources import files

import pytest
import torch

from binas.data import published
from binas.data.config import DataConfig
from binas.data.open_data import open_data

CONTENT = {
    "train-images-idx3-ubyte": "d33512cfdc636a0d8972818e6659995be209a88891df7fa2109d7895922c8985",
    "train-labels-idx1-ubyte": "620cb8e3b9348037c5ff9a07b02d773ab165330e072dfd19e0d21c59f8042dcf",
    "t10k-images-idx3-ubyte": "bea6cbfcc427db2e3f8cc58bf4584c433a982bdc18ac58b4d9b52a6533708382",
    "t10k-labels-idx1-ubyte": "12f035a517803f1b3dc7f98c60e4a395edf0e20b2ae2580ae1a1b31158fcb7fc",
}
FOLDER = files("binas.data") / "fashion_small"


@pytest.mark.parametrize("name", CONTENT)
def test_its_content_is_what_the_script_makes(name):
    content = gzip.decompress((FOLDER / f"{name}.gz").read_bytes())
    assert hashlib.sha256(content).hexdigest() == CONTENT[name]


def test_it_is_open_and_small():
    names = {entry.name for entry in FOLDER.iterdir()}
    assert names == {f"{name}.gz" for name in CONTENT} | {"LICENSE"}
    assert "Zalando" in (FOLDER / "LICENSE").read_text()
    assert sum(len(entry.read_bytes()) for entry in FOLDER.iterdir()) < 8_000_000


def test_it_is_read_without_a_download(tmp_path):
    data = open_data(DataConfig(name="fashion_small", root=tmp_path / "nothing", download=False))
    assert data.class_names == published.CLOTHES and data.image_size == (28, 28) and data.channels == 1
    assert data.counts["test"] == (500,) * 10
    both = [data.counts[split] for split in ("train", "search_validation")]
    assert [sum(counts) for counts in zip(*both, strict=True)] == [1000] * 10


@pytest.mark.skipif(
    not published.DEBIAN_FASHION_MNIST.is_dir(), reason="dataset-fashion-mnist is not installed"
)
@pytest.mark.parametrize(
    ("part", "count"), [(published.IDX_TRAINING, 1000), (published.IDX_TEST, 500)], ids=["training", "test"]
)
def test_each_part_comes_from_the_same_part_of_the_full_set(part, count):
    full, labels = (published.read_idx(published.DEBIAN_FASHION_MNIST / f"{name}.gz") for name in part)
    small, small_labels = (published.read_idx(FOLDER / f"{name}.gz") for name in part)
    for label in range(10):
        assert torch.equal(small[small_labels == label], full[labels == label][:count])
