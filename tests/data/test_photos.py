"""Photograph patches: real crops, no pixel shared between splits, capped, never a download."""

import importlib.util

import pytest
import torch

from binas.data import photos
from binas.data.config import DataConfig
from binas.data.open_data import open_data
from binas.data.photos import PHOTOS, is_test_column, patch_grid, photo_patches
from binas.errors import UserError


def test_the_grid_covers_the_photograph_without_overlap():
    photo = torch.arange(3 * 13 * 22).view(3, 13, 22)
    grid = patch_grid(photo, 4)
    assert grid.shape == (3, 5, 3, 4, 4)
    assert torch.equal(grid[2, 3], photo[:, 8:12, 12:16])
    assert len(grid.unique()) == grid.numel()


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.35, 0.5, 0.99])
@pytest.mark.parametrize("columns", [2, 9, 20, 44])
def test_columns_of_the_test_are_a_fraction(columns, fraction):
    is_test = is_test_column(columns, fraction)
    count = int(is_test.sum())
    assert 1 <= count < columns
    assert count == 1 or count == columns - 1 or abs(count - fraction * columns) <= 1


def test_training_and_test_come_from_different_columns(monkeypatch):
    def marked(name):  # every pixel of a photograph says in which column of the grid it lies
        columns = torch.arange(20 * 8) // 8
        pixels = columns.expand(3, 64, -1).clone()
        pixels[:, ::2] += 100  # some contrast in every crop
        return pixels.to(torch.uint8)

    monkeypatch.setattr(photos, "_read", marked)
    raw = photo_patches(DataConfig(name="photo_patches", patch_size=8))
    columns = [set((source.images % 100).flatten().tolist()) for source in (raw.training, raw.test)]
    assert columns[0] | columns[1] == set(range(20))
    assert not columns[0] & columns[1]


def test_crops_are_different_everywhere():
    data = open_data(DataConfig(name="photo_patches"))
    crops = torch.cat([data.train().images, data.search_validation().images, data.test().images])
    assert len({crop.numpy().tobytes() for crop in crops}) == len(crops)
    assert data.class_names == tuple(PHOTOS)
    assert data.channels == 3 and data.image_size == (32, 32)


@pytest.mark.parametrize("cap", [4, 50])
def test_crops_of_a_photograph_are_capped(cap):
    data = open_data(DataConfig(name="photo_patches", images_per_class=cap))
    assert {sum(counts) for counts in zip(*data.counts.values(), strict=True)} == {cap}


def test_without_scikit_image_the_extra_is_named(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "skimage" else find_spec(name)
    )
    with pytest.raises(UserError, match=r"pip install 'binas\[photos\]'"):
        open_data(DataConfig(name="photo_patches"))
