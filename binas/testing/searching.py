"""Cases for the parts of a search: each is tried in a real search over a tiny space, stopped and resumed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from binas.arch.kinds import AnySpace, load_any_space
from binas.data.config import DataConfig
from binas.data.open_data import Data, open_data
from binas.run.folder import RunFolder
from binas.search.config import SearchConfig
from binas.search.parts import STRATEGIES
from binas.search.search import Search
from binas.search.strategies.base import Strategy, check_settings
from binas.testing.promises import promise, told_of
from binas.testing.stopping import stopped_after

SIZES = {"init_channels": 4, "num_cells": 2, "reductions": [1], "stem_multiplier": 1}
SPACES: dict[str, dict[str, Any]] = {
    "cell": {
        "base": "binas",
        "operations": ["zeroise", "skip", "binary_conv_3x3"],
        "num_nodes": 2,
        "supernet": SIZES,
        "network": SIZES,
    },
    "macro": {
        "base": "binas_macro_small",
        "stem": {"channels": [4]},
        "stages": [{"channels": [4, 8], "depth": [1, 2]}, {"channels": [8], "stride": 2, "skip": ["max"]}],
    },
}
PHASES = [{"name": "search", "epochs": 3}]
GRADIENT: dict[str, Any] = {"strategy": "gradient", "batch_size": 8, "phases": PHASES}


def check_strategy(name: str, **options: Any) -> None:
    """A strategy searches each kind of space that it says, twice alike, and after a stop as without one.

    Args:
        name: registered.
        options: of the strategy, small ones: a search takes as long as they say.
    """
    kinds = getattr(STRATEGIES[name], "spaces", Strategy.spaces)
    small = {"batch_size": 8, "phases": PHASES}
    used = {key: value for key, value in small.items() if key in getattr(STRATEGIES[name], "uses", ())}
    for kind in sorted(kinds):
        _check_search(f"strategy '{name}'", {"strategy": {"name": name, **options}, **used}, kind)


def check_relaxation(name: str, **options: Any) -> None:
    """A relaxation mixes operations in a gradient search, twice alike, after a stop too."""
    phases = [{**PHASES[0], "relaxation": {"name": name, **options}}]
    _check_search(f"relaxation '{name}'", {**GRADIENT, "phases": phases})


def check_regularizer(name: str, **options: Any) -> None:
    """A regularizer stands in the losses of a gradient search, twice alike, after a stop too."""
    config = {**GRADIENT, "regularizers": [{"name": name, **options}]}
    _check_search(f"regularizer '{name}'", config)


def check_decision(name: str, **options: Any) -> None:
    """A decision chooses a genotype of the space, twice alike, and after a stop as without one."""
    config = {**GRADIENT, "decision": {"name": name, **options}}
    _check_search(f"decision '{name}'", config)


def _check_search(what: str, config: Mapping[str, Any], kind: str = "cell") -> None:
    with told_of(what), tempfile.TemporaryDirectory() as folder:
        settings = SearchConfig.model_validate(config)
        check_settings(settings)
        space, data = load_any_space(SPACES[kind]), tiny_data()
        whole = _searched(space, settings, data, Path(folder) / "whole")
        again = _searched(space, settings, data, Path(folder) / "again")
        promise(
            whole == again,
            what,
            f"two searches of a {kind} space with one seed differ: {whole}, {again}",
        )
        for stop in (2, 9):
            cut = Path(folder) / f"cut{stop}"
            _searched(space, settings, data, cut, stop)
            resumed = _searched(space, settings, data, cut)
            promise(
                resumed == whole,
                what,
                f"a search that was stopped and resumed ends in another front: {resumed}, not {whole};"
                " draw from the given generator or from (seed, epoch), hand on the rest in state_dict",
            )


def tiny_data() -> Data:
    """Images that are drawn, not loaded."""
    return open_data(DataConfig(name="synthetic", images_per_class=12, num_classes=3, image_size=(8, 8)))


def _searched(
    space: AnySpace, config: SearchConfig, data: Data, path: Path, stop: int | None = None
) -> dict[str, Any] | None:
    """The front of a search that is begun or gone on with; None where it was stopped before one stood."""
    folder = RunFolder.resume(path, "search") if path.exists() else RunFolder.create(path, "search")
    with folder, stopped_after(stop):
        search = Search(space, config, data, seed=1, device=torch.device("cpu"), tensorboard=False)
        search.run(folder)
    front = path / "front.json"
    return json.loads(front.read_text()) if front.exists() else None
