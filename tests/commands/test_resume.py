"""Runs that are killed with SIGKILL and resumed end bit for bit like runs that were left alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest
import torch

from binas.cli.main import main
from binas.run.folder import read_manifest
from binas.run.metrics import read_metrics

Runner = Callable[..., tuple[int, str, str]]
Spawn = Callable[..., "Popen[str]"]

SERVER = """\
import json, os, signal, sys
import binas.run.files as files, binas.search.search as search, binas.search.step as step
import binas.draw.render, binas.train.retrain as retrain
from binas.cli.main import main

def run(folder, moment, count, words):
    seen = 0

    def wrapped(function, name):
        def call(*arguments, **more):
            nonlocal seen
            result = None
            for when in ("before", "after"):
                if moment == f"{when} {name}":
                    seen += 1
                    if seen == count:
                        os.kill(os.getpid(), signal.SIGKILL)
                if when == "before":
                    result = function(*arguments, **more)
            return result
        return call

    for module in (search, retrain):
        module.save_checkpoint = wrapped(module.save_checkpoint, "checkpoint")
    step.BilevelStep.weight_step = wrapped(step.BilevelStep.weight_step, "step")
    retrain.Stepper.step = wrapped(retrain.Stepper.step, "step")
    files.os.replace = wrapped(files.os.replace, "replace")
    os.chdir(folder)
    os.dup2(2, 1)
    os._exit(main(words))

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        run(**json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
KillAt = Callable[..., None]


@pytest.fixture(scope="module")
def kill_at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KillAt]:
    """Runs a command in a process that kills itself at the count-th passing of a moment.

    The process is forked from one that has loaded everything and run nothing, which saves seconds.
    """
    output = tmp_path_factory.mktemp("server") / "output.txt"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    with (
        output.open("w") as file,
        Popen(
            [sys.executable, "-c", SERVER], stdin=PIPE, stdout=PIPE, stderr=file, text=True, env=environment
        ) as server,
    ):
        assert server.stdin is not None and server.stdout is not None
        stdin, stdout = server.stdin, server.stdout

        def kill(folder: Path, moment: str, count: int, *words: str) -> None:
            request = {"folder": str(folder), "moment": moment, "count": count, "words": words}
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
            assert stdout.readline().strip() == str(-signal.SIGKILL), output.read_text()[-2000:]

        yield kill
        stdin.close()


