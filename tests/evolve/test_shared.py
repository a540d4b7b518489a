"""Parts of a shared network: the right weights, gradients only there, and the loss of the network alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call

from binas.arch.genotype import read_genotype
from binas.arch.slices import conv_part
from binas.binarize import BinaryConv2d
from binas.config import find_file
from binas.data.config import DataConfig
from binas.data.open_data import Data, open_data
from binas.errors import UserError
from binas.evolve.config import EvolveConfig
from binas.evolve.evaluators.identity import is_samples_identity, is_shared_identity, samples_identity
from binas.evolve.evaluators.part import part_of
from binas.evolve.evaluators.shared import SharedNetwork
from binas.evolve.problems.open_problem import open_problem
from binas.evolve.problems.problem import Problem, Variant, profile_of, reference_cost
from binas.models import ModelChoice
from binas.ops import OPS
from binas.profile import Limits
from binas.train.stage import StageConfig


@pytest.fixture(scope="module")
def data() -> Data:
    return open_data(DataConfig(name="synthetic", images_per_class=12, num_classes=3))


def model(**options: Any) -> ModelChoice:
    return ModelChoice.model_validate(options)


def topologies() -> dict[str, tuple[Variant, dict[str, Any], dict[str, Any]]]:
    """Networks, changes to them, and changes to the settings of their evolution."""
    genotype = read_genotype(find_file("bnas_latest_cell", "genotypes"), OPS)
    small = {"init_channels": 8, "num_cells": 3}
    ratios = {"width": {"ratios": (0.5, 1, 2)}}
    return {
        "vgg": (model(name="vgg_small", width=0.0625), {}, ratios),
        "resnet": (model(name="autobnn_resnet18", width=0.0625, stem="cifar"), {}, ratios),
        "cells": (genotype, small, ratios),
        "groups": (model(name="mobilenet_group", width=0.5, stem="cifar"), {}, {"search": "groups"}),
    }


def problem_of(name: str, data: Data, **more: Any) -> tuple[Problem, EvolveConfig]:
    what, network, changes = topologies()[name]
    config = EvolveConfig.model_validate({"evaluations": 4, **changes, **more})
    return open_problem(config, what, network, data), config


NAMES = ["vgg", "resnet", "cells", "groups"]


@pytest.mark.parametrize("name", NAMES)
def test_a_part_computes_what_the_network_alone_does_and_moves_only_its_weights(
    name: str, data: Data
) -> None:
    problem, _ = problem_of(name, data)
    torch.manual_seed(0)
    shared = problem.structure(problem.largest()).build_network()
    genome = problem.space.nth(problem.space.size // 3)
    candidate = problem.structure(genome).build_network()
    with torch.device("meta"):
        empty = problem.structure(genome).build_network()
    part = part_of(shared, candidate)
    with torch.no_grad():
        tensors = {**dict(candidate.named_parameters()), **dict(candidate.named_buffers())}
        for key, tensor in tensors.items():
            tensor.copy_(part[key])
    images = torch.randn(6, data.channels, *data.image_size)
    alone = candidate(images)
    together = functional_call(empty, part_of(shared, empty), (images,), strict=True)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)  # other kernels for other strides
    together.square().sum().backward()
    whole = dict(shared.named_parameters())
    assert all(whole[key].grad is not None for key, _ in candidate.named_parameters())
    own = sum(parameter.numel() for parameter in candidate.parameters())
    moved = sum(int((p.grad != 0).sum()) for p in shared.parameters() if p.grad is not None)
    assert 0 < moved <= own < sum(p.numel() for p in shared.parameters())


def test_a_grouped_part_keeps_each_connection_of_the_whole() -> None:
    """Against the definition, connection by connection."""
    for wide_groups, groups in ((1, 4), (2, 4), (2, 8), (4, 4)):
        wide = BinaryConv2d(8, 16, 3, groups=wide_groups)
        conv = BinaryConv2d(8, 16, 3, groups=groups)
        found = conv_part(wide.weight, conv, wide)
        assert found is not None
        for output in range(16):
            for place in range(8 // groups):
                source = output // (16 // groups) * (8 // groups) + place
                first = output // (16 // wide_groups) * (8 // wide_groups)
                assert torch.equal(found[output, place], wide.weight[output, source - first])


def test_groups_that_cross_are_told() -> None:
    wide, conv = BinaryConv2d(12, 12, 1, groups=3), BinaryConv2d(12, 12, 1, groups=4)
    with pytest.raises(UserError, match=r"groups of a candidate cross .*divide each other"):
        part_of(nn.Sequential(wide), nn.Sequential(conv))


def test_what_is_no_part_is_told() -> None:
    with pytest.raises(UserError, match="is no part of the widest network's; use evaluation: short"):
        part_of(nn.Sequential(nn.Linear(3, 3)), nn.Sequential(nn.Linear(4, 3)))


@pytest.mark.parametrize("name", NAMES)
def test_costs_are_told_before_training_and_grow_with_the_genes(name: str, data: Data) -> None:
    problem, _ = problem_of(name, data)
    problem.measure(Limits.model_validate({"ops": 1e5, "bits": 1e12}))
    largest, smallest = problem.largest(), problem.space.nth(0)
    if smallest == largest:
        smallest = problem.space.nth(problem.space.size - 1)
    assert problem.cost(smallest).ops < problem.cost(largest).ops
    built = profile_of(problem.structure(largest))
    assert built.ops == problem.cost(largest).ops and built.bits == problem.cost(largest).bits
    excess = problem.limits.excess_of(problem.cost(largest).measured)
    assert excess["ops"] == pytest.approx(built.ops / 1e5 - 1) and excess["bits"] < 0
    assert reference_cost(problem) == min(1e5, built.ops)


def test_groups_are_those_that_divide_each_blocks_channels(data: Data) -> None:
    problem, _ = problem_of("groups", data, groups={"groups": (1, 3, 4, 64)})
    choices = [gene.choices for gene in problem.space.genes]
    assert choices[0] == (1, 4) and choices[-1] == (1, 4, 64) and len(choices) == 13
    with pytest.raises(
        UserError, match=r"evolve.groups.groups: none of 3 divides the 16 channels of block 0"
    ):
        problem_of("groups", data, groups={"groups": (3,)})


def test_a_cell_goes_without_widths_that_its_groups_do_not_divide(data: Data) -> None:
    what = read_genotype(find_file("bnas_latest_cell", "genotypes"), OPS)
    config = EvolveConfig.model_validate({"evaluations": 2, "width": {"ratios": (0.25, 0.5, 1, 2)}})
    small = {"init_channels": 8, "num_cells": 3}
    fitting = [gene.choices for gene in open_problem(config, what, small, data).space.genes]
    assert all(1.0 in choices and 2.0 in choices for choices in fitting)
    grouped = any("group" in op for op in what.operations())
    assert grouped == (0.25 not in fitting[0]), "2 channels are not divided by 4"


def test_networks_without_such_genes_are_told(data: Data) -> None:
    config = EvolveConfig(evaluations=2)
    with pytest.raises(UserError, match="network 'vgg10' has no option 'ratios'"):
        open_problem(config, model(name="vgg10"), {}, data)
    with pytest.raises(UserError, match="groups: is for a published network"):
        open_problem(config.model_copy(update={"search": "groups"}), topologies()["cells"][0], {}, data)


def test_training_the_shared_network_helps_its_parts_and_goes_on_where_it_was(
    data: Data, tmp_path: Path
) -> None:
    stage = {"epochs": 6, "optimizer": {"learning_rate": 1e-2}}
    problem, config = problem_of("vgg", data, shared={"stage": stage, "batch_size": 9})
    device = torch.device("cpu")

    def network(file: str, epochs: int = 6) -> SharedNetwork:
        shared = SharedNetwork(problem, config.shared, data, 0, device, tmp_path / file)
        shared.stage = shared.stage.model_copy(update={"epochs": epochs})
        return shared

    genomes = [problem.largest(), *map(problem.space.nth, (problem.space.size // 3, problem.space.size // 2))]
    fresh = network("whole.pt")
    before = [fresh(genome, 0).loss for genome in genomes]
    fresh.train()
    after = [fresh(genome, 0).loss for genome in genomes]
    assert sum(filter(None, after)) < sum(filter(None, before))
    assert [fresh(genome, 0) for genome in genomes] == [fresh(genome, 0) for genome in genomes]
    # stopped after an epoch and trained on: what an interrupted process leaves is the file of that epoch
    real_epoch = SharedNetwork._epoch

    def stopping(self: SharedNetwork, position: int, *rest: Any) -> None:
        if position == 2:
            raise KeyboardInterrupt
        real_epoch(self, position, *rest)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SharedNetwork, "_epoch", stopping)
        network("stopped.pt").train()
    again = network("stopped.pt")
    again.train()
    for key, tensor in fresh.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[key]), key


def test_settings_of_the_one_epoch_work_for_a_shared_network(data: Data, tmp_path: Path) -> None:
    """Those that once were read by retraining alone: regularizers, 16-bit arithmetic, micro-batches."""

    def trained(name: str, stage: dict[str, Any], **more: Any) -> nn.Module:
        changes = {
            "stage": {"epochs": 1, "optimizer": {"learning_rate": 0.02}, **stage},
            "batch_size": 9,
            **more,
        }
        problem, config = problem_of("vgg", data, shared=changes)
        shared = SharedNetwork(problem, config.shared, data, 0, torch.device("cpu"), tmp_path / name)
        shared.train()
        return shared.network

    def distance(network: nn.Module) -> float:
        weights = [m.weight for m in network.modules() if isinstance(m, BinaryConv2d)]
        return sum(float((weight.detach().abs() - 0.5).abs().sum()) for weight in weights)

    def scales(network: nn.Module) -> float:
        return sum(
            float(m.weight.detach().abs().sum()) for m in network.modules() if isinstance(m, nn.BatchNorm2d)
        )

    plain = trained("plain.pt", {})
    regularized = trained("regularized.pt", {"weight_regularizer": {"weight": 1.0, "scale": 0.5}})
    assert distance(regularized) < 0.99 * distance(plain)
    assert scales(trained("sparse.pt", {"batch_norm_sparsity": 10.0})) < 0.99 * scales(plain)


def test_files_of_a_version_without_later_settings_are_ones_own(data: Data, tmp_path: Path) -> None:
    problem, config = problem_of("cells", data, shared={"stage": {"epochs": 1}})
    network = SharedNetwork(problem, config.shared, data, 0, torch.device("cpu"), tmp_path / "n.pt")
    own = network.identity()
    older = {**own, "config": {**own["config"]}}
    del older["config"]["micro_batch"], older["config"]["acceleration"]
    assert is_shared_identity(older, own)
    older["config"]["micro_batch"] = 3
    assert not is_shared_identity(older, own) and not is_shared_identity(["damaged"], own)
    samples = samples_identity(own, 8, config.training, config.joint)
    older["config"]["micro_batch"] = None
    assert is_samples_identity(samples_identity(older, 8, config.training, config.joint), samples)
    assert not is_samples_identity(samples_identity(older, 9, config.training, config.joint), samples)


def test_a_shared_network_of_another_seed_is_told(data: Data, tmp_path: Path) -> None:
    problem, config = problem_of("vgg", data, shared={"stage": {"epochs": 1}})
    for seed in (0, 1):
        network = SharedNetwork(problem, config.shared, data, seed, torch.device("cpu"), tmp_path / "n.pt")
        if seed == 0:
            network.train()
            continue
        with pytest.raises(UserError, match="is the shared network of another recipe or seed"):
            network.train()


def test_settings_that_would_not_be_used_are_refused() -> None:
    for settings, words in (
        ({"training": {"stages": [{"name": "a", "until_plateau": 3}]}}, "stages.0.until_plateau"),
        ({"training": {"drop_path": 0.1}}, "drop_path"),
        ({"training": {"micro_batch": "auto"}}, "micro_batch"),
        ({"training": {"keep": "best"}}, "keep: a candidate's short training"),
        ({"training": {"validation_fraction": 0.2}}, "validation_fraction: a candidate's short training"),
        ({"training": {"validation_images": "last"}}, "validation_images: a candidate's short training"),
        ({"training": {"log_positive_share": True}}, "log_positive_share: a candidate's short training"),
        ({"shared": {"micro_batch": "auto"}}, "micro_batch: give a number"),
        ({"shared": {"stage": {"layerwise": {}}}}, "stage.layerwise: a shared network"),
        ({"shared": {"stage": {"portions": {}}}}, "stage.portions: a shared network"),
        ({"shared": {"stage": {"optimizer": {"name": "bop"}}}}, "bop"),
        ({"width": {"ratios": [2, 1]}}, "ascending"),
        ({"groups": {"groups": [0, 1]}}, "ascending"),
        ({"population": 4, "operators": {"parents": 9}}, "operators.parents"),
    ):
        with pytest.raises(ValueError, match=words):
            EvolveConfig.model_validate(settings)


def test_changes_keep_the_rest_of_the_defaults() -> None:
    config = EvolveConfig.model_validate({"training": {"batch_size": 7}, "shared": {"stage": {"epochs": 2}}})
    default = EvolveConfig()
    assert config.training.stages == default.training.stages and config.training.batch_size == 7
    assert isinstance(config.shared.stage, StageConfig)
    assert config.shared.stage.optimizer == default.shared.stage.optimizer
