"""Metrics are whole JSON lines, the same in TensorBoard, and both are cut back on resume."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from binas.errors import UserError
from binas.run.events import _kept_records, cut_events
from binas.run.metrics import MetricsLog, read_metrics


def in_tensorboard(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        EventAccumulator,
    )

    sizes = {"scalars": 0, "images": 0}
    # purging would hide what was not cut
    accumulator = EventAccumulator(str(folder / "tensorboard"), sizes, purge_orphaned_data=False)
    accumulator.Reload()
    return accumulator


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    accumulator = in_tensorboard(folder)
    if name not in accumulator.Tags()["scalars"]:
        return []
    return [(event.step, event.value) for event in accumulator.Scalars(name)]


def log_run(folder: Path, steps: range, start: int, offset: float = 0.0) -> None:
    with MetricsLog(folder, start) as metrics:
        for step in steps:
            metrics.log(step, loss=step + offset, accuracy={"train": step / 8})
            metrics.image(step, "alphas", np.full((4, 5), step / 8))


def test_lines_and_scalars(tmp_path: Path) -> None:
    log_run(tmp_path, range(3), 0)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": s, "loss": float(s), "accuracy/train": s / 8} for s in range(3)]
    assert scalars(tmp_path, "accuracy/train") == [(0, 0.0), (1, 0.125), (2, 0.25)]


def test_values_of_every_type(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as metrics:
        metrics.log(
            0,
            nan=math.nan,
            inf=torch.tensor(-math.inf),
            list=[1.0, math.nan, np.float32(0.5)],
            array=np.array([[1, 2], [3, 4]]),
            tensor=torch.tensor(0.5),
            count=np.int64(3),
            flag=True,
            word="conv",
            deep={"a": {"b": 1}},
            nothing=None,
        )

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=refuse) == {
        "step": 0,
        "nan": None,
        "inf": None,
        "list": [1.0, None, 0.5],
        "array": [[1, 2], [3, 4]],
        "tensor": 0.5,
        "count": 3,
        "flag": True,
        "word": "conv",
        "deep/a/b": 1,
        "nothing": None,
    }
    assert set(in_tensorboard(tmp_path).Tags()["scalars"]) == {"tensor", "count", "flag", "deep/a/b"}


@pytest.mark.parametrize("start", [0, 1, 3, 5, 9])
def test_resume_cuts_both_back(tmp_path: Path, start: int) -> None:
    log_run(tmp_path, range(5), 0)
    log_run(tmp_path, range(start, 6), start, offset=100)
    expected = [(s, s + (100.0 if s >= start else 0.0)) for s in range(6) if s < 5 or s >= start]
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == expected
    assert sorted(scalars(tmp_path, "loss")) == expected
    images = in_tensorboard(tmp_path).Images("alphas")
    assert sorted(image.step for image in images) == [step for step, _ in expected]


def test_cut_is_real_before_anything_new_is_written(tmp_path: Path) -> None:
    log_run(tmp_path, range(5), 0)
    MetricsLog(tmp_path, 2, tensorboard=False).close()
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 1]
    assert [step for step, _ in scalars(tmp_path, "loss")] == [0, 1]
    MetricsLog(tmp_path, 0, tensorboard=False).close()
    assert read_metrics(tmp_path) == []
    assert list((tmp_path / "tensorboard").iterdir()) == []


def test_a_third_start_cuts_the_files_of_both_others(tmp_path: Path) -> None:
    log_run(tmp_path, range(4), 0)
    log_run(tmp_path, range(2, 6), 2, offset=10)
    log_run(tmp_path, range(1, 3), 1, offset=20)
    assert scalars(tmp_path, "loss") == [(0, 0.0), (1, 21.0), (2, 22.0)]


def test_torn_ends(tmp_path: Path) -> None:
    log_run(tmp_path, range(3), 0)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 3, "loss"')
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    for torn in (content + content[:7], content + content[24:60], content + bytes(4096), content[:-1]):
        events.write_bytes(torn)
        cut_events(tmp_path / "tensorboard", 10)
        assert events.read_bytes() == content[: len(events.read_bytes())]
        assert [step for step, _ in scalars(tmp_path, "loss")] == [0, 1, 2]
    assert len(read_metrics(tmp_path)) == 3
    log_run(tmp_path, range(3, 4), 3)
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 1, 2, 3]


@given(st.binary(max_size=300), st.integers(0, 5))
def test_any_bytes_in_an_event_file(content: bytes, start: int) -> None:
    kept = _kept_records(content, start)
    assert content.startswith(kept) or len(kept) < len(content)


def test_killed_loses_nothing(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from binas.run.metrics import MetricsLog
metrics = MetricsLog(sys.argv[1])
for step in range(4):
    metrics.log(step, loss=step)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 1, 2, 3]
    assert scalars(tmp_path, "loss") == [(s, float(s)) for s in range(4)]


def test_figures_and_pictures(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 1), dpi=50)
    figure.subplots().imshow(np.eye(3))
    with MetricsLog(tmp_path) as metrics:
        metrics.figure(0, "cells/normal", figure)
        metrics.image(0, "gray", np.zeros((3, 4), dtype=np.uint8))
        metrics.image(0, "colour", np.zeros((3, 4, 3)))
        metrics.image(0, "alpha", np.zeros((3, 4, 4), dtype=np.uint8))
    found = in_tensorboard(tmp_path)
    sizes = {name: found.Images(name)[0] for name in found.Tags()["images"]}
    assert {name: (image.width, image.height) for name, image in sizes.items()} == {
        "cells/normal": (100, 50),
        "gray": (4, 3),
        "colour": (4, 3),
        "alpha": (4, 3),
    }


def test_tensorboard_switched_off(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, tensorboard=False) as metrics:
        metrics.log(0, loss=1.0)
        metrics.image(0, "x", np.zeros((2, 2)))
        metrics.flush()
    assert len(read_metrics(tmp_path)) == 1
    assert not (tmp_path / "tensorboard").exists()


def test_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with MetricsLog(tmp_path, tensorboard=False) as metrics:
        metrics.log(0, loss=1.0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            with pytest.raises(UserError, match=r"metrics\.jsonl: cannot be written: File too large"):
                metrics.log(1, words="w" * 200)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        metrics.log(2, loss=2.0)
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 2]
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 2


def test_full_disk_leaves_whole_events(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = np.random.default_rng(0).random((64, 64, 3))
    with MetricsLog(tmp_path) as metrics:
        metrics.log(0, loss=0.0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
        try:
            with pytest.raises(UserError, match=r"tfevents\S* cannot be written: File too large"):
                metrics.image(1, "noise", noise)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        metrics.log(2, loss=2.0)
    assert scalars(tmp_path, "loss") == [(0, 0.0), (2, 2.0)]
    assert capfd.readouterr().err == ""


def test_no_metrics(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.jsonl: cannot be read: No such file"):
        read_metrics(tmp_path)
