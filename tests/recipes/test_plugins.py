"""Users' own files: loaded when named, recorded by hash, missed when missing, told when they raise."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from binas.errors import UserError
from binas.ops import OPS
from binas.plugins import load_plugin, load_plugins, records_for
from binas.registries import REGISTRIES

Runner = Callable[..., tuple[int, str, str]]

PLUGIN = '''\
"""An operation of one's own."""
import torch
from torch import nn
from binas.ops import register_op


@register_op("scaled_max_pool")
class ScaledMaxPool(nn.Module):
    """Largest of 3×3, times a learned number per channel."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(3, stride, padding=1)
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x):
        return self.pool(x) * self.scale
'''


@pytest.fixture
def plugged(tiny: Path) -> Path:
    """The folder of `tiny` with my_ops.py and a recipe whose only operation is the plug-in's."""
    (tiny / "my_ops.py").write_text(PLUGIN)
    recipe = (tiny / "tiny.yaml").read_text()
    recipe = recipe.replace("[zeroise, skip, binary_conv_3x3]", "[scaled_max_pool]")
    recipe = recipe.replace("epochs: 2, end: {operations_per_edge: 2}", "epochs: 1")
    (tiny / "tiny.yaml").write_text(recipe)
    return tiny


def test_a_file_is_loaded_and_recorded(plugged: Path) -> None:
    (record,) = load_plugins(["my_ops.py"], REGISTRIES)
    assert (record.file, record.operations) == ("my_ops.py", ("scaled_max_pool",))
    assert "scaled_max_pool" in OPS and OPS.origin("scaled_max_pool") == str(plugged / "my_ops.py")
    assert records_for(["skip"], [record]) == ()
    assert records_for(["skip", "scaled_max_pool"], [record]) == (record,)
    again = load_plugins(["my_ops.py", "my_ops.py"], REGISTRIES)  # twice is no double registration
    assert again == (record,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1 / 0\n", r"bad.py: raised ZeroDivisionError while it was loaded \(bad.py, line 1\)"),
        ("import no_such_module_here\n", r"bad.py: raised ModuleNotFoundError .*line 1\): No module named"),
        ("def f(:\n", r"bad.py: raised SyntaxError"),
        (
            "from binas.ops import register_op\n@register_op('skip')\ndef skip(c, s): ...\n",
            r"bad.py: operation 'skip' is registered already",
        ),
    ],
    ids=["raises", "import", "syntax", "taken"],
)
def test_a_file_that_cannot_be_loaded(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "bad.py").write_text(content)
    with pytest.raises(UserError, match=message):
        load_plugin(tmp_path / "bad.py", REGISTRIES)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.py: no such plug-in file"):
        load_plugin(tmp_path / "none.py", REGISTRIES)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"notes.txt: is not a Python file"):
        load_plugin(tmp_path / "notes.txt", REGISTRIES)


def test_search_retrain_eval_check_profile_with_a_plugin(plugged: Path, binas: Runner) -> None:
    status, output, error = binas("search", "tiny.yaml", "--plugins", "my_ops.py")
    assert status == 0, error
    genotype = json.loads(Path("runs/tiny/genotype.json").read_text())
    assert [plugin["file"] for plugin in genotype["plugins"]] == ["my_ops.py"]
    command = re.search(r"^next: binas (retrain .*)$", output, re.M)
    assert command is not None and command[1].endswith("--plugins my_ops.py")
    OPS._entries.pop("scaled_max_pool")
    OPS._origins.pop("scaled_max_pool")
    status, output, error = binas(*shlex.split(command[1]))
    assert status == 0, error
    checkpoint = "runs/tiny_retrain/checkpoint.pt"
    assert f"next: binas eval {checkpoint} --plugins my_ops.py" in output
    for words in (["eval", checkpoint], ["profile", checkpoint], ["profile", "runs/tiny/genotype.json"]):
        status, _, error = binas(*words, "--plugins", "my_ops.py")
        assert status == 0, error
    status, output, _ = binas("check", checkpoint, "--plugins", "my_ops.py")
    assert "edge_2_0.scaled_max_pool" in output
    assert binas("draw", "runs/tiny/genotype.json")[0] == 0  # a picture needs only names
    commands = [
        ["retrain", "runs/tiny/genotype.json", "--name", "x"],
        ["eval", checkpoint],
        ["check", checkpoint],
        ["profile", checkpoint],
        ["profile", "runs/tiny/genotype.json"],
        ["retrain", "--resume", "runs/tiny_retrain"],
        ["search", "--resume", "runs/tiny"],
    ]
    for words in commands:
        status, _, error = binas(*words)
        assert status == 2 and "needs the plug-in my_ops.py" in error and "--plugins" in error, (words, error)
    Path("my_ops.py").write_text(PLUGIN + "# changed\n")
    for words in commands:
        status, _, error = binas(*words, "--plugins", "my_ops.py")
        assert status == 2 and "my_ops.py" in error and "has changed since" in error, (words, error)
    assert not Path("runs/x").exists()