def timeless(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics without those values that a clock decides."""
    return [
        {name: value for name, value in line.items() if not name.startswith("time/")}
        for line in read_metrics(folder)
    ]


def equal(a: Any, b: Any) -> bool:
    """Whether two checkpoints hold the same, tensors to the last bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and bool(a == b)


def assert_same(one: Path, other: Path) -> None:
    contents = [torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (one, other)]
    assert equal(*contents)
    assert timeless(one) == timeless(other)
    files = [folder.rglob("*.json") for folder in (one, other)]
    texts = [
        {path.relative_to(folder): path.read_bytes() for path in found if path.name != "manifest.json"}
        for folder, found in zip((one, other), files, strict=True)
    ]
    assert texts[0] == texts[1] and Path("genotype.json") in texts[0]


def test_the_comparison_sees_a_single_bit(done: Path) -> None:
    content = torch.load("runs/tiny/checkpoint.pt", weights_only=True)
    other = torch.load("runs/tiny/checkpoint.pt", weights_only=True)
    assert equal(content, other)
    other["state"]["supernet"]["classifier.bias"][0] += 1e-7
    assert not equal(content, other)


# the structural edit comes with the third of four checkpoints
SEARCH_MOMENTS = [
    pytest.param("before step", 2, marks=pytest.mark.slow),
    ("after step", 7),
    pytest.param("before checkpoint", 3, marks=pytest.mark.slow),
    ("after checkpoint", 3),
    pytest.param("after checkpoint", 4, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("moment", "count"), SEARCH_MOMENTS, ids=str)
def test_a_search_that_was_killed(
    done: Path, binas: Runner, kill_at: KillAt, moment: str, count: int
) -> None:
    kill_at(done, moment, count, "search", "tiny.yaml", "--runs", "cut")
    assert not (done / "cut/tiny/genotype.json").exists()
    status, _, error = binas("search", "--resume", "cut/tiny")
    assert status == 0, error
    assert_same(done / "runs/tiny", done / "cut/tiny")
    assert len(read_manifest(done / "cut/tiny")["resumed"]) == 1
    assert not list((done / "cut").rglob("*.binas-tmp"))


# two stages of two epochs, a checkpoint each
RETRAIN_MOMENTS = [
    ("after step", 3),
    ("before checkpoint", 2),
    ("after checkpoint", 2),
    ("before checkpoint", 3),
    ("after checkpoint", 4),
]


@pytest.mark.parametrize(("moment", "count"), RETRAIN_MOMENTS, ids=str)
def test_a_retraining_that_was_killed(
    done: Path, binas: Runner, kill_at: KillAt, moment: str, count: int
) -> None:
    words = ["retrain", "--config", "tiny.yaml", "--genotype", "runs/tiny/genotype.json"]
    kill_at(done, moment, count, *words, "--name", "tiny_retrain", "--runs", "cut")
    status, _, error = binas("retrain", "--resume", "cut/tiny_retrain")
    assert status == 0, error
    assert_same(done / "runs/tiny_retrain", done / "cut/tiny_retrain")
    checkpoints = [done / f"{runs}/tiny_retrain/checkpoint.pt" for runs in ("runs", "cut")]
    results = [binas("eval", path, "--json")[1] for path in checkpoints]
    assert results[0] == results[1]


def test_killed_twice_and_from_outside(done: Path, binas: Runner, kill_at: KillAt, spawn: Spawn) -> None:
    kill_at(done, "after step", 4, "search", "tiny.yaml", "--runs", "cut")
    with spawn(done, "search", "--resume", "cut/tiny") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "epoch 2/4" in line:
                break
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert binas("search", "--resume", "cut/tiny")[0] == 0
    assert_same(done / "runs/tiny", done / "cut/tiny")


def test_a_plateau_is_remembered(done: Path, binas: Runner, kill_at: KillAt) -> None:
    stage = "[{name: s, epochs: 12, until_plateau: 2, optimizer: {learning_rate: 1.0e-9}}]"
    words = ["retrain", "runs/tiny/genotype.json", "--retrain.stages", stage, "--name", "p"]
    assert binas(*words)[0] == 0
    assert len(read_metrics("runs/p")) < 12
    kill_at(done, "after checkpoint", 2, *words, "--runs", "cut")
    assert binas("retrain", "--resume", "cut/p")[0] == 0
    assert_same(done / "runs/p", done / "cut/p")


def test_tensorboard_is_cut_back(done: Path, binas: Runner, kill_at: KillAt) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
        events = EventAccumulator(str(folder / "tensorboard"))
        events.Reload()
        names = [name for name in events.Tags()["scalars"] if not name.startswith("time/")]
        return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}

    words = ["search", "tiny.yaml", "--tensorboard", "true"]
    assert binas(*words, "--name", "whole")[0] == 0
    kill_at(done, "before checkpoint", 3, *words, "--name", "cut")
    assert [step for step, _ in scalars(done / "runs/cut")["entropy"]] == [0, 1, 2]
    assert binas("search", "--resume", "runs/cut")[0] == 0
    whole, cut = scalars(done / "runs/whole"), scalars(done / "runs/cut")
    assert cut == whole and [step for step, _ in cut["entropy"]] == [0, 1, 2, 3]


def test_a_finished_run_resumes_to_itself(done: Path, binas: Runner) -> None:
    shutil.copytree("runs", "before")
    assert binas("search", "--resume", "runs/tiny")[0] == 0
    assert binas("retrain", "--resume", "runs/tiny_retrain")[0] == 0
    for name in ("tiny", "tiny_retrain"):
        assert_same(done / "before" / name, done / "runs" / name)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search", "--resume", "runs/none"], "runs/none: no such run folder to resume"),
        (["search", "--resume", "runs/tiny_retrain"], "is the folder of a retrain run, not of a search run"),
        (["retrain", "--resume", "runs/tiny"], "is the folder of a search run, not of a retrain run"),
        (["search", "tiny.yaml", "--resume", "runs/tiny"], "goes on with its own recipe"),
        (["search", "--resume", "runs/tiny", "--seed", "3"], "goes on with its own recipe"),
        (["search", "tiny.yaml", "--resume", "--seed", "3"], "was started with another recipe"),
        (["search", "--resume", "runs/tiny", "--overwrite"], "exclude each other"),
        (
            ["retrain", "--resume", "runs/tiny_retrain", "--genotype", "x.json"],
            "goes on with its own genotype",
        ),
        (["search", "--resume", "."], "is not a run folder of binas"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_resumed(done: Path, binas: Runner, words: list[str], message: str) -> None:
    before = (done / "runs/tiny/checkpoint.pt").read_bytes()
    status, _, error = binas(*words)
    assert status == 2 and message in error, error
    assert (done / "runs/tiny/checkpoint.pt").read_bytes() == before


def test_resume_by_the_recipe_alone(done: Path, binas: Runner) -> None:
    status, output, _ = binas("search", "tiny.yaml", "--resume")
    assert status == 0 and "resumed the search after epoch 4/4" in output


def test_stopped_before_it_began(done: Path, binas: Runner, kill_at: KillAt) -> None:
    kill_at(done, "before replace", 3, "search", "tiny.yaml", "--runs", "cut")
    status, _, error = binas("search", "--resume", "cut/tiny")
    assert status == 2 and "was stopped before it began; start it again with --overwrite" in error
    assert binas("search", "tiny.yaml", "--runs", "cut", "--overwrite")[0] == 0


def test_images_that_have_changed_are_told(done: Path, binas: Runner) -> None:
    manifest = json.loads(Path("runs/tiny/manifest.json").read_text())
    manifest["splits"]["train"] = "0" * 64
    Path("runs/tiny/manifest.json").write_text(json.dumps(manifest))
    status, _, error = binas("search", "--resume", "runs/tiny")
    assert status == 2 and "the images are not those that the run was started with" in error


def test_a_run_that_is_going_on_is_not_resumed(done: Path, spawn: Spawn) -> None:
    from binas.run.folder import RunFolder

    with RunFolder.resume("runs/tiny", "search"), spawn(done, "search", "--resume", "runs/tiny") as process:
        output = process.communicate()[0]
    assert process.returncode == 2 and "is being written by another process" in output


def test_interrupted_by_the_keyboard(tiny: Path, monkeypatch: pytest.MonkeyPatch, binas: Runner) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("binas.search.search.train_epoch", stop)
    status, _, error = binas("search", "tiny.yaml")
    assert status == 130 and "--resume" in error
    monkeypatch.undo()
    monkeypatch.chdir(tiny)
    assert main(["search", "--resume", "runs/tiny"]) == 0
