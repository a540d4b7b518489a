"""Cases for parts of a training stage."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import torch

from binas.arch.kinds import load_any_space
from binas.arch.sample import random_genotype
from binas.run.folder import RunFolder
from binas.testing.promises import promise, told_of
from binas.testing.searching import SPACES, tiny_data
from binas.testing.stopping import stopped_after
from binas.train.retrain import Retraining
from binas.train.stage import RetrainConfig


def check_stage_part(name: str, *, stage: dict[str, Any] | None = None, **options: Any) -> None:
    """A stage part trains in a real stage, twice alike, and after a stop as without one.

    Args:
        name: registered.
        stage: other keys of the stage.
        options: of the part.
    """
    what = f"stage part '{name}'"
    settings = {"name": "one", "epochs": 3, **(stage or {}), "parts": [{"name": name, **options}]}
    with told_of(what), tempfile.TemporaryDirectory() as folder:
        config = RetrainConfig.model_validate({"batch_size": 8, "stages": [settings]})
        whole = _trained(config, Path(folder) / "whole")
        again = _trained(config, Path(folder) / "again")
        promise(whole == again, what, f"two trainings with the same seed differ: {whole}, {again}")
        cut = Path(folder) / "cut"
        _trained(config, cut, stop=14)
        resumed = _trained(config, cut)
        promise(
            resumed == whole,
            what,
            f"a training that was stopped and resumed ends otherwise: {resumed}, not {whole}; hand on what it"
            " remembers in modules or state_dict",
        )


def _trained(config: RetrainConfig, path: Path, stop: int | None = None) -> list[dict[str, Any]]:
    """What each epoch reached, of a training that is begun or gone on with."""
    genotype = random_genotype(load_any_space(SPACES["cell"]), random.Random(0))
    folder = RunFolder.resume(path, "retrain") if path.exists() else RunFolder.create(path, "retrain")
    with folder, stopped_after(stop):
        training = Retraining(
            genotype, config, tiny_data(), seed=1, device=torch.device("cpu"), tensorboard=False
        )
        training.run(folder)
    rows = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [{key: value for key, value in row.items() if "time" not in key} for row in rows]
