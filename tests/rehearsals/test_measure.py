"""A measure from a user's file: limits a search and an evolution, recorded by name and hash, listed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pages import program_of

Runner = Callable[..., tuple[int, str, str]]

OWN = program_of("docs/profile.md", "register_measure")
"""The measure of the documentation."""
BY_NETWORK = """
@register_measure("layers_in_all")
class LayersInAll(Measure):
    \"\"\"Modules that the network consists of.\"\"\"

    def __call__(self, network, profile):
        assert next(network.parameters()).is_meta
        return len(list(network.modules()))
"""


@pytest.fixture
def own(tiny: Path) -> Path:
    """The folder of `tiny` with measures.py."""
    (tiny / "measures.py").write_text(f'"""Measures of our own."""\n{OWN}\n{BY_NETWORK}')
    text = (tiny / "tiny.yaml").read_text()
    (tiny / "tiny.yaml").write_text(
        f"plugins: [measures.py]\nlimits: {{widest: 1000, layers_in_all: {{}}}}\n{text}"
    )
    return tiny


def test_a_search_is_limited_by_it(own: Path, binas: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["search", "tiny.yaml", "--search.strategy", "random"]
    status, _, error = binas(*words, "--name", "free")
    assert status == 0, error
    (row,) = json.loads(Path("runs/free/front.json").read_text())["front"]
    assert row["widest"] > 0 and row["layers_in_all"] > 10 and row["keeps_limits"]
    (record,) = json.loads(Path("runs/free/genotype.json").read_text())["provenance"]["search_plugins"]
    assert record["sha256"] == hashlib.sha256((own / "measures.py").read_bytes()).hexdigest()
    assert set(record["operations"]) == {"widest", "layers_in_all"}
    too_few = ["--limits.widest", f"{{at_most: {row['widest'] / 2 - 1}, factor: 0.5}}"]
    monkeypatch.setattr("binas.search.limits.MAX_DRAWS", 20)
    status, _, error = binas(*words, "--name", "bound", *too_few)
    assert status == 2 and "limits: none of" in error and "widest by" in error


def test_an_evolution_tells_it(own: Path, binas: Runner) -> None:
    changes = {
        "model": "{name: vgg_small, width: 0.0625}",
        "evolve.evaluations": "3",
        "evolve.population": "2",
        "evolve.references": "false",
        "evolve.training.stages.0.epochs": "1",
        "evolve.width.ratios": "[0.5, 1]",
        "limits.ops": "1e9",
    }
    words = [word for key, value in changes.items() for word in (f"--{key}", value)]
    status, _, error = binas("evolve", "tiny.yaml", "--name", "evolved", *words)
    assert status == 0, error
    document = json.loads(Path("runs/evolved/front.json").read_text())
    assert document["limits"] == {"widest": 1000, "ops": 1e9}
    assert all(row["widest"] > 0 and row["layers_in_all"] > 10 for row in document["front"])


def test_it_is_listed(own: Path, binas: Runner) -> None:
    status, output, _ = binas("methods", "--plugins", "measures.py")
    assert status == 0
    assert re.search(r"widest +Channels of the widest layer, times a factor\. \[measures\.py\]", output)
    assert "options: factor: float = 1.0" in output and "latency_ms" in output


def test_what_it_gives_is_checked(own: Path, binas: Runner) -> None:
    text = (own / "measures.py").read_text().replace("return len(list(network.modules()))", "return 'many'")
    (own / "measures.py").write_text(text)
    status, _, error = binas("search", "tiny.yaml", "--search.strategy", "random", "--name", "wrong")
    assert status == 2 and "limits.layers_in_all: the measure gives 'many', not a number" in error
