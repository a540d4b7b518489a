"""Checkpoints come back exactly, and a bad one is told without running anything in it."""

import os
import pickle
import random
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from binas.errors import UserError
from binas.run.checkpoint import FORMAT, Checkpoint, load_checkpoint, save_checkpoint

STRUCTURE = {"cells": 2, "edges": [["skip", "zeroise"], []], "name": "été", "none": None, "on": True}


def tensors() -> dict[str, torch.Tensor]:
    random_numbers = torch.Generator().manual_seed(0)
    return {
        "float": torch.randn(3, 4, generator=random_numbers),
        "double": torch.randn(2, dtype=torch.float64, generator=random_numbers),
        "half": torch.randn(5, generator=random_numbers).bfloat16(),
        "long": torch.arange(3),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 3),
        "channels_last": torch.randn(2, 3, 4, 4, generator=random_numbers).to(
            memory_format=torch.channels_last
        ),
        "special": torch.tensor([float("nan"), float("inf"), -0.0]),
    }


def saved(path: Path) -> bytes:
    save_checkpoint(path, "search", STRUCTURE, {"model": tensors(), "epoch": 3, "best": 0.5})
    return path.read_bytes()


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and one.stride() == other.stride()
        and torch.equal(
            one.contiguous().view(-1).view(torch.uint8), other.contiguous().view(-1).view(torch.uint8)
        )
    )


def test_comes_back_exactly(tmp_path: Path) -> None:
    saved(tmp_path / "c.pt")
    checkpoint = load_checkpoint(tmp_path / "c.pt", "search")
    assert (checkpoint.kind, checkpoint.structure) == ("search", STRUCTURE)
    assert (checkpoint.state["epoch"], checkpoint.state["best"]) == (3, 0.5)
    for name, tensor in tensors().items():
        assert same_bits(checkpoint.state["model"][name], tensor), name


def test_structure_comes_first_and_any_kind_may_be_read(tmp_path: Path) -> None:
    saved(tmp_path / "c.pt")
    document = torch.load(tmp_path / "c.pt", weights_only=True)
    assert list(document) == ["format", "version", "kind", "structure", "state"]
    assert isinstance(load_checkpoint(tmp_path / "c.pt"), Checkpoint)


def test_parameters_and_state_dicts_are_taken_as_plain(tmp_path: Path) -> None:
    module = torch.nn.BatchNorm2d(3)
    save_checkpoint(tmp_path / "c.pt", "x", {}, {"m": module.state_dict(), "w": module.weight})
    state = load_checkpoint(tmp_path / "c.pt").state
    torch.nn.BatchNorm2d(3).load_state_dict(state["m"], strict=True)
    assert type(state["w"]) is torch.Tensor
    assert not state["w"].requires_grad


def test_a_view_does_not_drag_its_storage_along(tmp_path: Path) -> None:
    large = torch.zeros(1_000_000)
    save_checkpoint(tmp_path / "c.pt", "x", {}, {"view": large[:10]})
    assert (tmp_path / "c.pt").stat().st_size < 10_000
    assert load_checkpoint(tmp_path / "c.pt").state["view"].shape == (10,)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((1, 2), "state.a.1.b: a tuple"),
        (np.float64(1), "state.a.1.b: a float64"),
        (torch.__version__, "state.a.1.b: a TorchVersion"),
        ({1: 2}, "state.a.1.b: key 1 is not a str"),
        (torch.float32, "state.a.1.b: a dtype"),
        (Path("x"), "state.a.1.b: a PosixPath"),
        (torch.zeros(2).to_sparse(), "sparse"),
    ],
    ids=["tuple", "numpy", "str subclass", "int key", "dtype", "path", "sparse"],
)
def test_only_plain_values_are_written(tmp_path: Path, value: Any, message: str) -> None:
    saved(tmp_path / "c.pt")
    with pytest.raises(TypeError, match=message):
        save_checkpoint(tmp_path / "c.pt", "search", {}, {"a": [0, {"b": value}]})
    assert load_checkpoint(tmp_path / "c.pt").state["epoch"] == 3


def test_missing_folder_and_other_kind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"c\.pt: no such checkpoint"):
        load_checkpoint(tmp_path / "c.pt")
    with pytest.raises(UserError, match="is a folder"):
        load_checkpoint(tmp_path)
    saved(tmp_path / "c.pt")
    with pytest.raises(UserError, match="is the checkpoint of a search, not of a retrain"):
        load_checkpoint(tmp_path / "c.pt", "retrain")


