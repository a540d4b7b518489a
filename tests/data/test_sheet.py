"""The table and the picture of `binas data`."""

import numpy as np
import pytest
import torch
from PIL import Image

from binas.data.config import DataConfig
from binas.data.open_data import open_data
from binas.data.sheet import _mosaic, save_grid, summarize
from binas.errors import UserError


def test_the_table_tells_everything():
    data = open_data(DataConfig(image_size=(7, 9)))
    lines = summarize(data).splitlines()
    assert lines[0] == "digits: 10 classes, 7 x 9 pixels, 1 channel(s)"
    assert f"mean {data.mean[0]:.4f}, deviation {data.std[0]:.4f}" in lines[1]
    table = {line.split()[0]: line.split()[1:] for line in lines if line[:1].isdigit()}
    for label in range(10):
        assert table[str(label)] == [str(counts[label]) for counts in data.counts.values()]
    assert ["all", "717", "721", "359"] in [line.split() for line in lines]
    for split, text in data.split_hashes.items():
        assert [split, text] in [line.split() for line in lines]


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "digits"},
        {"name": "synthetic", "image_size": (7, 15), "channels": 3},
        {"name": "synthetic", "num_classes": 25, "images_per_class": 5},
    ],
)
def test_the_picture_is_written(tmp_path, settings):
    path = tmp_path / "new" / "grid.png"
    save_grid(open_data(DataConfig(**settings)), path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert len(np.unique(np.asarray(image.convert("L")))) > 20


def test_only_training_images_are_shown_each_in_the_row_of_its_class():
    data = open_data(DataConfig(name="synthetic", image_size=(5, 7)))
    mosaic = _mosaic(data, 4)
    training = data.train()
    assert mosaic.shape == (4 * 6 - 1, 10 * 8 - 1)
    for row in range(4):
        members = {image.numpy().tobytes() for image in training.images[training.labels == row]}
        for column in range(10):
            tile = mosaic[row * 6 : row * 6 + 5, column * 8 : column * 8 + 7]
            assert torch.from_numpy(tile.copy()).numpy().tobytes() in members


def test_names_with_dollars_are_no_formulas(tmp_path):
    for name in ("$x_{$", "a$b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(6):
            Image.new("L", (6, 6), number * 40).save(tmp_path / "set" / name / f"{number}.png")
    data = open_data(DataConfig(name="folder", root=tmp_path / "set"))
    save_grid(data, tmp_path / "grid.png")
    assert (tmp_path / "grid.png").stat().st_size > 1000


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"grid\.png: cannot be written"):
        save_grid(open_data(DataConfig(name="synthetic")), tmp_path / "file" / "grid.png")
