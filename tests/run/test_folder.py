"""Run folders: made once, replaced only when ours, resumed by their kind, written by one process."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from binas.config import Config
from binas.errors import UserError
from binas.run.files import write_atomic
from binas.run.folder import RunFolder, read_manifest
from binas.run.manifest import checkout_commit

CPU = torch.device("cpu")


class Settings(Config):
    """Settings for these tests."""

    lr: float = 3e-4
    name: str = "no"


def make(path: Path, kind: str = "search") -> None:
    with RunFolder.create(path, kind) as folder:
        folder.write_config(Settings())
        folder.write_manifest(seed=3, device=CPU)
        write_atomic(folder.checkpoint, "weights")


def test_paths_and_config(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "a"
    make(path)
    with RunFolder.resume(path, "search") as folder:
        assert folder.read_config(Settings) == Settings()
        found = [folder.config, folder.manifest, folder.metrics, folder.checkpoint, folder.tensorboard]
        assert folder.kind == "search"
    assert [str(file.relative_to(path)) for file in found] == [
        "config.yaml",
        "manifest.json",
        "metrics.jsonl",
        "checkpoint.pt",
        "tensorboard",
    ]


def test_manifest(tmp_path: Path) -> None:
    plugin = {"file": "my_ops.py", "sha256": "0" * 64, "operations": ["mine"]}
    with RunFolder.create(tmp_path / "a", "search") as folder:
        folder.write_manifest(seed=3, device=CPU, splits={"train": "ab"}, plugins=[plugin], strategy="random")
        folder.add_to_manifest(ended="later")
    manifest = read_manifest(tmp_path / "a")
    assert (manifest["kind"], manifest["seed"], manifest["device"]) == ("search", 3, "cpu")
    assert (manifest["splits"], manifest["strategy"], manifest["ended"]) == (
        {"train": "ab"},
        "random",
        "later",
    )
    assert manifest["plugins"] == [plugin]
    assert manifest["versions"]["torch"] == str(torch.__version__)
    assert manifest["num_threads"] == torch.get_num_threads()
    assert {"started", "command", "commit", "platform", "num_cpus", "device_name"} <= set(manifest)
    assert {"binas", "python", "torchvision", "numpy"} <= set(manifest["versions"])


def test_resume_is_recorded(tmp_path: Path) -> None:
    make(tmp_path / "a")
    started = read_manifest(tmp_path / "a")["started"]
    for _ in range(2):
        RunFolder.resume(tmp_path / "a", "search").close()
    manifest = read_manifest(tmp_path / "a")
    assert (manifest["started"], manifest["seed"]) == (started, 3)
    assert len(manifest["resumed"]) == 2
    assert {"time", "command", "commit", "versions"} == set(manifest["resumed"][0])


def test_an_existing_folder_is_an_error(tmp_path: Path) -> None:
    make(tmp_path / "a")
    with pytest.raises(UserError, match=r"a: exists already; resume it, overwrite it"):
        RunFolder.create(tmp_path / "a", "search")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        RunFolder.create(tmp_path / "file", "search", overwrite=True)
    with pytest.raises(UserError, match="is a file"):
        RunFolder.create(tmp_path / "file" / "a", "search")


def test_overwrite_replaces_a_folder_of_ours(tmp_path: Path) -> None:
    make(tmp_path / "a")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    (tmp_path / "a" / "tensorboard").mkdir()
    (tmp_path / "a" / "tensorboard" / "events").write_text("x")
    (tmp_path / "a" / "link").symlink_to(outside)
    with RunFolder.create(tmp_path / "a", "retrain", overwrite=True) as folder:
        assert sorted(os.listdir(folder.path)) == [".lock", "manifest.json"]
        assert folder.read_manifest()["kind"] == "retrain"
    assert (outside / "kept").exists()


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    make(tmp_path / "a")
    assert read_manifest(tmp_path / "a")["seed"] == 3


@pytest.mark.parametrize(
    "manifest", [None, "{}", "[]", "not JSON", '{"format": "other"}', '{"format": "binas-run"}']
)
def test_overwrite_leaves_other_folders_alone(tmp_path: Path, manifest: str | None) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(UserError, match="was not made by binas"):
        RunFolder.create(tmp_path, "search", overwrite=True)
    with pytest.raises(UserError):
        RunFolder.resume(tmp_path, "search")
    assert sorted(os.listdir(tmp_path)) == before


def test_overwrite_leaves_runs_inside_alone(tmp_path: Path) -> None:
    make(tmp_path / "a")
    make(tmp_path / "a" / "seeds" / "seed0")
    with pytest.raises(UserError, match=r"holds another run, .*seed0"):
        RunFolder.create(tmp_path / "a", "search", overwrite=True)
    assert (tmp_path / "a" / "checkpoint.pt").exists()


def test_resume_needs_a_run_of_that_kind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run folder"):
        RunFolder.resume(tmp_path / "a", "search")
    make(tmp_path / "a")
    with pytest.raises(UserError, match="folder of a search run, not of a retrain run"):
        RunFolder.resume(tmp_path / "a", "retrain")
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    (tmp_path / "a" / "manifest.json").write_text(json.dumps({**manifest, "version": 2}))
    with pytest.raises(UserError, match="update binas"):
        RunFolder.resume(tmp_path / "a", "search")


HOLDER = """
import sys, time
from binas.run.folder import RunFolder
folder = RunFolder.create(sys.argv[1], "search")
(folder.path / ".checkpoint.pt.abc.binas-tmp").write_text("half")
print("held", flush=True)
time.sleep(60)
"""


def test_one_process_at_a_time_until_it_dies(tmp_path: Path) -> None:
    path = tmp_path / "a"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    expected = rf"being written by another process \(process {holder.pid}\)"
    with pytest.raises(UserError, match=expected):
        RunFolder.resume(path, "search")
    with pytest.raises(UserError, match=expected):
        RunFolder.create(path, "search", overwrite=True)
    assert (path / ".checkpoint.pt.abc.binas-tmp").exists()
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with RunFolder.resume(path, "search") as folder:
        assert sorted(os.listdir(folder.path)) == [".lock", "manifest.json"]
    RunFolder.create(path, "search", overwrite=True).close()


def test_workers_do_not_keep_the_lock(tmp_path: Path) -> None:
    program = HOLDER.replace("print(", "import os\nif os.fork() == 0: time.sleep(30)\nprint(")
    holder = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program, str(tmp_path / "a")],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        holder.kill()
        holder.wait()
        RunFolder.resume(tmp_path / "a", "search").close()
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.stdout.close()


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_commit_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert checkout_commit(package) is None
    try:
        git(tmp_path, "init")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("git is not installed")
    assert checkout_commit(package) is None  # installed inside somebody else's checkout
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    commit = checkout_commit(package)
    assert commit is not None
    assert (len(commit["hash"]), commit["dirty"]) == (40, False)
    (package / "__init__.py").write_text("changed")
    assert checkout_commit(package) == {**commit, "dirty": True}
    monkeypatch.setenv("PATH", "/nowhere")
    assert checkout_commit(package) is None
