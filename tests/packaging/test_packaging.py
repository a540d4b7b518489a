"""Three ways to install, each into a fresh environment: `binas` works in an empty folder far away.

Offline: built with the installed hatchling; torch and the rest are seen through a path file.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.quick import few_of

ROOT = Path(__file__).parents[2]
PARTS = (
    "binas",
    "search_spaces",
    "configs",
    "genotypes",
    "benchmarks/table",
    "tests",
    "tools",
    "docs",
    "README.md",
    "LICENSE",
    "CONTRIBUTING.md",
    "CITATION.cff",
    "Makefile",
    "pyproject.toml",
)
KINDS = {"search_spaces": ".yaml", "configs": ".yaml", "genotypes": ".json"}
WAYS = ("install", "editable", "sdist")
TINY = {
    "data.name": "synthetic",
    "data.images_per_class": "20",
    "space.supernet.init_channels": "4",
    "space.supernet.num_cells": "2",
    "space.supernet.reductions": "[1]",
    "search.phases": "[{epochs: 1}]",
    "search.batch_size": "16",
    "tensorboard": "false",
}


class Installed(NamedTuple):
    """An environment with binas in it, and the copy of the checkout that it came from."""

    bin: Path
    checkout: Path


def run(*words: str | Path, cwd: Path) -> str:
    """Standard output of a command that sees neither our paths nor the network; it must succeed."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment |= {"OMP_NUM_THREADS": "1", "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, so that building leaves the real one alone."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "benchmarks").mkdir()
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)
    return folder


@pytest.fixture(scope="module")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, checkout, cwd=folder)
    return folder


@pytest.fixture(scope="module", params=few_of(WAYS, ["install"]))
def installed(
    request: pytest.FixtureRequest, checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    """binas in an environment of its own, installed in one of the three ways."""
    folder = tmp_path_factory.mktemp(f"venv_{request.param}")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    # a path file, since a virtual environment does not see the packages of another one
    own = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    parents = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (Path(own) / "parent.pth").write_text("\n".join(parents) + "\n", encoding="utf-8")
    what: list[str | Path] = [checkout]
    if request.param == "editable":
        pytest.importorskip("editables", reason="hatchling needs it to build an editable wheel offline")
        what = ["--editable", checkout]
    elif request.param == "sdist":
        what = [next(request.getfixturevalue("built").glob("*.whl"))]
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--ignore-installed")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, *what, cwd=folder)
    return Installed(folder / "bin", checkout)


def shipped(kind: str) -> list[str]:
    """The names of the files of a kind in the checkout."""
    return sorted(path.stem for path in (ROOT / kind).glob(f"*{KINDS[kind]}"))


def test_a_search_runs_in_an_empty_folder(installed: Installed, tmp_path: Path) -> None:
    words = [word for key, value in TINY.items() for word in (f"--{key}", value)]
    output = run(installed.bin / "binas", "search", "demo_digits", "--name", "tiny", *words, cwd=tmp_path)
    assert "next: binas retrain" in output
    genotype = json.loads((tmp_path / "runs" / "tiny" / "genotype.json").read_text(encoding="utf-8"))
    assert genotype["format"] == "binas-genotype"
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_everything_that_is_shipped_is_found(installed: Installed, tmp_path: Path) -> None:
    code = (
        "import json, sys, binas; from binas.config import find_file, shipped_names;"
        "kinds = sys.argv[1:];"
        "found = {k: [n for n in shipped_names(k) if find_file(n, k).read_bytes()] for k in kinds};"
        "print(json.dumps({'file': binas.__file__, 'found': found}))"
    )
    told = json.loads(run(installed.bin / "python", "-c", code, *KINDS, cwd=tmp_path))
    assert told["found"] == {kind: shipped(kind) for kind in KINDS}
    package = Path(told["file"]).resolve()
    assert not package.is_relative_to(ROOT), "the package under test is the real checkout"


def test_the_module_is_the_command(installed: Installed, tmp_path: Path) -> None:
    words = ("-m", "binas", "profile", "bats", "--num-cells", "3", "--csv", "-")
    output = run(installed.bin / "python", *words, cwd=tmp_path)
    assert output.count("\n") > 10 and "cells.2" in output


def test_sdist_and_wheel_hold_what_they_should(built: Path) -> None:
    wheel = set(zipfile.ZipFile(next(built.glob("*.whl"))).namelist())
    assert "binas/py.typed" in wheel and any(name.endswith("licenses/LICENSE") for name in wheel)
    for kind, ending in KINDS.items():
        assert {f"binas/{kind}/{name}{ending}" for name in shipped(kind)} <= wheel
    roots = {name.split("/")[0] for name in wheel}
    assert len(roots) == 2 and "binas" in roots, f"the wheel installs {sorted(roots)}"
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "pyproject.toml",
        "README.md",
        "binas/cli/main.py",
        "tests/packaging/test_packaging.py",
        "tools/demo.py",
    } <= inside
