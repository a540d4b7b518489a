"""`count` and `Limits`, which searches take; run folders; parts, reasons and precisions of a profile."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from binas.arch.sample import random_genotype
from binas.arch.space import NetworkSettings, load_space
from binas.binarize import Binarization, BinarizerSpec
from binas.errors import UserError
from binas.models import ModelChoice, Task, build_model
from binas.profile import TOTALS, Limits, Profile, count, profile_genotype, profile_module
from binas.profile.cost import WHY_ACTIVATION, WHY_BINARIZER, WHY_UNSAID, LayerCost
from binas.profile.table import parts_of, to_table

Runner = Callable[..., tuple[int, str, str]]


def built(choice: ModelChoice) -> nn.Module:
    return build_model(choice, Task(3, (32, 32), 10, ()))


# ---- count


def test_a_genotype_is_counted_without_being_built() -> None:
    genotype = random_genotype(load_space("binas"), random.Random(3))
    settings = NetworkSettings(num_cells=4, init_channels=8)
    assert count(genotype, (17, 9), 7, 1) == profile_genotype(genotype, 1, (17, 9), 7)
    assert count(genotype, settings=settings) == profile_genotype(genotype, 3, (32, 32), 10, settings)
    real = count(genotype, binarize_weights=False)
    assert real.bops == 0 and real.binary_parameters == 0


@pytest.mark.parametrize("name", ["resnet20", "bnas_mini", "bats_cifar"])
def test_a_published_network_is_counted_by_name_choice_or_module(name: str) -> None:
    by_name = count(name).totals()
    assert by_name == count(ModelChoice(name=name)).totals()
    with torch.device("meta"):
        module = count(built(ModelChoice(name=name))).totals()
    del by_name["parameters_as_published"], module["parameters_as_published"]
    assert by_name == module


def test_a_count_is_of_no_numbers() -> None:
    """A network of a gigabyte is counted in the memory of none."""
    before = torch.get_rng_state()
    assert count("autobnn_resnet18_b", (224, 224), 1000).parameters > 100_000_000
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("wrong", ["reactnet", "", ModelChoice])
def test_what_cannot_be_counted_is_told(wrong: Any) -> None:
    if wrong is ModelChoice:
        with pytest.raises(UserError, match=r"(settings|stages) are for genotypes"):
            count("resnet20", settings=NetworkSettings())
        return
    with pytest.raises(UserError, match="unknown model"):
        count(wrong)


def test_every_measure_is_a_total() -> None:
    assert set(TOTALS) == set(count("resnet20").totals())


COST = Profile(
    (LayerCost("conv", "convolution", (1,), (1,), 1, 1, binary_parameters=64, flops=10, bops=640),)
)


@pytest.mark.parametrize(
    ("limits", "excess", "holds"),
    [
        ({}, {}, True),
        ({"ops": 20}, {"ops": 0.0}, True),
        ({"ops": 40, "parameters": 32}, {"ops": -0.5, "parameters": 1.0}, False),
        ({"bits": 128, "bops": 640}, {"bits": -0.5, "bops": 0.0}, True),
        ({"flops": 0}, {"flops": 10.0}, False),
    ],
    ids=str,
)
def test_limits(limits: dict[str, Any], excess: dict[str, float], holds: bool) -> None:
    found = Limits(**limits)
    assert found.excess(COST) == excess
    assert found.holds(COST) is holds


def test_limits_choose_among_random_genotypes() -> None:
    generator = random.Random(0)
    costs = [count(random_genotype(load_space("binas"), generator), (8, 8)) for _ in range(12)]
    median = sorted(cost.ops for cost in costs)[5]
    assert sum(Limits(ops=median).holds(cost) for cost in costs) == 6


# ---- against torch's own counter


@pytest.mark.parametrize(
    "name",
    [
        "real_to_binary_resnet18",
        "bireal_resnet50",
        "binary_densenet28",
        "meliusnet_a",
        "reactnet_b",
        "mobinet",
    ],
)
def test_operations_are_those_that_torch_counts(name: str) -> None:
    """torch counts two for a multiply-accumulate and knows of no signs: FLOPs and BOPs together."""
    with torch.device("meta"), torch.no_grad():
        network = built(ModelChoice(name=name, width=0.25))
        profile = profile_module(network, 3, (32, 32))
        with FlopCounterMode(display=False) as counter:
            network.eval()(torch.zeros(1, 3, 32, 32))
    assert 2 * (profile.flops + profile.bops) == counter.get_total_flops()


# ---- networks by hand


def test_reactnets_widening_convolutions_by_hand() -> None:
    """B and C make all five 1×1 convolutions that double the channels real-valued, B in four groups."""
    widths, side = (32, 64, 128, 256, 512, 1024), 112
    macs = 0
    for before, after in pairwise(widths):
        side //= 1 if before == 32 else 2
        macs += before * after * side**2
    a, b, c = (count(f"reactnet_{letter}", (224, 224), 1000) for letter in "abc")
    assert b.bops == c.bops == a.bops - macs
    assert (b.flops - a.flops, c.flops - a.flops) == (macs // 4, macs)


def test_bnas_a_with_what_nothing_reads() -> None:
    """The released network also runs the second input of its reduction cells, which nothing reads."""
    profile = count("bnas_a")
    bops = profile.bops + sum(layer.bops for layer in profile.unread)
    assert round(bops / 1e9, 4) == 0.6967


# ---- what the table says


def test_every_real_layer_has_a_reason() -> None:
    for name in ("reactnet_a", "bats_cifar", "real_to_binary_resnet18", "bireal_resnet50"):
        profile = count(name)
        assert WHY_UNSAID not in {layer.reason for layer in profile.layers}, name
        assert all(bool(layer.reason) == bool(layer.real_parameters) for layer in profile.layers)
        rows = profile.to_json()["layers"]
        assert all(row["why_real"] for row in rows if row["real_parameters"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"real_parameters": 0, "why_real": "first layer"}, ""),
        ({"real_parameters": 3, "why_real": "first layer"}, "first layer"),
        ({"real_parameters": 3, "binary_parameters": 9}, WHY_BINARIZER),
        ({"real_parameters": 3, "kind": "activation"}, WHY_ACTIVATION),
        ({"real_parameters": 3}, WHY_UNSAID),
    ],
)
def test_reasons(changes: dict[str, Any], reason: str) -> None:
    fields: dict[str, Any] = {"name": "x", "kind": "convolution", "input_shape": (1,), "output_shape": (1,)}
    assert LayerCost(**fields | changes).reason == reason


def test_precisions_add_up() -> None:
    stage = Binarization(
        activation=BinarizerSpec(name="sign"), weight=BinarizerSpec.model_validate({"name": "twn"})
    )
    genotype = random_genotype(load_space("binas"), random.Random(1))
    profile = count(genotype, binarization=stage)
    found = profile.by_precision()
    assert next(iter(found)) == "2-bit weights" and found["2-bit weights"][1] == 2 * profile.binary_parameters
    assert sum(count for count, _ in found.values()) == profile.parameters
    assert sum(bits for _, bits in found.values()) == profile.bits
    assert profile.to_json()["by_precision"]["2-bit weights"]["bits"] == found["2-bit weights"][1]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("reactnet_a", ["stem", *(f"blocks.{block}" for block in range(13)), "head"]),
        ("bireal_resnet50", ["stem", *(f"stages.blocks.{block}" for block in range(16)), "head"]),
        ("bats_cifar", ["stem", *(f"cell {cell}" for cell in range(20)), "head"]),
    ],
)
def test_parts_are_stem_blocks_and_head(name: str, parts: list[str]) -> None:
    assert [part for part, _ in parts_of(count(name))] == parts


def test_a_layer_shows_its_letter() -> None:
    table = to_table(count("resnet20"), layers=True).splitlines()
    assert next(line for line in table if line.startswith("stem.0")).endswith("   a")
    assert any(line.startswith("  a 432 in stem.0: first layer") for line in table)


# ---- the command on run folders


def test_run_folders_are_profiled(binas: Runner, done: Path) -> None:
    folders = ("runs/tiny", "runs/tiny_retrain")
    files = ("runs/tiny/genotype.json", "runs/tiny_retrain/checkpoint.pt")
    for folder, file in zip(folders, files, strict=True):
        status, out, _ = binas("profile", folder, "--json", "-")
        assert status == 0 and json.loads(out) == json.loads(binas("profile", file, "--json", "-")[1])
        assert {"parameters", "parameters_as_published", "binary_parameters", "bits", "flops", "bops", "ops"}
        assert json.loads(out)["bops"] > 0


def test_folders_without_a_network_are_told(binas: Runner, done: Path) -> None:
    (done / "runs/tiny_retrain/checkpoint.pt").unlink()
    status, _, error = binas("profile", "runs/tiny_retrain")
    assert status == 2 and "checkpoint.pt" in error and "--resume" in error
    (done / "empty").mkdir()
    status, _, error = binas("profile", "empty")
    assert status == 2 and "empty" in error and "Traceback" not in error
