"""One run of the bake-off: an entry's recipe, the product's own retraining, and what was measured of it.

Every entry gets the same small network and goes through `binas.train.retrain`; nothing is trained elsewhere.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from binas.binarize import Binarization, binary_convolutions
from binas.binarize.catalogue import EXAMPLE_CHANNELS, EXAMPLE_SHAPE
from binas.config import build, merged, read_mapping
from binas.data.config import DataConfig
from binas.data.open_data import Data, open_data
from binas.errors import UserError
from binas.models import ModelChoice
from binas.models.layers import FIRST, Head, binary_conv, max_pool, real_conv, scaled
from binas.models.model_registry import MODELS, Task, WidthOptions, register_models
from binas.run.folder import RunFolder
from binas.train.evaluation import evaluate_checkpoint
from binas.train.retrain import Retraining
from binas.train.stage import RetrainConfig
from binas.train.stepper import Stepper

RECIPES = Path(__file__).with_name("bakeoff.yaml")
MODEL = "bakeoff"
CHANNELS = (32, 64, 64, 96)
LAYOUT = (
    "5×5 convolution of stride 4, 32 channels, real - binary 3×3, 64, 2×2 pool - binary 3×3, 64 - binary"
    " 3×3, 96 - mean of pixels - linear, real; batch-norm after each convolution (and pool), no other"
    " activation; the real-valued network has ReLU before each 3×3 convolution"
)
CPU = torch.device("cpu")
EPOCH_KEYS = ("epochs", "epochs_per_layer", "epochs_per_portion")
ROUNDS, STEPS = 4, 3
"""Timing: turns of each network, steps in a turn."""
Settings = dict[str, Any]


def small_network(options: WidthOptions, task: Task) -> nn.Module:
    """The network of the bake-off, about 110,000 weights. Shape: (N, C, H, W) -> (N, num_classes)."""
    channels = [scaled(count, options.width) for count in CHANNELS]
    layers: list[nn.Module] = [
        real_conv(task.in_channels, channels[0], 5, 4, why=FIRST),
        nn.BatchNorm2d(channels[0]),
    ]
    for position, (before, after) in enumerate(pairwise(channels)):
        layers.append(binary_conv(task, before, after, 3))
        layers += [max_pool()] if position == 0 else []
        layers.append(nn.BatchNorm2d(after))
    return nn.Sequential(*layers, Head(channels[-1], task.num_classes))


def recipes(path: Path = RECIPES) -> Settings:
    """Everything that is trained, as the file says it."""
    return read_mapping(path)


def binarization(entry: Mapping[str, Any]) -> Binarization:
    """What an entry binarizes with; what it leaves out is sign with the clipped gradient."""
    given = {key: entry[key] for key in ("activation", "weight", "gradient") if key in entry}
    return build(Binarization, {"weight": {"name": "bnn"}, **given}, "bake-off")


def training(settings: Settings, entry: Mapping[str, Any], data: str, shorter: float = 1.0) -> RetrainConfig:
    """The recipe of an entry's family with the entry's own changes.

    Args:
        data: which data set, for the number of epochs.
        shorter: what multiplies epochs beside it, at least one stays.
    """
    times = settings["data"][data]["times_epochs"] * shorter
    chosen = binarization(entry).model_dump(mode="json")
    stages = [{**stage, "binarization": chosen} for stage in settings["families"][entry["family"]]["stages"]]
    stages[-1] = merged(stages[-1], entry.get("last_stage", {}))
    whole = {"batch_size": settings["batch_size"], "validation_fraction": 0.0, "stages": stages}
    return build(RetrainConfig, _with_epochs(whole, times), "bake-off")


def _with_epochs(value: Any, times: float) -> Any:
    if isinstance(value, list):
        return [_with_epochs(item, times) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: max(1, round(inner * times)) if key in EPOCH_KEYS else _with_epochs(inner, times)
        for key, inner in value.items()
    }


def digest(settings: Settings, name: str, data: str) -> str:
    """A word that changes with the recipe of a row and with the code of its binarizers, not with comments."""
    entry = settings["entries"][name]
    family = settings["families"][entry["family"]]["stages"]
    chosen = settings["data"][data]
    recipe = [entry, family, settings["batch_size"], chosen["settings"], chosen["times_epochs"], CHANNELS]
    code = [_code(inspect.getsourcefile(type(part)) or "") for part in _binarizers(binarization(entry))]
    # as written, not as read: a new setting of the package is no change of a recipe
    parts = [json.dumps(recipe, sort_keys=True), *sorted(code)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


@cache
def _code(file: str) -> str:
    """The statements of a file without comments and docstrings."""
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [s for s in body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def _binarizers(chosen: Binarization) -> Iterator[nn.Module]:
    yield chosen.build_activation(EXAMPLE_CHANNELS)
    yield chosen.build_weight(EXAMPLE_SHAPE)
    if chosen.gradient is not None:
        yield chosen.build_gradient()


def bits(entry: Mapping[str, Any]) -> str:
    """Bits of weights and activations, times the bases where there are several: `1/2`, `1×3/1×3`."""
    if entry.get("real"):
        return "32/32"
    chosen = binarization(entry)
    halves = (chosen.build_weight(EXAMPLE_SHAPE), chosen.build_activation(EXAMPLE_CHANNELS))
    return "/".join(f"{b.bits}" if b.num_bases == 1 else f"{b.bits}×{b.num_bases}" for b in halves)


@cache
def opened(path: Path, data: str, limit: int | None) -> Data:
    """The images; `limit` replaces the number of training images, for tests."""
    settings = merged(recipes(path)["data"][data]["settings"], {} if limit is None else {"subset": limit})
    return open_data(build(DataConfig, settings, f"bake-off: data.{data}"))


def measure(
    settings: Settings, name: str, data: str, seed: int, images: Data, shorter: float | None = None
) -> Settings:
    """Trains an entry and gives its row.

    Args:
        shorter: what multiplies the epochs; None finds it from the time of a step.
    """
    entry = settings["entries"][name]
    start = time.process_time()
    relative = relative_time(settings, entry, data, images)
    if shorter is None:
        shorter = min(1.0, settings["slowest"] / relative)
    config = training(settings, entry, data, shorter)
    with tempfile.TemporaryDirectory() as place, RunFolder.create(Path(place) / "run", "retrain") as folder:
        retraining = _retraining(entry, config, images, seed)
        retraining.run(folder)
        accuracy = evaluate_checkpoint(folder.checkpoint, "test", CPU)["accuracy"]
        lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    flips = [line["flip_ratio"] for line in lines if "flip_ratio" in line and not entry.get("real")]
    return {
        "entry": name,
        "data": data,
        "seed": seed,
        "digest": digest(settings, name, data),
        "accuracy": accuracy,
        "relative_time": relative,
        "shorter": shorter,
        "epochs": sum(stage.epochs for stage in config.stages),
        "first_flips": flips[0] if flips else None,
        "last_flips": flips[-1] if flips else None,
        "train_loss": lines[-1]["train_loss"],
        "cpu_seconds": time.process_time() - start,
        "parameters": sum(p.numel() for p in retraining.network.parameters()),
    }


def _retraining(entry: Mapping[str, Any], config: RetrainConfig, images: Data, seed: int) -> Retraining:
    if MODEL not in MODELS:
        register_models(small_network, {MODEL: WidthOptions()}, Binarization(), "the network of the bake-off")
    options = {key: entry[key] for key in ("real", "width") if key in entry}
    choice = ModelChoice.model_validate({"name": MODEL, **options})
    retraining = Retraining(choice, config, images, seed=seed, device=CPU, tensorboard=False)
    if entry.get("frozen"):
        for _, conv in binary_convolutions(retraining.network):
            if list(conv.weight_binarizer.parameters()) or list(conv.activation_binarizer.parameters()):
                raise UserError("bake-off: a frozen entry needs binarizers that learn nothing")
            conv.weight.requires_grad_(False)
    return retraining


def relative_time(settings: Settings, entry: Mapping[str, Any], data: str, images: Data) -> float:
    """CPU time of a training step against that of the real-valued network, both in turns; the median."""
    real = {"family": "one_bit", "real": True}
    turns = [_Turn(settings, one, data, images) for one in (entry, real)]
    ratios = []
    for _ in range(ROUNDS):
        own, other = (turn.seconds() for turn in turns)
        ratios.append(own / other)
    return statistics.median(ratios)


class _Turn:
    """Steps of a network's last stage, everything in it switched on."""

    def __init__(self, settings: Settings, entry: Mapping[str, Any], data: str, images: Data) -> None:
        config = training(settings, entry, data)
        retraining = _retraining(entry, config, images, 0)
        stage = retraining.stages[-1]
        stage.apply(retraining.network)
        optimizer = stage.optimizer.build_for(retraining.network)
        batches = retraining.train_batches
        self.stepper = Stepper(retraining.network.train(), optimizer, stage, config, 0, len(batches))
        self.batch = next(batches.epoch(0))
        self.stepper.step(self.batch)

    def seconds(self) -> float:
        start = time.process_time()
        for _ in range(STEPS):
            self.stepper.step(self.batch)
        return time.process_time() - start
