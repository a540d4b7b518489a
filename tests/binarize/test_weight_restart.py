"""Weight binarizers that go to work in the course of training start from the weights as they are by then."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binas.arch.sample import random_genotype
from binas.arch.space import load_space
from binas.binarize import Binarization, BinaryConv2d, binary_convolutions, set_precision, set_progress
from binas.binarize.schemes.inq import Inq
from binas.config import build
from binas.data.config import DataConfig
from binas.data.open_data import Data, open_data
from binas.engine.batch_norm import frozen_running_statistics
from binas.errors import UserError
from binas.run.folder import RunFolder
from binas.train.retrain import Retraining
from binas.train.stage import RetrainConfig, StageConfig

NETWORK = {"init_channels": 4, "num_cells": 2, "reductions": [1], "stem_multiplier": 1}
SPACE = load_space({"base": "binas", "operations": ["binary_conv_3x3"], "num_nodes": 2, "network": NETWORK})
LEARNED = ["xnor_plus_plus", "bwnh", "circulant", "ttq", "syq", "dsq", "lq_net"]
FAST = {"name": "adam", "learning_rate": 0.1}
REAL = {"binarize_activations": False, "binarize_weights": False}


@pytest.fixture(scope="module")
def data() -> Data:
    return open_data(DataConfig(name="synthetic", images_per_class=12, num_classes=3))


def stage(name: str, weight: str, **more: Any) -> dict[str, Any]:
    scheme = {"activation": {"name": "sign"}, "weight": {"name": weight}}
    return {"name": name, "epochs": 1, "binarization": scheme, "optimizer": FAST, **more}


def retraining(data: Data, *stages: dict[str, Any]) -> Retraining:
    config = build(RetrainConfig, {"stages": list(stages), "batch_size": 8}, "test")
    genotype = random_genotype(SPACE, random.Random(3))
    return Retraining(genotype, config, data, seed=0, device=torch.device("cpu"), tensorboard=False)


def run(work: Retraining, path: Path, *, resume: bool = False) -> None:
    opened = (
        RunFolder.resume(path, "retrain") if resume else RunFolder.create(path, "retrain", overwrite=True)
    )
    with opened as folder:
        work.run(folder)


def first_layer(work: Retraining) -> BinaryConv2d:
    return next(conv for _, conv in binary_convolutions(work.network))


def own_state(conv: BinaryConv2d) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in conv.weight_binarizer.state_dict().items()}


def fresh_state(conv: BinaryConv2d, name: str) -> dict[str, Tensor]:
    """The parameters of a binarizer that was made for the weights as they are."""
    binarizer = build(Binarization, {"weight": {"name": name}}, "test").build_weight(conv.weight.shape)
    with torch.no_grad():
        binarizer.initialise(nn.Parameter(conv.weight.detach().clone()))
    return dict(binarizer.state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("before", ["raw", "another"])
@pytest.mark.parametrize("name", LEARNED)
def test_a_learned_scale_starts_from_the_weights_of_its_stage(
    data: Data, tmp_path: Path, name: str, before: str
) -> None:
    first = stage("first", name, **REAL) if before == "raw" else stage("first", "bnn")
    work = retraining(data, first, stage("second", name))
    work._enter(work.stages[0])
    conv = first_layer(work)
    at_birth = fresh_state(conv, name)
    with torch.no_grad():
        conv.weight.mul_(3).add_(0.01)
    work.position.stage = 1
    work._enter(work.stages[1])
    assert same(own_state(conv), fresh_state(conv, name))
    assert not same(own_state(conv), at_birth)


def test_a_binarizer_that_goes_on_keeps_what_it_has_learned(data: Data) -> None:
    work = retraining(data, stage("first", "bwnh"), stage("second", "bwnh"))
    work._enter(work.stages[0])
    conv = first_layer(work)
    with torch.no_grad():
        conv.weight_binarizer.scale.fill_(7.0)  # type: ignore[operator]
    work.position.stage = 1
    work._enter(work.stages[1])
    assert torch.equal(own_state(conv)["scale"], torch.full_like(own_state(conv)["scale"], 7.0))


@pytest.mark.parametrize(("real", "restarts"), [(True, True), (False, False)], ids=["real", "binary"])
def test_a_checkpoint_brings_its_scales_if_they_were_in_use(
    data: Data, tmp_path: Path, real: bool, restarts: bool
) -> None:
    run(retraining(data, stage("only", "bwnh", **(REAL if real else {}))), tmp_path / "before")
    start = str(tmp_path / "before" / "checkpoint.pt")
    work = retraining(data, stage("on", "bwnh", initial_checkpoint=start))
    work._enter(work.stages[0])
    conv = first_layer(work)
    assert same(own_state(conv), fresh_state(conv, "bwnh")) is restarts


class Stop(Exception):
    """Ends a run right after a checkpoint."""


def test_layers_whose_turn_comes_restart_and_resume_alike(data: Data, tmp_path: Path) -> None:
    plan = stage("turns", "bwnh", layerwise={"epochs_per_layer": 1}) | {"epochs": 3}
    whole = retraining(data, plan)
    run(whole, tmp_path / "whole")
    cut = retraining(data, plan)
    save = cut._save

    def stop(path: Path) -> None:
        save(path)
        if cut.position.epoch == 1:
            raise Stop

    cut._save = stop  # type: ignore[method-assign]
    with pytest.raises(Stop):
        run(cut, tmp_path / "cut")
    resumed = retraining(data, plan)
    run(resumed, tmp_path / "cut", resume=True)
    assert same(resumed.network.state_dict(), whole.network.state_dict())
    # the second layer from the end has been raw for an epoch of large steps before its turn
    conv = [conv for _, conv in binary_convolutions(cut.network)][-2]
    stale = own_state(conv)
    cut._save = save  # type: ignore[method-assign]
    from binas.binarize import binary_weights, restart_weight_binarizers

    before = binary_weights(cut.network)
    cut.stages[0].begin_epoch(cut.network, 1)
    restart_weight_binarizers(cut.network, before)
    assert same(own_state(conv), fresh_state(conv, "bwnh")) and not same(own_state(conv), stale)


def test_hysteresis_starts_from_the_nearest_trinary_weights() -> None:
    binarizer = build(Binarization, {"weight": {"name": "eedn"}}, "test").build_weight(
        torch.Size([1, 1, 1, 4])
    )
    binarizer.restart(torch.tensor([[[[-3.0, -0.2, 0.45, 0.55]]]]))
    assert binarizer.state_dict()["state"].flatten().tolist() == [-1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("factors", "size", "image"),
    [("dense", [7, 7], (8, 8)), ("rank_one", [8, 8], (1, 1)), ("filter_and_map", 5, (8, 5))],
)
def test_a_scale_for_outputs_of_another_size_is_a_users_mistake(factors: str, size: Any, image: Any) -> None:
    spec = {"weight": {"name": "xnor_plus_plus", "factors": factors, "size": size}}
    conv = BinaryConv2d(2, 3, 3, padding=1, binarizations=(build(Binarization, spec, "test"),))
    with pytest.raises(UserError, match=r"xnor_plus_plus.*option size"):
        conv(torch.randn(2, 2, *image))


def test_levels_that_follow_activations_stay_where_statistics_do() -> None:
    spec = {"activation": {"name": "lq_net"}}
    conv = BinaryConv2d(2, 3, 3, padding=1, binarizations=(build(Binarization, spec, "test"),))
    before = conv.activation_binarizer.state_dict()["basis"].clone()
    with frozen_running_statistics(conv):
        conv(torch.randn(4, 2, 6, 6))
    assert torch.equal(conv.activation_binarizer.state_dict()["basis"], before)
    conv(torch.randn(4, 2, 6, 6))
    assert not torch.equal(conv.activation_binarizer.state_dict()["basis"], before)


def test_portions_leave_the_binarizers_own_options() -> None:
    scheme = build(Binarization, {"weight": {"name": "inq", "portions": [0.5, 1.0]}}, "test")
    conv = BinaryConv2d(2, 4, 3, binarizations=(scheme,))
    inq = conv.weight_binarizer
    assert isinstance(inq, Inq)
    by_portions = StageConfig.model_validate({"name": "p", "portions": {"shares": [0.25, 1.0]}})
    by_portions.apply(conv)
    by_portions.begin_epoch(conv, 0)
    assert int(inq.frozen.sum()) == conv.weight.numel() // 4
    assert inq.portion(1.0) == 0.25 and inq.portions == (0.5, 1.0) and inq.warm_up == 0.2
    StageConfig(name="free").apply(conv)
    assert inq.portion(1.0) == 1.0 and inq.portion(0.0) == 0.0


@pytest.mark.parametrize("half", ["activation", "weight"])
def test_codes_on_their_way_to_signs_are_convolved_in_full_precision(half: str) -> None:
    name = {"activation": "tanh_sign", "weight": "self_binarizing"}[half]
    conv = BinaryConv2d(8, 4, 3, binarizations=(build(Binarization, {half: {"name": name}}, "test"),))
    set_precision(conv)
    set_progress(conv, 0.1)
    x = torch.randn(2, 8, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = conv(x)
    assert mixed.dtype == torch.float32 and torch.equal(mixed, conv(x))
    rounded = F.conv2d(x.bfloat16(), conv.weight.bfloat16())
    assert rounded.dtype == torch.bfloat16  # what autocast would have done
