"""Folders of a user's images: what is inferred, how they stream, and every mistake by name."""

import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from binas.data.config import DataConfig
from binas.data.image_file import Decoder, read_header
from binas.data.image_set import ImageSet, StreamedImageSet
from binas.data.open_data import open_data
from binas.errors import UserError

GENERATOR = np.random.default_rng(0)
SUFFIXES = (".png", ".JPG", ".bmp")


def picture(mode="RGB", size=(9, 7)):
    """A random picture of that mode; size is height and width."""
    pixels = GENERATOR.integers(0, 256, (*size, 3), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(GENERATOR.integers(0, 65536, size).astype(np.uint16))
    return Image.fromarray(pixels).convert(mode)


def make(root, classes=("cat", "dog"), count=10, mode="RGB", size=(9, 7)):
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(count):
            picture(mode, size).save(root / name / f"{number:02}{SUFFIXES[number % len(SUFFIXES)]}")
    return root


def opened(root, **settings):
    return open_data(DataConfig(name="folder", root=root, **settings))


def refused(root, **settings):
    with pytest.raises(UserError) as caught:
        opened(root, **settings)
    return str(caught.value)


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_classes_size_and_channels_are_found(tmp_path, mode, channels):
    data = opened(make(tmp_path / "pets", ("dog", "cat", "ant"), mode=mode))
    assert data.class_names == ("ant", "cat", "dog")
    assert data.image_size == (9, 7) and data.channels == channels
    assert data.counts == {"train": (4,) * 3, "search_validation": (4,) * 3, "test": (2,) * 3}
    assert data.test().shape == (channels, 9, 7)


def test_pixels_are_those_of_the_files(tmp_path):
    root = make(tmp_path / "pets")
    data = opened(root, search_validation_fraction=0.5)
    known = {np.asarray(Image.open(path)).tobytes() for path in root.rglob("*.*")}
    for images in (data.train(), data.search_validation(), data.test()):
        assert {image.permute(1, 2, 0).numpy().tobytes() for image in images.images} <= known


def test_folders_in_class_folders_count_and_other_files_do_not(tmp_path):
    root = make(tmp_path / "pets")
    (root / "cat" / "deep").mkdir()
    picture().save(root / "cat" / "deep" / "one.png")
    (root / "cat" / "notes.txt").write_text("no image")
    (root / "cat" / "._00.png").write_bytes(b"left by a file manager")
    (root / ".cache").mkdir()
    data = opened(root)
    assert [sum(counts) for counts in zip(*data.counts.values(), strict=True)] == [11, 10]


def test_ready_made_training_and_test_folders_are_respected(tmp_path):
    make(tmp_path / "pets" / "train", count=6)
    make(tmp_path / "pets" / "test", count=3)
    data = opened(tmp_path / "pets")
    assert data.counts == {"train": (3, 3), "search_validation": (3, 3), "test": (3, 3)}
    known = {np.asarray(Image.open(path)).tobytes() for path in (tmp_path / "pets" / "test").rglob("*.*")}
    assert {image.permute(1, 2, 0).numpy().tobytes() for image in data.test().images} == known


def test_test_images_are_decoded_by_test_only(tmp_path):
    root = make(tmp_path / "pets" / "train").parent
    make(root / "test", count=3)
    damaged = root / "test" / "dog" / "00.png"
    damaged.write_bytes(damaged.read_bytes()[:80])  # the header is whole
    data = opened(root)
    with pytest.raises(UserError, match=re.escape(str(damaged))):
        data.test()


def test_a_large_folder_streams_the_same_pixels(tmp_path):
    root = make(tmp_path / "pets", count=12)
    memory, files = opened(root, image_size=8), opened(root, image_size=8, in_memory_limit_mb=0)
    assert isinstance(memory.train(), ImageSet) and isinstance(files.train(), StreamedImageSet)
    assert isinstance(files.test(), StreamedImageSet)
    assert files.split_hashes == memory.split_hashes
    assert files.mean == memory.mean and files.std == memory.std
    for expected, found in zip(memory.retrain(0.25), files.retrain(0.25), strict=True):
        assert found.shape == expected.shape and torch.equal(found.labels, expected.labels)
        assert torch.equal(found.read(torch.arange(len(found))), expected.images)
    assert len(files.retrain(0)[1]) == 0


def test_hashes_follow_names_and_sizes_of_files(tmp_path):
    root = make(tmp_path / "pets")
    before = opened(root).split_hashes
    shutil.copytree(root, tmp_path / "copy")
    assert opened(tmp_path / "copy").split_hashes == before
    (root / "cat" / "00.png").rename(root / "cat" / "000.png")
    assert opened(root).split_hashes != before
    with (tmp_path / "copy" / "dog" / "00.png").open("ab") as file:
        file.write(b"a comment after the picture")
    assert opened(tmp_path / "copy").split_hashes != before


def test_the_limit_of_memory_counts_decoded_megabytes(tmp_path):
    root = make(tmp_path / "pets")  # 16 training images, 1.83 MiB at this size
    assert isinstance(opened(root, image_size=200, in_memory_limit_mb=1).train(), StreamedImageSet)
    assert isinstance(opened(root, image_size=200, in_memory_limit_mb=2).train(), ImageSet)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_is_converted_when_asked(tmp_path, mode, channels):
    path = tmp_path / ("one.tif" if mode in ("CMYK", "I;16") else "one.png")
    picture(mode).save(path)
    pixels = Decoder(channels, (9, 7))(path)
    assert pixels.shape == (channels, 9, 7) and pixels.dtype == torch.uint8
    if mode == "I;16":
        expected = torch.from_numpy((np.asarray(Image.open(path)) >> 8).astype(np.uint8))
        assert all(torch.equal(channel, expected) for channel in pixels)
    assert len(pixels.unique()) > 1


def test_the_orientation_of_a_camera_is_applied(tmp_path):
    path = tmp_path / "one.jpg"
    bright_left = np.zeros((16, 24, 3), dtype=np.uint8)
    bright_left[:, :12] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    Image.fromarray(bright_left).save(path, exif=exif, quality=95)
    header = read_header(path)
    assert (header.height, header.width) == (24, 16)
    pixels = Decoder(1, (24, 16))(path)
    assert pixels[:, :10].min() > 200 and pixels[:, 14:].max() < 50


def test_images_of_different_sizes_are_told_apart_and_resized_when_asked(tmp_path):
    root = make(tmp_path / "pets")
    odd = root / "dog" / "zz.png"
    picture(size=(5, 12)).save(odd)
    text = refused(root)
    assert text.startswith(str(odd)) and "5 x 12" in text and "9 x 7" in text and "data.image_size" in text
    assert opened(root, image_size=(6, 8)).train().shape == (3, 6, 8)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA"])
def test_images_of_different_modes_are_told_apart_and_converted_when_asked(tmp_path, mode):
    root = make(tmp_path / "pets")
    odd = root / "dog" / "zz.png"
    picture(mode).save(odd)
    text = refused(root)
    assert text.startswith(str(odd)) and f"mode {mode}" in text and "data.channels: 3" in text
    assert opened(root, channels=3).channels == 3


def test_pixels_of_32_bits_are_refused_even_when_channels_are_set(tmp_path):
    root = make(tmp_path / "pets")
    Image.fromarray(np.ones((9, 7), dtype=np.float32)).save(root / "dog" / "zz.tif")
    assert "32-bit pixels" in refused(root, channels=1)


def no_root(root):
    return None


def missing(root):
    return root / "nothing"


def a_file(root):
    return root / "cat" / "00.png"


def empty(root):
    shutil.rmtree(root)
    root.mkdir()
    return root


def one_class(root):
    shutil.rmtree(root / "dog")
    return root


def empty_class(root):
    (root / "eel").mkdir()
    return root


def images_outside_of_classes(root):
    return root / "cat"


def single_image(root):
    (root / "eel").mkdir()
    picture().save(root / "eel" / "one.png")
    return root


def unknown_test_class(root):
    make(root.parent / "set" / "train", count=3)
    make(root.parent / "set" / "test", ("cat", "cow"), count=3)
    return root.parent / "set"


def third_part(root):
    for part in ("train", "test", "val"):
        make(root.parent / "set" / part, count=3)
    return root.parent / "set"


def no_test_images(root):
    make(root.parent / "set" / "train", count=3)
    (root.parent / "set" / "test" / "cat").mkdir(parents=True)
    return root.parent / "set"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (no_root, "data.root: the dataset 'folder' needs the folder"),
        (missing, "nothing is no folder"),
        (a_file, "00.png is no folder"),
        (empty, "pets holds no class folders"),
        (images_outside_of_classes, "cat holds no class folders"),
        (one_class, "one class only, 'cat'"),
        (empty_class, "eel holds no images"),
        (single_image, "class 'eel' has a single image"),
        (unknown_test_class, "cow: there is no class of that name in train"),
        (third_part, "holds 'val' beside train and test"),
        (no_test_images, "test holds no images"),
    ],
)
def test_a_folder_that_is_no_dataset_is_told(tmp_path, change, expected):
    assert expected in refused(change(make(tmp_path / "pets")))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("00.png", lambda data: b""),
        ("00.png", lambda data: b"this is text"),
        ("00.png", lambda data: data[:20]),
        ("00.png", lambda data: data[: len(data) // 2]),
        ("01.JPG", lambda data: data[: len(data) // 2]),
        ("02.bmp", lambda data: data[: len(data) // 2]),
    ],
)
def test_a_damaged_image_is_named(tmp_path, name, damage):
    root = make(tmp_path / "pets")
    for folder in ("cat", "dog"):
        path = root / folder / name
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError) as caught:
        opened(root).test()  # at opening already, unless both lie in the test split
    pattern = rf"{re.escape(str(root))}/(cat|dog)/{name}: is not a readable image \("
    assert re.match(pattern, str(caught.value))