def test_a_path_in_a_genotype_is_never_imported(plugged: Path, binas: Runner) -> None:
    assert binas("search", "tiny.yaml", "--plugins", "my_ops.py")[0] == 0
    path = Path("runs/tiny/genotype.json")
    genotype = json.loads(path.read_text())
    evil = plugged / "evil.py"
    evil.write_text("open('hacked', 'w')\n")
    genotype["provenance"]["recipe"]["plugins"] = [str(evil)]
    genotype["plugins"][0]["file"] = str(evil)
    path.write_text(json.dumps(genotype))
    for words in (["retrain", path, "--name", "x"], ["profile", path], ["draw", path]):
        binas(*words)
        assert not Path("hacked").exists(), words
    status, _, error = binas("retrain", path, "--name", "x")
    assert status == 2 and "it is never loaded by itself" in error


def test_plugins_of_a_recipe_lie_beside_it(plugged: Path, binas: Runner) -> None:
    (plugged / "mine").mkdir()
    (plugged / "my_ops.py").rename(plugged / "mine/my_ops.py")
    recipe = "plugins: [my_ops.py]\n" + (plugged / "tiny.yaml").read_text()
    (plugged / "mine/own.yaml").write_text(recipe)
    status, output, error = binas("search", "mine/own.yaml")
    assert status == 0, error
    command = re.search(r"^next: binas (retrain .*)$", output, re.M)
    assert command is not None
    assert binas(*shlex.split(command[1]))[0] == 0
    assert binas("search", "--resume", "runs/tiny")[0] == 0
    (plugged / "mine/my_ops.py").unlink()
    status, _, error = binas("search", "mine/own.yaml", "--name", "again")
    assert status == 2 and "my_ops.py: no such plug-in file" in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("return self.pool", "raise ValueError('oh no')\n        return self.pool"), "line 17, in forward"),
        (("super().__init__()", "super().__init__()\n        {}['a']"), "line 13, in __init__"),
    ],
    ids=["forward", "constructor"],
)
def test_a_plugin_that_raises_while_it_is_used(
    plugged: Path, binas: Runner, change: tuple[str, str], message: str
) -> None:
    Path("my_ops.py").write_text(PLUGIN.replace(*change))
    status, _, error = binas("search", "tiny.yaml", "--plugins", "my_ops.py")
    assert status == 2 and error.startswith("binas: error: ") and "Traceback" not in error
    assert "my_ops.py" in error and message in error
    assert ("ValueError: oh no" in error) or ("KeyError: 'a'" in error)


def test_an_error_of_our_own_is_not_blamed_on_a_plugin(
    plugged: Path, binas: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr("binas.search.search.train_epoch", broken)
    with pytest.raises(RuntimeError, match="ours"):
        binas("search", "tiny.yaml", "--plugins", "my_ops.py")


def test_ops_lists_and_checks_a_plugin(plugged: Path, binas: Runner) -> None:
    status, output, _ = binas("ops", "--plugins", "my_ops.py")
    assert status == 0
    assert re.search(r"^scaled_max_pool +Largest of 3×3, .* \[my_ops.py\]$", output, re.M)
    status, output, _ = binas("ops", "check", "my_ops.py:scaled_max_pool")
    assert status == 0 and "keeps the contract" in output
    Path("bad.py").write_text(PLUGIN.replace("stride, padding=1", "1, padding=1").replace("scaled", "bad"))
    status, _, error = binas("ops", "check", "bad.py:bad_max_pool")
    assert status != 0 and "stride 2" in error
    status, _, error = binas("ops", "check", "my_ops.py:nothing")
    assert status == 2 and "defines no 'nothing'" in error


def install(folder: Path) -> None:
    """What an installer leaves of a package with an entry point."""
    (folder / "binas_extra").mkdir(parents=True)
    (folder / "binas_extra/__init__.py").write_text(PLUGIN)
    info = folder / "binas_extra-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: binas-extra\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[binas]\nextra = binas_extra\n")
    (info / "RECORD").write_text("")


def test_an_installed_package_brings_operations(plugged: Path) -> None:
    install(plugged / "site")
    environment = {**os.environ, "PYTHONPATH": str(plugged / "site"), "OMP_NUM_THREADS": "1"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "binas", *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    done = run("search", "tiny.yaml")
    assert done.returncode == 0, done.stderr
    genotype = json.loads(Path("runs/tiny/genotype.json").read_text())
    (plugin,) = genotype["plugins"]
    assert plugin["file"] == "binas_extra" and plugin["operations"] == ["scaled_max_pool"]
    done = run("retrain", "runs/tiny/genotype.json")
    assert done.returncode == 0, done.stderr
    (plugged / "site/binas_extra/__init__.py").write_text(PLUGIN.replace("self.pool(x)", "self.pol(x)"))
    done = run("search", "tiny.yaml", "--name", "broken")
    assert done.returncode == 2 and "__init__.py: line 17, in forward: the plug-in raised" in done.stderr


def test_an_installed_package_is_loaded_once_in_a_process(
    plugged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(plugged / "site")
    monkeypatch.syspath_prepend(str(plugged / "site"))
    first = load_plugins([], REGISTRIES)
    assert [record.operations for record in first] == [("scaled_max_pool",)]
    assert load_plugins([], REGISTRIES) == first
    sys.modules.pop("binas_extra")
