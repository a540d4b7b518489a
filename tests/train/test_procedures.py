"""Procedures of training: layer by layer, portions, hashing, regularizers, squeezing."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from binas.arch.network import Network
from binas.arch.sample import random_genotype
from binas.arch.space import load_space
from binas.binarize import BinaryConv2d, binary_convolutions
from binas.config import build
from binas.data.config import DataConfig
from binas.data.open_data import Data, open_data
from binas.errors import UserError
from binas.run.checkpoint import load_checkpoint
from binas.run.folder import RunFolder
from binas.run.metrics import read_metrics
from binas.train.binary_check import check_network
from binas.train.model_file import load_model
from binas.train.parts.procedure import Layerwise, Portions
from binas.train.parts.regularizer import WeightRegularizer, batch_norm_penalty
from binas.train.retrain import Retraining
from binas.train.squeeze import ChannelPlan, squeeze_file, squeezed
from binas.train.stage import RetrainConfig, StageConfig

Runner = Callable[..., tuple[int, str, str]]
NETWORK = {"init_channels": 4, "num_cells": 2, "reductions": [1], "stem_multiplier": 1}
SPACE = load_space(
    {"base": "binas", "operations": ["skip", "binary_conv_3x3"], "num_nodes": 2, "network": NETWORK}
)


@pytest.fixture(scope="module")
def data() -> Data:
    return open_data(DataConfig(name="synthetic", images_per_class=12, num_classes=3))


def retraining(data: Data, *stages: dict[str, Any], space: Any = SPACE, **more: Any) -> Retraining:
    config = build(RetrainConfig, {"stages": list(stages), "batch_size": 8, **more}, "test")
    genotype = random_genotype(space, random.Random(3))
    return Retraining(genotype, config, data, seed=0, device=torch.device("cpu"), tensorboard=False)


def run(work: Retraining, path: Path) -> dict[str, Any]:
    with RunFolder.create(path, "retrain", overwrite=True) as folder:
        return work.run(folder)


class Stop(Exception):
    """Ends a run right after a checkpoint."""


def resumed_states(data: Data, tmp_path: Path, epochs: int, *stages: dict[str, Any]) -> list[Any]:
    """The last states of a run that was left alone, and of one that was cut after so many epochs."""
    run(retraining(data, *stages), tmp_path / "whole")
    cut = retraining(data, *stages)
    save = cut._save

    def stopping(file: Path) -> None:
        save(file)
        if cut.position.step == epochs:
            raise Stop

    cut._save = stopping  # type: ignore[method-assign]
    with pytest.raises(Stop):
        run(cut, tmp_path / "cut")
    with RunFolder.resume(tmp_path / "cut", "retrain") as folder:
        retraining(data, *stages).run(folder)
    return [load_checkpoint(tmp_path / name / "checkpoint.pt").state["model"] for name in ("whole", "cut")]


def binary_layers(network: nn.Module) -> list[str]:
    return [name for name, conv in binary_convolutions(network) if conv.binarize_weights]


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"epochs_per_layer": 2}, [1, 1, 2, 2, 3, 3]),
        ({"layers": 2}, [1, 2, 2, 2, 2, 2]),
    ],
    ids=str,
)
def test_the_number_of_binary_layers(settings: dict[str, Any], counts: list[int]) -> None:
    assert [build(Layerwise, settings, "x").num_binary(epoch) for epoch in range(6)] == counts


@pytest.mark.parametrize("order", ["inverse_depth", "depth"])
def test_layers_become_binary_one_after_another(data: Data, tmp_path: Path, order: str) -> None:
    stage = {"name": "s", "epochs": 5, "layerwise": {"order": order, "epochs_per_layer": 2}}
    work = retraining(data, stage, {"name": "rest", "epochs": 1})
    names = [name for name, _ in binary_convolutions(work.network)]
    ordered = names[::-1] if order == "inverse_depth" else names
    assert len(names) > 3
    seen: list[set[str]] = []
    save = work._save

    def watch(path: Path) -> None:
        seen.append(set(binary_layers(work.network)))
        save(path)
        if len(seen) == 4:
            network, _, _ = load_model(path, ())
            assert set(binary_layers(network)) == seen[-1]
            reports = check_network(network, torch.randn(4, 1, 8, 8))
            assert {report.name for report in reports if report.is_binary} == seen[-1]

    work._save = watch  # type: ignore[method-assign]
    run(work, tmp_path / "run")
    assert seen == [set(ordered[:count]) for count in (1, 1, 2, 2, 3, len(names))]
    assert [line.get("binary_layers") for line in read_metrics(tmp_path / "run")] == [1, 1, 2, 2, 3, None]


def test_a_layer_whose_turn_has_not_come_is_real(data: Data) -> None:
    work = retraining(data, {"name": "s", "layerwise": {}})
    work._enter(work.stages[0])
    work.stages[0].begin_epoch(work.network, 0)
    first = next(conv for _, conv in binary_convolutions(work.network))
    x = torch.randn(2, first.in_channels, 6, 6)
    real = nn.functional.conv2d(
        x, first.weight, None, first.stride, first.padding, first.dilation, first.groups
    )
    assert torch.equal(first(x), real)
    work.stages[0].begin_epoch(work.network, 99)
    assert not torch.equal(first(x), real)


def test_layerwise_resumes(data: Data, tmp_path: Path) -> None:
    states = resumed_states(data, tmp_path, 2, {"name": "s", "epochs": 4, "layerwise": {}})
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layerwise": {}, "optimizer": {"name": "bop"}}, "layerwise needs latent weights"),
        ({"layerwise": {}, "hashing": {}}, "leave layerwise out"),
        ({"portions": {"shares": [0.5, 0.25]}}, "shares grow"),
        ({"portions": {"shares": [0.5, 1.5]}}, "shares grow"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(StageConfig, {"name": "s", **settings}, "recipe")


INQ = {"name": "s", "epochs": 4, "binarization": {"weight": {"name": "inq", "bits": 3}}}


def test_portions_fix_the_largest_weights_first(data: Data, tmp_path: Path) -> None:
    shares = [0.25, 0.75, 1.0]
    stage = {**INQ, "portions": {"shares": shares}, "optimizer": {"learning_rate": 1e-2}}
    real = {"name": "real", "epochs": 1, "binarize_weights": False}
    work = retraining(data, real, stage)
    history: list[dict[str, torch.Tensor]] = []
    save = work._save

    def watch(path: Path) -> None:
        save(path)
        if work.position.stage == 1:
            history.append({n: conv.weight.detach().clone() for n, conv in binary_convolutions(work.network)})

    work._save = watch  # type: ignore[method-assign]
    run(work, tmp_path / "run")
    lines = read_metrics(tmp_path / "run")[1:]
    assert [line["fixed_share"] for line in lines] == [0.25, 0.75, 1.0, 1.0]
    for name, conv in binary_convolutions(work.network):
        weights = [epoch[name].flatten().numpy() for epoch in history]
        size = len(weights[0])
        for before, after, share in zip(weights, weights[1:], (0.25, 0.75, 1.0), strict=False):
            assert (before == after).sum() >= round(share * size)
        assert np.array_equal(weights[2], weights[3])
        top = np.abs(weights[3]).max()
        powers = {0.0, *(float(top * 2.0**-n) for n in range(2))} if top else {0.0}
        assert set(np.abs(weights[3]).tolist()) <= powers
        assert bool(conv.weight_binarizer.frozen.all())


def test_portions_resume_and_need_their_binarizer(data: Data, tmp_path: Path) -> None:
    stage = {**INQ, "portions": {"shares": [0.5, 1.0], "epochs_per_portion": 2}}
    states = resumed_states(data, tmp_path, 3, stage)
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    with pytest.raises(UserError, match=r"portions: '.*' has another weight binarizer; .*\{name: inq\}"):
        run(retraining(data, {"name": "s", "portions": {}}), tmp_path / "run")


def test_the_share_of_an_epoch() -> None:
    portions = Portions(shares=(0.5, 1.0), epochs_per_portion=2)
    assert [portions.share(epoch) for epoch in range(5)] == [0.5, 0.5, 1.0, 1.0, 1.0]


def products_error(conv: BinaryConv2d, x: torch.Tensor, weight: torch.Tensor) -> float:
    """How far inner products with binary weights are from those with real ones, by plain convolutions."""
    codes, scale = conv.weight_binarizer(conv.weight)[0]
    assert scale is not None
    signs = torch.where(x >= 0, 1.0, -1.0) if conv.binarize_activations else x
    geometry = (None, conv.stride, conv.padding, conv.dilation, conv.groups)
    real = nn.functional.conv2d(signs, weight, *geometry)
    binary = nn.functional.conv2d(signs, codes, *geometry) * scale
    return float((real - binary).square().sum().detach())


def test_hashing_brings_inner_products_nearer(data: Data, tmp_path: Path) -> None:
    bwnh = {"binarization": {"weight": {"name": "bwnh"}}}
    work = retraining(data, {"name": "s", "epochs": 2, "hashing": {"images": 8}, **bwnh})
    plain = retraining(data, {"name": "s", "epochs": 2, **bwnh})
    real = {name: conv.weight.detach().clone() for name, conv in binary_convolutions(work.network)}
    plain._enter(plain.stages[0])
    work._enter(work.stages[0])
    changed = 0
    for (name, conv), (_, other) in zip(
        binary_convolutions(work.network), binary_convolutions(plain.network), strict=True
    ):
        changed += int((conv.weight.sign() != other.weight.sign()).sum())
        assert torch.allclose(conv.weight.abs(), real[name].abs())
    assert changed > 0
    first_name, first = next(iter(binary_convolutions(work.network)))
    other = dict(binary_convolutions(plain.network))[first_name]
    seen: list[torch.Tensor] = []
    handle = first.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    images = next(work.train_batches.epoch(derived(work)))[0][:8]
    before = {name: value.clone() for name, value in work.network.state_dict().items()}
    with torch.no_grad():
        work.network.train()(images)
    handle.remove()
    work.network.load_state_dict(before)
    mine = products_error(first, seen[0], real[first_name])
    assert mine < products_error(other, seen[0], real[first_name])
    run(work, tmp_path / "run")


def derived(work: Retraining) -> int:
    from binas.run.seeds import derive_seed

    return derive_seed(work.seed, "order", "s", 0)


def test_hashing_leaves_running_statistics_and_needs_its_binarizer(data: Data) -> None:
    bwnh = {"binarization": {"weight": {"name": "bwnh"}}}
    work = retraining(data, {"name": "s", "hashing": {}, **bwnh})
    work._enter(work.stages[0])
    tracked = [
        value for name, value in work.network.state_dict().items() if name.endswith("num_batches_tracked")
    ]
    assert tracked and not any(tracked)
    other = retraining(data, {"name": "s", "hashing": {}})
    with pytest.raises(UserError, match=r"hashing: '.*' has another weight binarizer; .*\{name: bwnh\}"):
        other._enter(other.stages[0])


@pytest.mark.parametrize("norm", ["manhattan", "euclidean"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_the_weight_regularizer_is_the_distance_to_alpha(norm: Any, scale: float | None) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(BinaryConv2d(2, 3, 3), BinaryConv2d(3, 5, 1)).double()
    expected = 0.0
    for _, conv in binary_convolutions(model):
        w = np.abs(conv.weight.detach().numpy().reshape(len(conv.weight), -1))
        for filter_ in w:
            # torch's median is the lower one of two
            best = np.sort(filter_)[(len(filter_) - 1) // 2] if norm == "manhattan" else filter_.mean()
            alpha = best if scale is None else scale
            expected += (np.abs(filter_ - alpha) if norm == "manhattan" else (filter_ - alpha) ** 2).sum()
    config = WeightRegularizer(norm=norm, weight=0.1, scale=scale)
    assert float(config(model).detach()) == pytest.approx(0.1 * expected, rel=1e-12)


def test_regularized_weights_gather_around_alpha(data: Data, tmp_path: Path) -> None:
    def distance(work: Retraining) -> float:
        return float(WeightRegularizer(weight=1.0, scale=0.25)(work.network).detach())

    stage = {"name": "s", "epochs": 4, "optimizer": {"learning_rate": 1e-2}}
    free, drawn = retraining(data, stage), None
    run(free, tmp_path / "free")
    drawn = retraining(data, {**stage, "weight_regularizer": {"weight": 0.05, "scale": 0.25}})
    run(drawn, tmp_path / "drawn")
    assert distance(drawn) < 0.6 * distance(free)
    line = read_metrics(tmp_path / "drawn")[-1]
    assert line["train_loss"] > line["train_regularizer_loss"] > 0
    assert load_model(tmp_path / "drawn/checkpoint.pt", ())


WIDE = {
    "base": "binas",
    "operations": [
        "skip",
        "binary_conv_3x3",
        "binary_group_conv_3x3",
        "max_pool_3x3",
        "binary_dilated_conv_3x3",
    ],
    "num_nodes": 3,
    "grouping": {"channels_per_group": 2},
    "network": {
        "init_channels": 8,
        "num_cells": 4,
        "reductions": [1, 3],
        "stem_multiplier": 2,
        "batch_norm_affine": True,
    },
}
SPARSE = {"name": "s", "epochs": 3, "batch_norm_sparsity": 0.02, "optimizer": {"learning_rate": 1e-2}}


def test_the_sparsity_penalty_shrinks_scales(data: Data, tmp_path: Path) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(2, affine=False), nn.BatchNorm1d(2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([0.5, -2.0, 0.0]))
    assert float(batch_norm_penalty(model).detach()) == 0.5 + 2.0 + 2.0
    sums = []
    for change in ({}, {"batch_norm_sparsity": None}):
        work = retraining(data, {**SPARSE, **change}, space=load_space(WIDE))
        run(work, tmp_path / "run")
        sums.append(float(batch_norm_penalty(work.network).detach()))
    assert sums[0] < 0.95 * sums[1]
    with pytest.raises(UserError, match="no batch-norm of the network has a scale"):
        run(retraining(data, SPARSE, network={"batch_norm_affine": False}), tmp_path / "run")


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_squeezing_keeps_what_the_kept_channels_compute(seed: int) -> None:
    """Real-valued, with the taken channels read by nothing, both networks compute the same."""
    work = real_network(seed)
    network = work.network
    assert isinstance(network, Network)
    small, structure, channels = squeezed(network, work.structure, 4)
    kept = channels["kept"]
    nodes = 3

    def read_only(weight: torch.Tensor, positions: list[int], dim: int = 1) -> None:
        gone = [i for i in range(weight.shape[dim]) if i not in positions]
        weight.data.index_fill_(dim, torch.tensor(gone, dtype=torch.long), 0.0)

    def output(index: int) -> list[int]:
        if index < 0:
            return list(kept["stem"])
        size = network.plans[index].channels
        return [node * size + channel for node in range(nodes) for channel in kept[f"cells.{index}"]]

    for index, cell in enumerate(network.cells):
        for source, module in cell.preprocess.items():
            read_only(module[1].weight, output(index - 2 + int(source)))
        for conv in (m for m in cell.edges.modules() if isinstance(m, BinaryConv2d) and m.groups == 1):
            read_only(conv.weight, kept[f"cells.{index}"])
        if hasattr(cell.skip, "reduce"):
            read_only(cell.skip.reduce.weight, output(index - 1))
    read_only(network.classifier.weight, output(3))
    small, structure, again = squeezed(network, work.structure, 4)
    assert again == channels
    assert structure.settings is not None and structure.settings.init_channels == 4
    images = torch.randn(3, 1, 9, 9)
    with torch.no_grad():
        assert torch.allclose(small(images), network.eval()(images), atol=1e-5)  # sums in another order


def real_network(seed: int) -> Retraining:
    """A real-valued network with scales and statistics that differ from channel to channel."""
    few = open_data(DataConfig(name="synthetic", images_per_class=12, num_classes=3))
    config = build(
        RetrainConfig,
        {"stages": [{"name": "s", "epochs": 1, "binarize_activations": False, "binarize_weights": False}]},
        "test",
    )
    genotype = random_genotype(load_space(WIDE), random.Random(seed))
    work = Retraining(genotype, config, few, seed=seed, device=torch.device("cpu"), tensorboard=False)
    torch.manual_seed(seed)
    for module in work.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return work


def test_the_channels_of_the_largest_scales_stay() -> None:
    works = (real_network(seed) for seed in range(5, 25))
    work = next(work for work in works if ChannelPlan(work.network).unit == 2)  # type: ignore[arg-type]
    expected = torch.zeros(16)
    for name, module in work.network.named_modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine and name.startswith("cells."):
            _, index, part, *rest = name.split(".")
            magnitude = module.weight.detach().abs()
            if part == "edges" and index in ("1", "2"):
                expected += magnitude
            source = int(index) - 2 + int(rest[0]) if part == "preprocess" else int(index) - 1
            if part in ("preprocess", "skip") and source in (1, 2):
                expected += magnitude.view(3, 16).sum(dim=0)
    _, _, channels = squeezed(work.network, work.structure, 4)
    kept = channels["kept"]["cells.1"]
    assert kept == channels["kept"]["cells.2"] != channels["kept"]["cells.3"]
    groups = expected.view(2, 4, 2).sum(dim=2)  # halves of a strided skip, groups of two channels
    best = sorted(
        half * 8 + 2 * int(group) + inside
        for half in range(2)
        for group in groups[half].argsort(descending=True)[:2]
        for inside in range(2)
    )
    assert kept == best


def test_nothing_changes_where_all_channels_stay() -> None:
    work = real_network(6)
    small, _, channels = squeezed(work.network, work.structure, 8)
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(small(images), work.network.eval()(images))
    assert channels["kept"]["cells.0"] == list(range(8))


def test_squeezed_from_file_and_trained_on(data: Data, tmp_path: Path) -> None:
    space = load_space(WIDE)
    run(retraining(data, SPARSE, space=space), tmp_path / "wide")
    path, output = tmp_path / "wide/checkpoint.pt", tmp_path / "small.pt"
    words = squeeze_file(path, 4, output, ())
    assert "4 of 8 channels" in words
    document = json.loads((tmp_path / "small.json").read_text())
    assert document["from"] == "checkpoint.pt" and document["init_channels"] == [8, 4]
    assert [len(document["kept"][f"cells.{i}"]) for i in range(4)] == [4, 8, 8, 16]
    network, _, _ = load_model(output, ())
    assert isinstance(network, Network) and network.settings.init_channels == 4
    assert all(report.is_binary for report in check_network(network, torch.randn(2, 1, 8, 8)))
    stage = {"name": "on", "epochs": 1, "initial_checkpoint": str(output)}
    work = retraining(data, stage, space=space, network={"init_channels": 4})
    work._enter(work.stages[0])
    assert all(torch.equal(v, work.network.state_dict()[n]) for n, v in network.state_dict().items())
    run(work, tmp_path / "on")
    with pytest.raises(UserError, match=r"small.pt is there already; name another one"):
        squeeze_file(path, 4, output, ())


def test_what_cannot_be_squeezed_is_told(data: Data, tmp_path: Path) -> None:
    work = retraining(data, {"name": "s"}, network={"batch_norm_affine": False})
    with pytest.raises(UserError, match=r"no scales to tell channels by; .*batch_norm_affine: true"):
        squeezed(work.network, work.structure, 2)
    wide = real_network(0)
    with pytest.raises(UserError, match="9 channels of the first cell: the network has 8; give 1 to 8"):
        squeezed(wide.network, wide.structure, 9)
    with pytest.raises(UserError, match="3 channels of the first cell is not a multiple of 2"):
        squeezed(wide.network, wide.structure, 3)
    fixed = load_space({**WIDE, "grouping": {"channels_per_group": None, "groups": 2}})
    genotype = next(
        genotype
        for genotype in (random_genotype(fixed, random.Random(seed)) for seed in range(50))
        if "binary_group_conv_3x3" in genotype.pruned().operations()
    )
    config = build(RetrainConfig, {"stages": [{"name": "s"}]}, "test")
    grouped = Retraining(genotype, config, data, seed=0, device=torch.device("cpu"), tensorboard=False)
    with pytest.raises(UserError, match="group convolution with a fixed number of groups"):
        squeezed(grouped.network, grouped.structure, 4)
    with pytest.raises(UserError, match="published one"):
        squeezed(nn.Linear(2, 2), wide.structure, 4)


def test_the_command_squeezes(done: Path, binas: Runner) -> None:
    words = ["retrain", "--config", "tiny.yaml", "--genotype", "runs/tiny/genotype.json", "--name", "wide"]
    affine = ["--retrain.network.batch_norm_affine", "true", "--retrain.stages.1.batch_norm_sparsity", "1e-3"]
    status, _, error = binas(*words, *affine)
    assert status == 0, error
    status, output, error = binas(
        "squeeze", "runs/wide/checkpoint.pt", "--init-channels", "2", "-o", "small.pt"
    )
    assert status == 0 and "2 of 4 channels" in output, error
    for command in ("eval", "check", "profile"):
        status, _, error = binas(command, "small.pt")
        assert status == 0, error
    status, _, error = binas(
        *words[:-1],
        "on",
        *affine[:2],
        "--retrain.network.init_channels",
        "2",
        "--retrain.stages.0.initial_checkpoint",
        "small.pt",
    )
    assert status == 0, error
