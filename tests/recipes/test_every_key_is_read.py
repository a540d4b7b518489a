"""The audit of settings: each key of each model of a recipe is read by some run in which it means something.

Commands run for real on tiny data while each read of a field is written down with file and line. Validators,
`unused_keys` and what copies or writes settings do not count. A key that is accepted and never read fails.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import binas as package
from binas.arch.kinds import load_any_space
from binas.config import Config, _models_in, describe
from binas.data.config import DataConfig
from binas.data.open_data import open_data
from binas.errors import UserError
from binas.recipe import Expected, Recipe

Runner = Callable[..., tuple[int, str, str]]
HERE = str(Path(package.__file__).parent)
NEVER = {(Expected, key) for key in Expected.model_fields} | {(Recipe, "expected")}
"""What a recipe says of itself for people: its docstring says that no run reads it."""


def models_of(model: type[Config], found: set[type[Config]] | None = None) -> set[type[Config]]:
    """A model and all those that stand in its fields."""
    found = set() if found is None else found
    if model not in found:
        found.add(model)
        for field in model.model_fields.values():
            for inner in _models_in(field.annotation):
                models_of(inner, found)
    return found


class Reads:
    """Where each field was read: (model, field) to places."""

    def __init__(self, models: set[type[Config]], within: str = HERE) -> None:
        self.models, self.within = models, within
        self.places: dict[tuple[type[Config], str], set[str]] = defaultdict(set)
        self.checks = {
            getattr(decorated.func, "__func__", decorated.func).__qualname__
            for model in models
            for group in ("field_validators", "model_validators", "field_serializers", "model_serializers")
            for decorated in getattr(model.__pydantic_decorators__, group).values()
        }

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside, reads are written down."""
        with pytest.MonkeyPatch.context() as patch:
            plain = Config.__getattribute__

            def read(model: Any, name: str) -> Any:
                if name[0] != "_" and type(model) in self.models and name in type(model).model_fields:
                    self._note(type(model), name, sys._getframe(1))
                return plain(model, name)

            patch.setattr(Config, "__getattribute__", read)
            yield

    def _note(self, model: type[Config], name: str, frame: Any) -> None:
        code = frame.f_code
        file = code.co_filename
        is_use = code.co_name != "unused_keys" and code.co_qualname not in self.checks
        if is_use and file.startswith(self.within) and not file.endswith("binas/config.py"):
            self.places[model, name].add(f"{Path(file).name}:{frame.f_lineno}")

    def unread(self) -> list[str]:
        """Fields that nothing has read."""
        every = {(model, name) for model in self.models for name in model.model_fields}
        return sorted(f"{model.__name__}.{name}" for model, name in every - set(self.places))


class _Toy(Config):
    used: int = 1
    dead: int = 2

    def unused_keys(self) -> Iterator[tuple[str, str]]:
        if self.dead:
            yield "dead", "anything"


def test_a_dead_key_is_found() -> None:
    reads = Reads({_Toy}, str(Path(__file__).parent))
    with reads.watched():
        toy = _Toy()
        list(toy.unused_keys())
        toy.model_copy(update={"dead": 3}).model_dump()
        assert toy.used == 1
    assert reads.unread() == ["_Toy.dead"]
    assert next(iter(reads.places[_Toy, "used"])).startswith(Path(__file__).name)


