"""Every batched augmentation against a loop over images and pixels, and what the draws are made of."""

import pytest
import torch

from binas.data.augment import crop, cutout, draw, flip
from binas.data.config import Augmentation

SHAPES = [(6, 3, 32, 32), (5, 1, 7, 9), (4, 3, 15, 8), (3, 1, 1, 5), (0, 3, 4, 4)]


def images_of(shape, dtype=torch.uint8):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, 256, shape, generator=generator).to(dtype)


def draws_of(shape, padding):
    generator = torch.Generator().manual_seed(2)
    return draw(Augmentation(crop_padding=padding), shape[0], shape[2:], generator)


@pytest.mark.parametrize("padding", [1, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_crop_equals_a_loop_over_pixels(shape, padding):
    images, offsets = images_of(shape), draws_of(shape, padding).offsets
    expected = torch.zeros_like(images)
    for n, (down, right) in enumerate(offsets.tolist()):
        for row in range(shape[2]):
            for column in range(shape[3]):
                y, x = row + down - padding, column + right - padding
                if 0 <= y < shape[2] and 0 <= x < shape[3]:
                    expected[n, :, row, column] = images[n, :, y, x]
    assert torch.equal(crop(images, offsets, padding), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_flip_equals_a_loop_over_images(shape):
    images = images_of(shape)
    flips = torch.arange(shape[0]) % 2 == 1
    expected = images.clone()
    for n in range(shape[0]):
        if flips[n]:
            for column in range(shape[3]):
                expected[n, :, :, column] = images[n, :, :, shape[3] - 1 - column]
    assert torch.equal(flip(images, flips), expected)


@pytest.mark.parametrize("size", [1, 2, 5, 40])
@pytest.mark.parametrize("shape", SHAPES)
def test_cutout_equals_a_loop_over_pixels(shape, size):
    images, centres = images_of(shape, torch.float32), draws_of(shape, 0).centres
    expected = images.clone()
    for n, (y, x) in enumerate(centres.tolist()):
        for row in range(y - size // 2, y - size // 2 + size):
            for column in range(x - size // 2, x - size // 2 + size):
                if 0 <= row < shape[2] and 0 <= column < shape[3]:
                    expected[n, :, row, column] = 0
    assert torch.equal(cutout(images, centres, size), expected)


def test_the_input_is_not_changed():
    images = images_of((4, 3, 8, 8), torch.float32)
    before, draws = images.clone(), draws_of((4, 3, 8, 8), 2)
    for change in (
        crop(images, draws.offsets, 2),
        flip(images, torch.ones(4, dtype=torch.bool)),
        cutout(images, draws.centres, 3),
    ):
        assert not torch.equal(change, before)
        assert torch.equal(images, before)


def test_draws_reach_every_value_and_no_other():
    draws = draw(Augmentation(crop_padding=2), 4000, (3, 5), torch.Generator().manual_seed(0))
    for axis in (0, 1):
        assert draws.offsets[:, axis].unique().tolist() == [0, 1, 2, 3, 4]
        assert draws.centres[:, axis].unique().tolist() == list(range((3, 5)[axis]))
    assert 0.45 < draws.flips.float().mean() < 0.55


def test_a_part_of_the_draws_is_that_part():
    draws = draws_of((6, 1, 8, 8), 3)
    part = draws.of(slice(2, 5))
    assert torch.equal(part.offsets, draws.offsets[2:5])
    assert torch.equal(part.flips, draws.flips[2:5])
    assert torch.equal(part.centres, draws.centres[2:5])
