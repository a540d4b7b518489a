"""A stage part from a user's file: used by name, recorded by name and hash, resumed mid-stage, listed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pages import program_of

Runner = Callable[..., tuple[int, str, str]]

OWN = program_of("docs/training.md", "register_stage_part")
"""The part of the documentation."""
CALLS = """

@register_stage_part("calls")
class Calls(StagePart):
    \"\"\"Writes down who calls what.\"\"\"

    def __init__(self, file: str, rate: float = 0.5) -> None:
        self.file, self.seen = file, {}
        self.offset = torch.nn.Linear(1, 1)

    def _told(self, name, once=True):
        if not once or name not in self.seen:
            with open(self.file, "a") as opened:
                print(name, file=opened)
        self.seen[name] = True

    def first_batch(self, network, images):
        self._told(f"first_batch {images.dim()}")
        return "calls counted"

    def start(self, setting):
        self._told(f"start {setting.num_classes}")

    def modules(self):
        return {"offset": self.offset}

    def precision(self, network, epoch):
        self._told(f"precision {epoch}")
        return {}

    def begin_epoch(self, epoch):
        self._told(f"begin_epoch {epoch}")
        return {"calls": float(len(self.seen))}

    def loss(self, images, logits, labels):
        self._told("loss")
        term = self.offset.weight.square().sum()
        return term, {"offset_loss": term}

    def after_step(self):
        self._told("after_step")

    def end(self):
        self._told("end")
"""


@pytest.fixture
def own(tiny: Path) -> Path:
    """The folder of `tiny` with parts.py and a genotype."""
    (tiny / "parts.py").write_text(f"{OWN}\n{CALLS}")
    text = (tiny / "tiny.yaml").read_text()
    (tiny / "tiny.yaml").write_text(f"plugins: [parts.py]\n{text}")
    return tiny


@pytest.fixture
def words(own: Path, binas: Runner) -> list[str]:
    """The words of a retraining of one stage of three epochs."""
    status, _, error = binas("search", "tiny.yaml", "--search.strategy", "random", "--name", "found")
    assert status == 0, error
    return ["retrain", "runs/found/genotype.json", "--config", "tiny.yaml"]


def _stage(**more: object) -> list[str]:
    return ["--retrain.stages", json.dumps([{"name": "one", "epochs": 3, **more}])]


def _losses(run: str) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in Path(f"runs/{run}/metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if "time" not in key} for row in rows]


def test_it_trains_and_is_recorded_and_listed(own: Path, words: list[str], binas: Runner) -> None:
    parts = _stage(parts=[{"name": "logit_norm", "strength": 0.5}])
    status, _, error = binas(*words, *parts, "--name", "with")
    assert status == 0, error
    status, _, error = binas(*words, *_stage(), "--name", "without")
    assert status == 0, error
    ours, plain = _losses("with"), _losses("without")
    assert all(row["train_logit_norm_loss"] > 0 for row in ours)
    assert ours[0]["logit_level"] == 1.0 != ours[1]["logit_level"]
    assert ours[-1]["train_loss"] != plain[-1]["train_loss"]
    checkpoint = torch.load("runs/with/checkpoint.pt", weights_only=True)
    assert set(checkpoint["state"]["objective"]["parts"]["logit_norm"]) == {"level"}
    (record,) = checkpoint["structure"]["plugins"]
    assert record["sha256"] == hashlib.sha256((own / "parts.py").read_bytes()).hexdigest()
    assert "logit_norm" in record["operations"]
    status, output, _ = binas("methods", "--plugins", "parts.py")
    assert status == 0 and "stage part:" in output
    assert re.search(r"logit_norm .*\[parts.py\]", output) and "strength" in output
    status, output, error = binas("eval", "runs/with/checkpoint.pt", "--plugins", "parts.py", "--json")
    assert status == 0, error


def test_it_goes_on_with_its_state(words: list[str], binas: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    from binas.train import retrain

    parts = _stage(parts=["logit_norm"])
    assert binas(*words, *parts, "--name", "whole")[0] == 0
    save = retrain.save_checkpoint

    def stopped(path: Path, *values: object) -> None:
        save(path, *values)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(retrain, "save_checkpoint", stopped)
        assert binas(*words, *parts, "--name", "cut")[0] == 130
    status, _, error = binas("retrain", "--resume", "runs/cut")
    assert status == 0, error
    assert _losses("cut") == _losses("whole")


def test_calls_come_in_the_order_that_the_class_says(own: Path, words: list[str], binas: Runner) -> None:
    parts = _stage(parts=[{"name": "calls", "file": "calls.txt"}])
    status, _, error = binas(*words, *parts, "--name", "calls")
    assert status == 0, error
    told = Path("calls.txt").read_text().splitlines()
    first, *epochs = [[f"precision {epoch}", f"begin_epoch {epoch}"] for epoch in range(3)]
    tried = ["first_batch 4", "start 3", "loss"]  # a pass for its memory
    assert told == [*tried, *first, "after_step", *epochs[0], *epochs[1], "end"]
    rows = _losses("calls")
    assert rows[0]["train_offset_loss"] != rows[-1]["train_offset_loss"], "the optimizer moves its modules"


def test_mistakes_are_told_by_key(own: Path, words: list[str], binas: Runner) -> None:
    for part, expected in (
        ("logit_nrom", "unknown stage part 'logit_nrom'; did you mean 'logit_norm'"),
        ({"name": "logit_norm", "strenght": 1}, "stage part 'logit_norm': unknown option 'strenght'"),
        ({"name": "logit_norm", "strength": "much"}, "stage part 'logit_norm': option 'strength'"),
    ):
        expected = f"retrain.stages.0.parts.0: {expected}"
        status, _, error = binas(*words, *_stage(parts=[part]), "--name", "wrong")
        assert status == 2 and expected in error, error
        assert not Path("runs/wrong").exists()
    twice = _stage(parts=["logit_norm", {"name": "logit_norm", "strength": 2}])
    status, _, error = binas(*words, *twice, "--name", "wrong")
    assert status == 2 and "stands twice" in error


def test_candidates_of_an_evolution_take_it(own: Path, binas: Runner) -> None:
    stage = {"name": "one", "epochs": 1, "parts": [{"name": "calls", "file": "calls.txt"}]}
    changes = {
        "model": "{name: vgg_small, width: 0.0625}",
        "evolve.evaluations": "2",
        "evolve.population": "2",
        "evolve.references": "false",
        "evolve.width.ratios": "[0.5, 1]",
        "evolve.training.stages": json.dumps([stage]),
    }
    flags = [word for key, value in changes.items() for word in (f"--{key}", value)]
    status, _, error = binas("evolve", "tiny.yaml", *flags, "--name", "evolved")
    assert status == 0, error
    assert Path("calls.txt").read_text().splitlines().count("after_step") == 2
    shared = ["--evolve.evaluation", "shared", "--evolve.shared.stage.parts", '["logit_norm"]']
    plain = [word for key, value in changes.items() if "training" not in key for word in (f"--{key}", value)]
    status, _, error = binas("evolve", "tiny.yaml", *plain, *shared, "--name", "shared")
    assert status == 2 and "stage.parts: a shared network's training has none" in error
