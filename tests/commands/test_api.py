"""The public functions beside the commands: the same pixels, the same records, the same run folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import binas
from binas.api.preprocess import Preprocess
from binas.data.image_file import Decoder
from binas.data.in_memory import to_pixels

Runner = Callable[..., tuple[int, str, str]]
GENERATOR = np.random.default_rng(5)


@pytest.mark.parametrize(
    ("shape", "kind", "channels"), [((7, 9), np.uint8, 1), ((7, 9), np.uint16, 1), ((7, 9, 3), np.uint8, 3)]
)
def test_a_file_and_a_picture_of_it_are_the_pixels_that_a_folder_of_images_has(
    tmp_path: Path, shape: tuple[int, ...], kind: type, channels: int
) -> None:
    file = tmp_path / "one.png"
    Image.fromarray(GENERATOR.integers(0, np.iinfo(kind).max, shape, dtype=kind)).save(file)
    wanted = Decoder(channels, (7, 9))(file)
    assert torch.equal(to_pixels(Image.open(file)), wanted)
    prepare = Preprocess((7, 9), channels, (0.0,) * channels, (1.0,) * channels)
    assert torch.allclose(prepare(file)[0], wanted / 255) and torch.equal(
        prepare([file]), prepare(Image.open(file))
    )


def test_a_run_from_python_is_a_run_of_the_command(tiny: Path, request: pytest.FixtureRequest) -> None:
    command: Runner = request.getfixturevalue("binas")
    recipe = binas.load_recipe("tiny.yaml")
    told = binas.run_search(
        recipe.space, binas.open_data(recipe.data), config=recipe.search, folder="runs/mine"
    )
    status, _, error = command("search", "tiny.yaml")
    assert status == 0, error
    found = [json.loads(Path(f"runs/{name}/genotype.json").read_text()) for name in ("mine", "tiny")]
    assert found[0]["normal"] == found[1]["normal"] and found[0]["reduce"] == found[1]["reduce"]
    for key in ("images", "split_hashes"):
        assert found[0]["provenance"][key] == found[1]["provenance"][key]
    assert told.genotype.hash() == binas.load_genotype("runs/tiny").hash()
    assert command("search", "--resume", "runs/mine")[0] == 0
    assert command("profile", "runs/mine")[0] == 0
