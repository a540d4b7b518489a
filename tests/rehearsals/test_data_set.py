"""A data set from a user's file: used by name, recorded by name and hash, missed by its file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from binas.data.datasets import DATASETS
from binas.run.checkpoint import load_checkpoint
from binas.train.model_file import KIND

Runner = Callable[..., tuple[int, str, str]]

PLUGIN = '''\
"""Images of one's own: a grey level for each class, and noise."""
import torch

from binas.data.datasets import DATASETS, ArraySource, RawData


@DATASETS.register("greys")
def greys(config):
    """Three grey levels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(20)
    noise = torch.randint(0, 40, (60, 1, 8, 8), generator=generator)
    images = (labels.view(-1, 1, 1, 1) * 90 + noise).byte()
    return RawData(("dark", "middle", "light"), ArraySource(images, labels))
'''


@pytest.fixture
def own(tiny: Path) -> Path:
    """The folder of `tiny` with greys.py and a recipe of its images."""
    (tiny / "greys.py").write_text(PLUGIN)
    text = (tiny / "tiny.yaml").read_text()
    data = "data: {name: synthetic, images_per_class: 20, num_classes: 3}"
    (tiny / "own.yaml").write_text(
        text.replace(data, "data: {name: greys}").replace("name: tiny", "name: own")
    )
    return tiny


def test_images_of_ones_own_from_search_to_check(own: Path, binas: Runner) -> None:
    status, output, error = binas("data", "own.yaml", "--plugins", "greys.py")
    assert status == 0 and "middle" in output, error
    assert binas("search", "own.yaml", "--plugins", "greys.py")[0] == 0
    genotype = json.loads(Path("runs/own/genotype.json").read_text())
    assert genotype["plugins"] == []  # its cells need nothing of the file
    assert genotype["provenance"]["data_plugins"][0]["file"] == "greys.py"
    words = ["retrain", "--config", "own.yaml", "--genotype", "runs/own/genotype.json", "--name", "trained"]
    assert binas(*words, "--plugins", "greys.py")[0] == 0
    checkpoint = "runs/trained/checkpoint.pt"
    (record,) = load_checkpoint(Path(checkpoint), KIND).structure["data_plugins"]
    assert record["file"] == "greys.py" and record["operations"] == ["greys"]
    for command in ("eval", "check"):
        status, _, error = binas(command, checkpoint, "--plugins", "greys.py")
        assert status == 0, error
    for registered in DATASETS.names_from(str(own / "greys.py")):
        del DATASETS._entries[registered], DATASETS._origins[registered]
    for command in ("eval", "check"):
        status, _, error = binas(command, checkpoint)
        assert status == 2 and "needs the plug-in greys.py (it registers greys)" in error, error
    assert binas("profile", checkpoint)[0] == 0  # no image is needed for it
    status, _, error = binas("retrain", "runs/own/genotype.json", "--name", "x")
    assert status == 2 and "unknown dataset 'greys'" in error and "plugins" in error
    # a comment more leaves the images what they are, and the hash of the splits proves it
    (own / "greys.py").write_text(PLUGIN + "# a comment\n")
    assert binas("eval", checkpoint, "--plugins", "greys.py")[0] == 0
    (own / "greys.py").write_text(PLUGIN.replace("* 90", "* 80"))
    status, _, error = binas("eval", checkpoint, "--plugins", "greys.py")
    assert status == 2 and "its hash differs" in error