VGG = {"name": "vgg_small", "width": 0.0625}
BLOCKS = [{"expansion": 4}] * 2
MOBILE = {
    "name": "mobilenet_v2",
    "stem": "cifar",
    "first_channels": 8,
    "last_channels": 0,
    "stages": [{"channels": channels, "stride": 2, "blocks": BLOCKS} for channels in (8, 16)],
}
ONE = {"name": "one", "epochs": 1}
SEARCHES: dict[str, dict[str, Any]] = {
    "random_macro": {"space": "binas_macro_small", "search": {"strategy": "random"}, "limits": {"ops": 1e9}},
    "measured": {
        "space": "binas_macro_small",
        "search": {
            "strategy": {
                "name": "binas",
                "supernet_epochs": 1,
                "candidates": 1,
                "rounds": 0,
                "finalists": 1,
                "random_finalists": 1,
                "rungs": [1],
                "bins": 1,
            }
        },
    },
    "curves": {
        "space.gating": {"reduction": 2},
        "space.zeroise": {"policy": "discount", "gamma": 2.0},
        "space.layers": [
            {"match": "cells.0.*", "precision": "real"},
            {"type": "binary_conv_3x3", "binarization": {"activation": {"name": "rsign"}}},
        ],
        "search.phases": [{"epochs": 2}],
        "search.temperature": {"normal": {"start": 1.0, "end": 0.5, "shape": "exponential"}},
        "search.learning_rate": {"shape": "steps", "at": [0.5], "by": 0.5},
        "search.regularizers": ["quiet"],
    },
}
STAGES: dict[str, dict[str, Any]] = {
    "penalties": {
        "compactness": {"weight": 0.1, "rate": 0.5, "layer": "classifier"},
        "weight_regularizer": {"norm": "euclidean", "weight": 1e-6, "scale": 0.5},
        "layerwise": {"order": "depth", "epochs_per_layer": 1, "layers": 2},
        "parts": ["quiet_part"],
    },
    "portions": {
        "binarization": {"activation": {"name": "sign"}, "weight": {"name": "inq"}},
        "portions": {"shares": [0.5, 1.0], "epochs_per_portion": 1},
    },
    "hashed": {
        "binarization": {"activation": {"name": "sign"}, "weight": {"name": "bwnh"}},
        "hashing": {"images": 4, "iterations": 1},
    },
    "flipped": {
        "binarization": {"activation": {"name": "sign"}, "weight": {"name": "bop"}},
        "optimizer": {"name": "bop", "gamma": 1e-3, "threshold": 1e-8, "others": "adam"},
    },
    "joint": {
        "teacher": {
            "mode": "joint",
            "network": {"init_channels": 6},
            "temperature": 2.0,
            "teacher_weight": 1.0,
            "label_weight": 0.5,
            "soft_weight": 0.5,
        }
    },
}
EVOLUTIONS: dict[str, dict[str, Any]] = {
    "widths": {"model": VGG, "evolve": {"width": {"ratios": [0.5, 1]}, "training": {"stages": [ONE]}}},
    "groups": {
        "model": {"name": "mobilenet_group", "width": 0.25},
        "evolve": {"search": "groups", "groups": {"groups": [1, 2]}, "training": {"stages": [ONE]}},
    },
    "shared": {
        "model": VGG,
        "evolve": {
            "width": {"ratios": [0.5, 1]},
            "evaluation": "shared",
            "shared": {
                "phases": [
                    {"name": "a", "varies": [], "epochs": 1},
                    {"name": "b", "varies": ["ratios"], "epochs": 1},
                ]
            },
        },
    },
    "predicted": {
        "model": MOBILE,
        "evolve": {
            "search": "joint",
            "evaluation": "predicted",
            "joint": {
                "depths": [1, 2],
                "kernels": [3],
                "expansions": [2, 4],
                "kept": [0.5, 1.0],
                "bits": [1, 2],
            },
            "predictor": {
                "real_samples": 4,
                "quantized_samples": 10,
                "hidden": [8],
                "epochs": 2,
                "batch_size": 4,
                "repeats": 1,
                "measured": 1,
            },
            "shared": {"stage": {"name": "s", "epochs": 1}},
            "training": {"stages": [ONE]},
        },
    },
}
PLUGIN = '''
from binas import register_regularizer, register_stage_part
from binas.search.regularizers.base import Regularizer
from binas.train.parts.base import StagePart


@register_regularizer("quiet")
class Quiet(Regularizer):
    """Adds nothing."""


@register_stage_part("quiet_part")
class QuietPart(StagePart):
    """Adds nothing."""
'''


@pytest.fixture
def run(tiny: Path, binas: Runner) -> Callable[..., None]:
    (tiny / "own.py").write_text(PLUGIN)

    def command(name: str, *words: str, **changes: Any) -> None:
        flags = [word for key, value in changes.items() for word in (f"--{key}", json.dumps(value))]
        status, _, error = binas(name, *words, "--plugins", "own.py", *flags)
        assert status == 0, f"{name} {words}: {error}"

    return command


def _flat(changes: dict[str, Any]) -> dict[str, Any]:
    """Changes as dotted keys, two deep."""
    flat = {}
    for key, value in changes.items():
        if key in ("search", "evolve") and isinstance(value, dict):
            flat |= {f"{key}.{inner}": one for inner, one in value.items()}
        else:
            flat[key] = value
    return flat