def test_truncated_anywhere(tmp_path: Path) -> None:
    content = saved(tmp_path / "c.pt")
    lengths = [0, 1, 3, 4, 30, 100, *range(200, len(content), 97), len(content) - 22, len(content) - 1]
    for length in lengths:
        (tmp_path / "cut.pt").write_bytes(content[:length])
        with pytest.raises(UserError, match=r"cut\.pt: is cut off"):
            load_checkpoint(tmp_path / "cut.pt")


def test_flipped_bytes_never_escape_as_another_error(tmp_path: Path) -> None:
    content = saved(tmp_path / "c.pt")
    chance = random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        damaged[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        (tmp_path / "bad.pt").write_bytes(damaged)
        try:
            load_checkpoint(tmp_path / "bad.pt")
        except UserError:
            refused += 1
        else:
            loaded = load_checkpoint(tmp_path / "bad.pt").state["model"]
            assert all(same_bits(loaded[name], tensor) for name, tensor in tensors().items())
    assert refused > 150  # the rest hits padding between tensors


def write_zip(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("content", [b"hello", b"\x80\x04N.", b"P", b"GIF89a", b"{}", b"PQ"], ids=repr)
def test_foreign_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(UserError, match=r"f: is (not a binas checkpoint|cut off)"):
        load_checkpoint(tmp_path / "f")


def test_foreign_archives(tmp_path: Path) -> None:
    write_zip(tmp_path / "f.zip", document=b"text")
    with pytest.raises(UserError, match=r"f\.zip: "):
        load_checkpoint(tmp_path / "f.zip")
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"other\.pt: is not a binas checkpoint"):
        load_checkpoint(tmp_path / "other.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(UserError, match="was not loaded"):
        load_checkpoint(tmp_path / "module.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, r"newer binas \(checkpoint version 2"),
        ({"version": 0}, "is damaged"),
        ({"version": True}, "is damaged"),
        ({"structure": [1]}, "is damaged"),
        ({"kind": 3}, "is damaged"),
        ({"format": "other"}, "is not a binas checkpoint"),
        ({"more": 1}, "is damaged"),
        ({"state": {"a": (1, 2)}}, "state.a: a tuple"),
        ({"state": {1: 2}}, "key 1 is not a str"),
        ({"state": {"a": {1}}}, "state.a: a set"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_documents(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    document = {"format": FORMAT, "version": 1, "kind": "search", "structure": {}, "state": {}}
    torch.save({**document, **change}, tmp_path / "c.pt")
    with pytest.raises(UserError, match=message):
        load_checkpoint(tmp_path / "c.pt")


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_hostile_pickles_run_nothing(tmp_path: Path) -> None:
    target = tmp_path / "made"
    document = {"format": FORMAT, "version": 1, "kind": "search", "structure": {}, "state": Hostile(target)}
    torch.save(document, tmp_path / "zip.pt")
    torch.save(document, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(document))
    for name, message in [
        ("zip.pt", "holds something other than plain values"),
        ("legacy.pt", "is not a binas checkpoint"),
        ("bare.pt", "is not a binas checkpoint"),
    ]:
        with pytest.raises(UserError, match=message):
            load_checkpoint(tmp_path / name)
    assert not target.exists()
    pickle.loads((tmp_path / "bare.pt").read_bytes())
    assert target.exists()


KILLED = """
import os, random, signal, sys, time, torch
from binas.run.checkpoint import load_checkpoint, save_checkpoint
torch.set_num_threads(1)
path = sys.argv[1]
def save(epoch):
    save_checkpoint(path, "search", {"epoch": epoch}, {"w": torch.full((300_000,), epoch)})
save(0)
last = 0
for attempt in range(30):
    writer = os.fork()
    if writer == 0:
        while True:
            last += 1
            save(last)
    time.sleep(random.Random(attempt).uniform(0.005, 0.06))
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    checkpoint = load_checkpoint(path, "search")
    assert checkpoint.structure["epoch"] >= last
    last = checkpoint.structure["epoch"]
    assert torch.equal(checkpoint.state["w"], torch.full((300_000,), last))
print(last)
"""


def test_killed_while_saving(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "c.pt")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 0  # how many, depends on what else the machine does
    torn = [name for name in os.listdir(tmp_path) if name != "c.pt"]
    assert torn  # some kills did hit in the middle of a write


def test_full_disk_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "c.pt"
    save_checkpoint(path, "search", {"epoch": 1}, {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(UserError, match=r"c\.pt: cannot be written: File too large"):
            save_checkpoint(path, "search", {"epoch": 2}, {"w": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_checkpoint(path).structure == {"epoch": 1}
    assert os.listdir(tmp_path) == ["c.pt"]
