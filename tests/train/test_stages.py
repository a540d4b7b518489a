"""Stages of retraining: what is switched, carried over, reset, clipped, logged, and when a stage ends."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binas.arch.sample import random_genotype
from binas.arch.space import load_space
from binas.binarize import BinaryConv2d, binary_convolutions
from binas.config import build
from binas.data.config import DataConfig
from binas.data.open_data import Data, open_data
from binas.engine.batch_norm import frozen_running_statistics, set_batch_norm_decay
from binas.engine.loop import check_weights
from binas.errors import UserError
from binas.run.checkpoint import load_checkpoint
from binas.run.folder import RunFolder
from binas.run.metrics import read_metrics
from binas.train.model_file import load_model
from binas.train.retrain import Retraining
from binas.train.stage import RetrainConfig, StageConfig
from binas.train.stepper import Stepper

NETWORK = {"init_channels": 4, "num_cells": 2, "reductions": [1], "stem_multiplier": 1}
SPACE = load_space(
    {"base": "binas", "operations": ["skip", "binary_conv_3x3"], "num_nodes": 2, "network": NETWORK}
)


@pytest.fixture(scope="module")
def data() -> Data:
    return open_data(DataConfig(name="synthetic", images_per_class=12, num_classes=3))


def retraining(data: Data, *stages: dict[str, Any], **more: Any) -> Retraining:
    config = build(RetrainConfig, {"stages": list(stages), "batch_size": 8, **more}, "test")
    genotype = random_genotype(SPACE, random.Random(3))
    return Retraining(genotype, config, data, seed=0, device=torch.device("cpu"), tensorboard=False)


def run(work: Retraining, path: Path) -> dict[str, Any]:
    with RunFolder.create(path, "retrain", overwrite=True) as folder:
        return work.run(folder)


@pytest.mark.parametrize("decay", [0.9, 0.99, 0.8])
def test_batch_norm_decay_is_the_weight_of_the_old_average(decay: float) -> None:
    layer = nn.Sequential(nn.BatchNorm2d(1))
    set_batch_norm_decay(layer, decay)
    x = torch.tensor([1.0, 3.0, 5.0, 7.0]).view(1, 1, 2, 2)
    layer(x)
    norm = layer[0]
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None
    assert norm.running_mean.item() == pytest.approx(decay * 0 + (1 - decay) * 4.0)
    layer(x)
    assert norm.running_mean.item() == pytest.approx((1 - decay**2) * 4.0)


def test_every_batch_norm_of_a_network_is_set_by_the_stage(data: Data) -> None:
    work = retraining(data, {"name": "only", "batch_norm_decay": 0.75})
    work._enter(work.stages[0])
    norms = [m for m in work.network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all(norm.momentum == pytest.approx(0.25) for norm in norms)


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(2), nn.BatchNorm1d(2)], ids=["2d", "1d"])
def test_frozen_statistics_stay(layer: nn.Module) -> None:
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    x = torch.randn(6, 2) if isinstance(layer, nn.BatchNorm1d) else torch.randn(6, 2, 3, 3)
    with frozen_running_statistics(nn.Sequential(layer)):
        y = layer(x)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert y.mean().abs() < 1e-6  # of the batch, up to rounding
    layer(x)
    assert int(layer.state_dict()["num_batches_tracked"]) == 1


def test_switched_off_is_raw() -> None:
    conv = BinaryConv2d(4, 6, 3, padding=1)
    stage = StageConfig(name="real", binarize_activations=False, binarize_weights=False)
    stage.apply(conv)
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(conv(x), F.conv2d(x, conv.weight, padding=1))
    StageConfig(name="binary_activations", binarize_weights=False).apply(conv)
    signs = torch.where(x >= 0, 1.0, -1.0)
    assert torch.equal(conv(x), F.conv2d(signs, conv.weight, padding=1))


def test_transitions_carry_weights_and_statistics_and_reset_the_optimizer(
    data: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stages: list[dict[str, Any]] = [
        {"name": "real_weights", "epochs": 1, "binarize_weights": False},
        {"name": "binary", "epochs": 1, "optimizer": {"name": "sgd", "learning_rate": 1e-2}},
    ]
    work = retraining(data, *stages)
    entered: list[dict[str, Tensor]] = []
    optimizers: list[torch.optim.Optimizer] = []
    enter = work._enter

    def watch(stage: StageConfig) -> None:
        before = {name: value.clone() for name, value in work.network.state_dict().items()}
        enter(stage)
        assert work.optimizer is not None and not work.optimizer.state
        after = work.network.state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(after[name], before[name]) for name in before)
        entered.append(before)
        optimizers.append(work.optimizer)

    work._enter = watch  # type: ignore[method-assign]
    run(work, tmp_path / "run")
    assert [type(optimizer).__name__ for optimizer in optimizers] == ["Adam", "SGD"]
    tracked = [name for name in entered[1] if name.endswith("num_batches_tracked")]
    assert tracked and all(int(entered[0][name]) == 0 < int(entered[1][name]) for name in tracked)
    output = caplog.text
    assert "stage 1/2 'real_weights': binary activations, real weights; carried over: nothing" in output
    assert (
        "stage 2/2 'binary': binary activations, binary weights; carried over: weights and batch-norm"
        " statistics of the stage before; reset: optimizer state, learning rate 0.01" in output
    )


def test_another_estimator_in_a_stage_keeps_keys_and_loads_strictly(data: Data, tmp_path: Path) -> None:
    work = retraining(
        data,
        {"name": "plain", "epochs": 1, "binarization": {"activation": {"name": "sign", "window": None}}},
        {"name": "polynomial", "epochs": 1, "binarization": {"activation": {"name": "approx_sign"}}},
    )
    keys: list[list[str]] = []
    leave = work._leave

    def watch(stage: StageConfig) -> None:
        saved = load_checkpoint(tmp_path / "run" / "checkpoint.pt", "retrain")
        keys.append(list(saved.state["model"]))
        active = {conv._active[0] for _, conv in binary_convolutions(work.network)}
        assert len(active) == 1 and active.pop().startswith(
            {"plain": "sign", "polynomial": "approx_sign"}[stage.name]
        )
        leave(stage)

    work._leave = watch  # type: ignore[method-assign]
    run(work, tmp_path / "run")
    assert len(keys) == 2 and keys[0] == keys[1]
    network, structure, _ = load_model(tmp_path / "run" / "checkpoint.pt", ())
    assert structure.stage.name == "polynomial"
    assert all(
        torch.equal(value, network.state_dict()[name]) for name, value in work.network.state_dict().items()
    )
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(network(x), work.network.eval()(x))


def test_strict_loading_refuses_another_network(data: Data, tmp_path: Path) -> None:
    run(retraining(data, {"name": "wide", "epochs": 1}), tmp_path / "a")
    path = tmp_path / "a" / "checkpoint.pt"
    stage = {"name": "start", "epochs": 1, "initial_checkpoint": str(path)}
    with pytest.raises(UserError, match=r"a/checkpoint.pt: is a checkpoint of another network: '.*' is \("):
        retraining(data, stage, network={"init_channels": 8})
    with pytest.raises(UserError, match=r"none.pt: no such checkpoint"):
        retraining(data, {**stage, "initial_checkpoint": str(tmp_path / "none.pt")})


def test_a_stage_starts_from_a_real_valued_checkpoint(
    data: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    real = {"name": "real", "epochs": 2, "binarize_activations": False, "binarize_weights": False}
    run(retraining(data, real), tmp_path / "real")
    path = tmp_path / "real" / "checkpoint.pt"
    work = retraining(data, {"name": "binary", "epochs": 1, "initial_checkpoint": str(path)})
    work._enter(work.stages[0])
    saved = load_checkpoint(path, "retrain").state["model"]
    assert all(torch.equal(saved[name], value) for name, value in work.network.state_dict().items())
    assert f"carried over: weights and batch-norm statistics of {path}" in caplog.text


def test_until_plateau_ends_a_stage_early(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    still: dict[str, Any] = {"learning_rate": 1e-12}  # nothing improves after the first epoch
    work = retraining(
        data,
        {"name": "still", "epochs": 9, "until_plateau": 2, "optimizer": still, "batch_norm_decay": 0},
        {"name": "fixed", "epochs": 2},
        validation_fraction=0.25,
    )
    accuracies = iter([0.5, 0.25, 0.5, 0.75])

    def scripted(*_: object) -> dict[str, float]:
        return {"loss": 1.0, "accuracy": next(accuracies, 0.0)}

    monkeypatch.setattr("binas.train.retrain.evaluate", scripted)
    results = run(work, tmp_path / "run")
    # best in epoch 1, none better in epochs 2 and 3: an equal one is none
    assert [(stage["stage"], stage["epochs"]) for stage in results["stages"]] == [("still", 3), ("fixed", 2)]
    lines = read_metrics(tmp_path / "run")
    assert [(line["step"], line["stage"], line["epoch"]) for line in lines] == [
        (0, "still", 0),
        (1, "still", 1),
        (2, "still", 2),
        (3, "fixed", 0),
        (4, "fixed", 1),
    ]


def test_clipping_of_gradients_and_latent_weights(data: Data) -> None:
    sgd = {"name": "sgd", "momentum": 0.0, "learning_rate": 1.0}
    stage = {"name": "s", "epochs": 1, "clip_grad_norm": 0.01, "weight_clipping": 0.05, "optimizer": sgd}
    work = retraining(data, stage)
    work._enter(work.stages[0])
    work.network.train()
    assert work.optimizer is not None
    convs = [conv for _, conv in binary_convolutions(work.network)]
    assert any(bool((conv.weight.abs() > 0.05).any()) for conv in convs)
    linear = work.network.classifier.weight
    before = linear.detach().clone()
    stepper = Stepper(work.network, work.optimizer, work.stages[0], work.config, 0, 4)
    stepper.step(next(work.train_batches.epoch(0)))
    assert all(bool((conv.weight.abs() <= 0.05).all()) for conv in convs)
    gradients = [p.grad for p in work.network.parameters() if p.grad is not None]
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    assert float(norm) == pytest.approx(0.01, rel=1e-3)  # clip_grad_norm_ divides by norm + 1e-6
    assert 0 < float((linear.detach() - before).norm()) <= 0.0101


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ({"shape": "linear", "final": 0.0}, [0.4, 0.3, 0.2, 0.1]),
        ({"shape": "constant"}, [0.4, 0.4, 0.4, 0.4]),
    ],
    ids=["linear", "constant"],
)
def test_the_learning_rate_follows_its_curve(
    data: Data, curve: dict[str, Any], expected: list[float]
) -> None:
    stage = {"name": "s", "epochs": 2, "learning_rate": curve, "optimizer": {"learning_rate": 0.4}}
    work = retraining(data, stage)
    work._enter(work.stages[0])
    assert work.optimizer is not None
    rates = []
    for epoch in range(2):
        stepper = Stepper(work.network, work.optimizer, work.stages[0], work.config, epoch, 2)
        for batch in list(work.train_batches.epoch(0))[:2]:
            stepper.step(batch)
            rates.append(work.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx(expected)


def test_drop_path_grows_within_a_stage_and_is_off_in_evaluation(data: Data) -> None:
    work = retraining(data, {"name": "s", "epochs": 2}, drop_path=0.4)
    work._enter(work.stages[0])
    assert work.optimizer is not None
    batch = next(work.train_batches.epoch(0))
    rates = []
    for epoch in range(2):
        stepper = Stepper(work.network, work.optimizer, work.stages[0], work.config, epoch, 2)
        for _ in range(2):
            work.network.train()
            stepper.step(batch)
            rates.append(work.network.drop_rate)
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])
    work.network.eval()
    first, second = work.network(batch[0]), work.network(batch[0])
    assert isinstance(first, Tensor) and torch.equal(first, second)


def test_the_auxiliary_head_adds_its_weighted_loss_in_training_only(data: Data, tmp_path: Path) -> None:
    gradients = {}
    for weight in (0.4, 0.8):
        work = retraining(data, {"name": "s", "epochs": 1}, auxiliary_weight=weight)
        work._enter(work.stages[0])
        work.network.train()
        assert work.optimizer is not None and work.network.auxiliary is not None
        stepper = Stepper(work.network, work.optimizer, work.stages[0], work.config, 0, 4)
        stepper.step(next(work.train_batches.epoch(0)))
        gradients[weight] = work.network.auxiliary.classifier.weight.grad.clone()  # type: ignore[union-attr]
    assert torch.allclose(2 * gradients[0.4], gradients[0.8], rtol=1e-4, atol=1e-7)  # float32 sums
    work = retraining(data, {"name": "s", "epochs": 1}, auxiliary_weight=0.4)
    run(work, tmp_path / "run")
    network, _, _ = load_model(tmp_path / "run" / "checkpoint.pt", ())
    assert isinstance(network(torch.zeros(2, 1, 8, 8)), Tensor)


def test_a_last_batch_of_one_image_is_left_out(data: Data, tmp_path: Path) -> None:
    total = len(data.retrain(0.0)[0])
    work = retraining(data, {"name": "s", "epochs": 1}, validation_fraction=0.0, auxiliary_weight=0.4)
    assert total % 7 != 1  # so that the next line is another case
    assert work.train_batches.num_images == total
    size = next(size for size in range(2, total) if total % size == 1)
    work = retraining(
        data, {"name": "s", "epochs": 1}, validation_fraction=0.0, auxiliary_weight=0.4, batch_size=size
    )
    assert work.train_batches.num_images == total - 1
    run(work, tmp_path / "run")


def test_what_is_no_number_is_told_by_name() -> None:
    layer = nn.BatchNorm2d(2)
    check_weights(layer, "epoch 1")
    assert layer.running_var is not None
    layer.running_var[1] = float("inf")
    with pytest.raises(UserError, match=r"epoch 1: a value of 'running_var' is nan, so training stops here"):
        check_weights(layer, "epoch 1")


def test_a_weight_that_is_no_number_never_reaches_a_checkpoint(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = retraining(data, {"name": "s", "epochs": 3}, validation_fraction=0.0)
    step, count = Stepper.step, [0]

    def spoilt(self: Stepper, batch: tuple[Tensor, Tensor]) -> Any:
        result = step(self, batch)
        count[0] += 1
        if count[0] == 2 * len(work.train_batches):  # the very last step of the second epoch
            self.network.classifier.weight.data[0, 0] = float("nan")
        return result

    monkeypatch.setattr(Stepper, "step", spoilt)
    with pytest.raises(UserError, match=r"(?s)classifier.weight.*last good checkpoint.*learning rate"):
        run(work, tmp_path / "run")
    saved = load_checkpoint(tmp_path / "run" / "checkpoint.pt", "retrain").state
    assert saved["position"]["step"] == 1
    assert all(bool(value.isfinite().all()) for value in saved["model"].values())


def test_a_key_of_the_final_network_is_checked_with_the_recipe() -> None:
    with pytest.raises(UserError, match=r"r.yaml: retrain.network: unknown key 'num_cell'; did you mean"):
        build(RetrainConfig, {"network": {"num_cell": 3}}, "r.yaml")


def test_results_and_lines_agree(data: Data, tmp_path: Path) -> None:
    results = run(retraining(data, {"name": "s", "epochs": 2}), tmp_path / "run")
    lines = read_metrics(tmp_path / "run")
    last = results["stages"][-1]
    assert last["validation_accuracy"] == lines[-1]["validation_accuracy"]
    assert results["epochs"] == 2 == len(lines)
    assert all(isinstance(json.dumps(line), str) and line["time/seconds_left"] is not None for line in lines)