def test_every_key_is_read(tiny: Path, run: Callable[..., None]) -> None:
    reads = Reads(models_of(Recipe))
    with reads.watched():
        run("search", "tiny.yaml", tensorboard=True)
        for name, changes in SEARCHES.items():
            run("search", "tiny.yaml", "--name", name, **_flat(changes))
        run(
            "retrain",
            "runs/tiny/genotype.json",
            "--config",
            "tiny.yaml",
            "--name",
            "trained",
            **{
                "retrain.keep": "best",
                "retrain.log_positive_share": True,
                "retrain.drop_path": 0.1,
                "retrain.auxiliary_weight": 0.4,
                "retrain.stages.0.until_plateau": 2,
                "retrain.stages.0.clip_grad_norm": 1.0,
                "retrain.stages.0.weight_clipping": 1.0,
                "retrain.stages.0.batch_norm_sparsity": 1e-4,
                "retrain.network.batch_norm_affine": True,
            },
        )
        for name, stage in STAGES.items():
            stages = [{"name": "s", "epochs": 2, **stage}]
            words = ["runs/tiny/genotype.json", "--config", "tiny.yaml", "--name", f"stage_{name}"]
            run("retrain", *words, **{"retrain.stages": stages})
        _teachers(tiny, run)
        few = {"evolve.evaluations": 3, "evolve.population": 2, "evolve.references": False}
        for name, changes in EVOLUTIONS.items():
            run("evolve", "tiny.yaml", "--name", f"evolved_{name}", **few, **_flat(changes))
        _data_sets(tiny, run)
        _names(tiny)
    unread = set(reads.unread()) - {f"{model.__name__}.{key}" for model, key in NEVER}
    assert not unread, f"accepted and never read: {', '.join(sorted(unread))}"
    known = {key for key, _, _ in describe(Recipe)}
    assert len(known) > 300, "the audit walks what --help lists"


def _teachers(folder: Path, run: Callable[..., None]) -> None:
    """Learning from a file, from inner layers, and from a network of torchvision."""
    checkpoint = "runs/trained/checkpoint.pt"
    features = {"layers": {"cells.0": "cells.0"}, "loss": "l2", "weight": 0.5}
    words = ["runs/tiny/genotype.json", "--config", "tiny.yaml", "--name"]
    teacher = {"checkpoint": checkpoint, "mode": "distribution", "features": features}
    run("retrain", *words, "taught", **{"retrain.stages": [{**ONE, "teacher": teacher}]})
    models = pytest.importorskip("torchvision").models
    torch.save(models.squeezenet1_1(num_classes=3).state_dict(), folder / "w.pt")
    teacher = {"torchvision": "squeezenet1_1", "weights": "w.pt"}
    colour = {"data.channels": 3, "data.image_size": 32}
    run("retrain", *words, "vision", **{"retrain.stages": [{**ONE, "teacher": teacher}], **colour})


def _names(folder: Path) -> None:
    """What is said where something is missing: the name of a space, and that nothing is downloaded."""
    for space in ("binas", "binas_macro_small"):
        alone = {"base": space, "activation": "none_such"} if space == "binas" else {"base": space}
        if space == "binas_macro_small":
            alone["stages"] = [{"channels": [8], "activation": "none_such"}]
        with pytest.raises(UserError, match=f"search space '{space}'"):
            load_any_space(alone).check_operations()
    with pytest.raises(UserError, match="download"):
        open_data(DataConfig(name="mnist", root=folder / "nothing", download=False))


def _data_sets(folder: Path, run: Callable[..., None]) -> None:
    """Folders that are streamed, photographs, and a published set that is not here."""
    generator = np.random.default_rng(0)
    for label in ("a", "b"):
        for place in range(12):
            file = folder / "images" / label / f"{place}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(file)
    words = ["--config", "plain.yaml"]
    (folder / "plain.yaml").write_text("num_threads: 1\ntensorboard: false\n")
    own = {
        "data": {
            "name": "folder",
            "root": "images",
            "image_size": 8,
            "in_memory_limit_mb": 0,
            "num_workers": 1,
        }
    }
    stages = {"retrain.stages": [ONE], "model": VGG}
    run("retrain", *words, "--name", "streamed", **own, **stages)
    photos = {"data": {"name": "photo_patches", "images_per_class": 8, "patch_size": 16}}
    run("retrain", *words, "--name", "photos", **photos, **stages)
