"""Batches: every image once, repeatable by seed alone, normalised, the same from memory and from files."""

import multiprocessing

import pytest
import torch
from PIL import Image

from binas.data.augment import crop, cutout, draw, flip
from binas.data.batches import Batches
from binas.data.config import Augmentation
from binas.data.image_file import Decoder
from binas.data.image_set import ImageSet, StreamedImageSet
from binas.data.splits import seeded
from binas.errors import UserError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
EVERYTHING = Augmentation(crop_padding=2, flip=True, cutout=3)


def numbered(count, shape=(3, 7, 9)):
    """Random images whose label is their position."""
    pixels = torch.randint(256, (count, *shape), generator=torch.Generator().manual_seed(0))
    return ImageSet(pixels.to(torch.uint8), torch.arange(count))


def collected(batches, seed=0, shuffle=True):
    epoch = list(batches.epoch(seed, shuffle))
    return torch.cat([images for images, _ in epoch]), torch.cat([labels for _, labels in epoch])


def normalised(images):
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (MEAN, STD))
    return ((images.double() / 255 - mean) / std).float()


@pytest.mark.parametrize(
    ("count", "batch_size", "drop_last", "sizes"),
    [
        (10, 4, False, [4, 4, 2]),
        (10, 4, True, [4, 4]),
        (8, 4, True, [4, 4]),
        (3, 4, True, []),
        (3, 4, False, [3]),
        (0, 4, False, []),
    ],
)
def test_sizes_of_batches(count, batch_size, drop_last, sizes):
    batches = Batches(numbered(count), batch_size, "cpu", MEAN, STD, drop_last=drop_last)
    assert [len(labels) for _, labels in batches.epoch(0)] == sizes
    assert len(batches) == len(sizes)
    assert batches.num_images == sum(sizes)


def test_without_shuffling_images_are_normalised_in_their_order():
    image_set = numbered(10)
    images, labels = collected(Batches(image_set, 3, "cpu", MEAN, STD), shuffle=False)
    assert labels.tolist() == list(range(10))
    torch.testing.assert_close(images, normalised(image_set.images), atol=1e-5, rtol=0)


def test_a_shuffled_epoch_holds_every_image_once_beside_its_label():
    image_set = numbered(50)
    images, labels = collected(Batches(image_set, 8, "cpu", MEAN, STD))
    assert labels.tolist() != list(range(50))
    assert sorted(labels.tolist()) == list(range(50))
    torch.testing.assert_close(images, normalised(image_set.images[labels]), atol=1e-5, rtol=0)


def test_an_epoch_is_repeated_by_its_seed_whatever_happened_before():
    first = Batches(numbered(40), 8, "cpu", MEAN, STD, augmentation=EVERYTHING)
    expected = collected(first, seed=3)
    other = Batches(numbered(40), 8, "cpu", MEAN, STD, augmentation=EVERYTHING)
    collected(other, seed=1)
    next(other.epoch(2))
    torch.rand(7)
    for images, labels in (collected(other, seed=3), collected(first, seed=3)):
        assert torch.equal(images, expected[0])
        assert torch.equal(labels, expected[1])
    assert not torch.equal(collected(first, seed=4)[1], expected[1])


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    collected(Batches(numbered(20), 8, "cpu", MEAN, STD, augmentation=EVERYTHING))
    assert torch.equal(torch.get_rng_state(), before)


def test_augmentation_of_an_epoch_is_crop_flip_normalise_cutout():
    image_set = numbered(20)
    images, labels = collected(Batches(image_set, 6, "cpu", MEAN, STD, augmentation=EVERYTHING), seed=5)
    draws = draw(EVERYTHING, 20, (7, 9), seeded("augmentation", 5))
    moved = flip(crop(image_set.images[labels], draws.offsets, 2), draws.flips)
    expected = cutout(normalised(moved), draws.centres, 3)
    torch.testing.assert_close(images, expected, atol=1e-5, rtol=0)


def test_two_equal_images_of_a_batch_get_their_own_draw():
    image = numbered(1).images.expand(16, -1, -1, -1)
    for augmentation in (Augmentation(crop_padding=2), Augmentation(flip=True), Augmentation(cutout=3)):
        batches = Batches(
            ImageSet(image, torch.zeros(16).long()), 16, "cpu", MEAN, STD, augmentation=augmentation
        )
        images, _ = collected(batches)
        assert len({tuple(one.flatten().tolist()) for one in images}) > 1


def streamed(folder, image_set, num_workers):
    folder.mkdir()
    paths = []
    for number, image in enumerate(image_set.images):
        paths.append(folder / f"{number}.png")
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(paths[-1])
    return StreamedImageSet(paths, image_set.labels, image_set.shape, Decoder(3, (7, 9)), num_workers)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_files_give_the_same_batches_as_memory(tmp_path, num_workers):
    image_set = numbered(20)
    files = streamed(tmp_path / "images", image_set, num_workers)
    expected = collected(Batches(image_set, 6, "cpu", MEAN, STD, augmentation=EVERYTHING), seed=2)
    before = torch.get_rng_state()
    found = collected(Batches(files, 6, "cpu", MEAN, STD, augmentation=EVERYTHING), seed=2)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_file_damaged_during_the_run_is_named(tmp_path, num_workers):
    files = streamed(tmp_path / "images", numbered(8), num_workers)
    files.paths[5].write_bytes(files.paths[5].read_bytes()[:60])
    with pytest.raises(UserError) as caught:
        collected(Batches(files, 4, "cpu", MEAN, STD))
    assert str(caught.value).startswith(str(files.paths[5]))
    assert "Traceback" not in str(caught.value)
    assert multiprocessing.active_children() == []


def test_workers_end_when_an_epoch_is_left_early(tmp_path):
    epoch = Batches(streamed(tmp_path / "images", numbered(20), 2), 4, "cpu", MEAN, STD).epoch(0)
    next(epoch)
    assert len(multiprocessing.active_children()) == 2
    epoch.close()
    assert multiprocessing.active_children() == []


def test_an_empty_set_of_files_gives_no_batch(tmp_path):
    files = streamed(tmp_path / "images", numbered(0), 1)
    assert list(Batches(files, 4, "cpu", MEAN, STD).epoch(0)) == []


def test_a_batch_size_of_zero_is_refused():
    with pytest.raises(ValueError, match="batch_size"):
        Batches(numbered(3), 0, "cpu", MEAN, STD)


@pytest.mark.gpu
def test_the_gpu_gets_the_batches_of_the_cpu():
    expected = collected(Batches(numbered(20), 6, "cpu", MEAN, STD, augmentation=EVERYTHING), seed=2)
    images, labels = collected(Batches(numbered(20), 6, "cuda", MEAN, STD, augmentation=EVERYTHING), seed=2)
    assert images.is_cuda and labels.is_cuda
    torch.testing.assert_close(images.cpu(), expected[0], atol=1e-6, rtol=1e-6)
    assert torch.equal(labels.cpu(), expected[1])
