"""One CPU thread, no state left behind by a command, and a recipe that takes a second."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from binas.cli.main import main
from binas.registries import REGISTRIES

TINY = """\
name: tiny
num_threads: 1
tensorboard: false
data: {name: synthetic, images_per_class: 20, num_classes: 3}
space:
  base: binas
  operations: [zeroise, skip, binary_conv_3x3]
  num_nodes: 2
  supernet: {init_channels: 4, num_cells: 2, reductions: [1], stem_multiplier: 1}
  network: {init_channels: 4, num_cells: 2, reductions: [1], stem_multiplier: 1}
search:
  batch_size: 8
  phases:
    - {name: warm_up, trains: weights, epochs: 1}
    - {name: wide, epochs: 2, end: {operations_per_edge: 2}}
    - {name: narrow, epochs: 1}
retrain:
  batch_size: 16
  stages:
    - {name: binary_activations, epochs: 2, binarize_weights: false}
    - {name: fully_binary, epochs: 2}
"""
Runner = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _clean_process() -> Iterator[None]:
    """Commands set threads and repeatable algorithms, and plug-ins register names, for the process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    for registry in REGISTRIES:
        for origin in {registry.origin(name) for name in registry} - {""}:
            with registry.loading_from(origin):
                pass


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, made the current one, with the recipe tiny.yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path


@pytest.fixture
def binas(capsys: pytest.CaptureFixture[str]) -> Runner:
    """Runs a command in this process; gives exit status, standard output and standard error."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as end:  # argparse
            status = int(end.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which tiny.yaml was searched (runs/tiny) and retrained (runs/tiny_retrain), once."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(TINY)
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["search", "tiny.yaml"]) == 0
        genotype = "runs/tiny/genotype.json"
        assert (
            main(["retrain", "--config", "tiny.yaml", "--genotype", genotype, "--name", "tiny_retrain"]) == 0
        )
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def done(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `finished` of one's own, made the current folder."""
    folder = tmp_path / "done"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def spawn() -> Callable[..., subprocess.Popen[str]]:
    """Starts a command in a fresh process."""

    def start(folder: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "binas", *words],
            cwd=folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )

    return start
