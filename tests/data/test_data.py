"""Opening data: what every dataset promises, splits and hashes, settings, mean and deviation."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from binas.config import build
from binas.data.config import Augmentation, DataConfig
from binas.data.datasets import DATASETS, ArraySource, RawData
from binas.data.image_set import ImageSet
from binas.data.open_data import open_data
from binas.data.pixels import convert, statistics
from binas.errors import UserError

OFFLINE = ["digits", "photo_patches", "synthetic"]
SPLITS = ["train", "search_validation", "test"]


def rows(images):
    return [image.numpy().tobytes() for image in images.images]


@pytest.mark.parametrize("name", OFFLINE)
def test_a_dataset_keeps_its_promises(name):
    data = open_data(DataConfig(name=name))
    sets = {"train": data.train(), "search_validation": data.search_validation(), "test": data.test()}
    for split, images in sets.items():
        assert images.images.dtype == torch.uint8 and images.labels.dtype == torch.int64
        assert images.shape == (data.channels, *data.image_size)
        assert torch.bincount(images.labels).tolist() == list(data.counts[split])
        assert min(data.counts[split]) > 0
    assert len(data.class_names) == data.num_classes == len(set(data.class_names))
    assert len(data.mean) == len(data.std) == data.channels
    assert list(data.split_hashes) == SPLITS
    assert all(len(text) == 64 for text in data.split_hashes.values())
    again = open_data(DataConfig(name=name))
    assert again.split_hashes == data.split_hashes
    assert torch.equal(again.train().images, sets["train"].images)


def test_the_digits_are_all_there_once():
    data = open_data(DataConfig())
    found = rows(data.train()) + rows(data.search_validation()) + rows(data.test())
    raw = DATASETS["digits"](DataConfig()).training
    assert len(found) == 1797
    assert sorted(found) == sorted(rows(raw.load(torch.arange(1797), DataConfig())))
    assert int(data.train().images.max()) == 255


def test_mean_and_deviation_are_those_of_the_training_images():
    data = open_data(DataConfig(name="photo_patches"))
    pixels = torch.cat([data.train().images, data.search_validation().images]).double().numpy() / 255
    np.testing.assert_allclose(data.mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-9)
    np.testing.assert_allclose(data.std, pixels.std(axis=(0, 2, 3)), rtol=1e-9)


def test_a_channel_without_variation_can_still_be_divided_by():
    images = ImageSet(torch.full((4, 1, 2, 2), 51, dtype=torch.uint8), torch.zeros(4).long())
    mean, std = statistics(images)
    assert mean == pytest.approx((0.2,)) and std == pytest.approx((1 / 255,))


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_another_seed_gives_other_splits(name):
    hashes = [open_data(DataConfig(name=name, split_seed=seed)).split_hashes for seed in (0, 1)]
    assert all(hashes[0][split] != hashes[1][split] for split in SPLITS)


def test_hashes_tell_images_labels_and_positions_apart():
    images = torch.arange(24, dtype=torch.uint8).view(6, 1, 2, 2)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    positions = torch.tensor([1, 4])
    changed_image, changed_label = images.clone(), labels.clone()
    changed_image[4, 0, 1, 1] += 1
    changed_label[1] = 1
    digests = [
        ArraySource(images, labels).digest(positions),
        ArraySource(changed_image, labels).digest(positions),
        ArraySource(images, changed_label).digest(positions),
        ArraySource(images, labels).digest(torch.tensor([1, 3])),
        ArraySource(images.view(6, 1, 1, 4), labels).digest(positions),
    ]
    assert len(set(digests)) == len(digests)
    outside = images.clone()
    outside[0] = 99
    assert ArraySource(outside, labels).digest(positions) == digests[0]


def test_hashes_are_the_same_in_a_fresh_process():
    script = (
        "from binas.data.config import DataConfig\n"
        "from binas.data.open_data import open_data\n"
        "print(*open_data(DataConfig()).split_hashes.values())"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert output.stdout.split() == list(open_data(DataConfig()).split_hashes.values())


def test_a_subset_shrinks_training_and_leaves_the_test_alone():
    whole, part = open_data(DataConfig()), open_data(DataConfig(subset=100))
    assert part.counts["train"] == part.counts["search_validation"] == (5,) * 10
    assert part.split_hashes["test"] == whole.split_hashes["test"]
    assert set(rows(part.train()) + rows(part.search_validation())) < set(
        rows(whole.train()) + rows(whole.search_validation())
    )


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, 0), (0.1, 144), (0.25, 360)])
def test_retraining_takes_everything_but_the_test(fraction, expected):
    data = open_data(DataConfig())
    training, validation = data.retrain(fraction)
    assert abs(len(validation) - expected) <= 5
    assert validation.shape == training.shape == (1, 8, 8)
    assert sorted(rows(training) + rows(validation)) == sorted(
        rows(data.train()) + rows(data.search_validation())
    )


@pytest.mark.parametrize("size", [16, (15, 15), (7, 9), (5, 12)])
@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize("name", OFFLINE)
def test_every_set_is_given_in_any_size_and_colour(name, size, channels):
    data = open_data(DataConfig(name=name, image_size=size, channels=channels, subset=40))
    assert data.image_size == ((size, size) if isinstance(size, int) else size)
    assert data.channels == (channels or {"photo_patches": 3}.get(name, 1))
    assert data.train().shape == data.test().shape == (data.channels, *data.image_size)


def test_conversions_of_pixels():
    grey = torch.tensor([[[[0, 100], [200, 255]]]], dtype=torch.uint8)
    assert torch.equal(convert(grey, None, 3), grey.repeat(1, 3, 1, 1))
    assert torch.equal(convert(grey.repeat(1, 3, 1, 1), None, 1), grey)
    red = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
    red[0, 0] = 200
    assert convert(red, None, 1).item() == 60  # 0.299 * 200, rounded
    assert convert(grey, (1, 1), None).item() == 139  # the mean, rounded
    assert convert(torch.full((1, 1, 3, 3), 77, dtype=torch.uint8), (7, 5), None).unique().tolist() == [77]
    assert convert(grey[:0], (7, 9), 3).shape == (0, 3, 7, 9)


def test_classes_of_synthetic_images_can_be_told_apart():
    data = open_data(DataConfig(name="synthetic", image_size=(9, 12)))
    spectra = [
        torch.fft.fft2(images.images[:, 0].float() - 128).abs().flatten(1)
        for images in (data.train(), data.test())
    ]
    centres = torch.stack([spectra[0][data.train().labels == label].mean(dim=0) for label in range(4)])
    nearest = torch.cdist(spectra[1], centres).argmin(dim=1)
    assert (nearest == data.test().labels).float().mean() > 0.95


def test_an_unknown_dataset_is_told_with_key_and_nearest_name():
    with pytest.raises(UserError, match=r"data\.name: unknown dataset 'digit'; did you mean 'digits'\?"):
        open_data(DataConfig(name="digit"))


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"image_size": 0}, "image_size"),
        ({"image_size": [4, 0]}, "image_size"),
        ({"image_size": True}, "image_size"),
        ({"image_size": [4, 4, 4]}, "image_size"),
        ({"channels": 2}, "channels"),
        ({"search_validation_fraction": 0}, "search_validation_fraction"),
        ({"search_validation_fraction": 1}, "search_validation_fraction"),
        ({"test_fraction": 1.5}, "test_fraction"),
        ({"subset": 0}, "subset"),
        ({"augmentation": {"crop_padding": -1}}, "augmentation.crop_padding"),
        ({"augmentation": {"flips": True}}, "augmentation.flips"),
    ],
)
def test_wrong_settings_are_told_with_their_key(settings, key):
    with pytest.raises(UserError, match=rf"recipe\.yaml: (unknown key ')?{key}"):
        build(DataConfig, settings, "recipe.yaml")


def test_settings_accept_one_number_or_two():
    assert build(DataConfig, {"image_size": 16}, "").image_size == (16, 16)
    assert build(DataConfig, {"image_size": [7, 9]}, "").image_size == (7, 9)
    assert build(DataConfig, DataConfig(image_size=16).model_dump(mode="json"), "").image_size == (16, 16)


def test_every_setting_has_a_help():
    for model in (DataConfig, Augmentation):
        assert all(field.description for field in model.model_fields.values())


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2).long()),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2).long()),
        (torch.zeros(2, 2, 4, 4, dtype=torch.uint8), torch.zeros(2).long()),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3).long()),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2)),
    ],
)
def test_a_plug_in_that_hands_over_other_arrays_is_told(images, labels):
    with pytest.raises(ValueError, match="must be torch"):
        ArraySource(images, labels)


def test_labels_without_a_class_are_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        RawData(("a", "b"), ArraySource(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([2])))


def test_opening_settings_loads_no_heavy_library():
    heavy = "'torch', 'sklearn', 'matplotlib', 'torchvision', 'skimage', 'PIL'"
    script = f"import sys, binas.data.config; assert not {{{heavy}}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
    script = "import sys, binas.data.open_data, binas.data.sheet, binas.data.batches;"
    script += "assert not {'sklearn', 'matplotlib', 'torchvision', 'skimage'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
