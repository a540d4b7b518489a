"""What steps of a search and a retraining can do, those of candidates and of a shared network do too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from binas.data.config import DataConfig
from binas.data.open_data import Data, open_data
from binas.errors import UserError
from binas.evolve.config import EvolveConfig
from binas.evolve.evaluators.candidate import ShortTraining
from binas.evolve.evaluators.shared import SharedNetwork
from binas.evolve.problems.open_problem import open_problem
from binas.models import ModelChoice

CPU = torch.device("cpu")
TOO_FAST = {"name": "sgd", "learning_rate": 1e30}


@pytest.fixture(scope="module")
def data() -> Data:
    return open_data(DataConfig(name="synthetic", images_per_class=12, num_classes=3))


def weights_after(
    data: Data, how: str, folder: Path, stage: dict[str, Any], **more: Any
) -> list[torch.Tensor]:
    """The parameters of a network that was trained as a candidate or as what candidates share."""
    settings = (
        {"training": {"batch_size": 12, "stages": [{"name": "short", "epochs": 1, **stage}], **more}}
        if how == "candidate"
        else {"shared": {"batch_size": 12, "stage": {"epochs": 1, **stage}, **more}}
    )
    config = EvolveConfig.model_validate({"evaluations": 4, "width": {"ratios": (0.5, 1)}, **settings})
    choice = ModelChoice.model_validate({"name": "vgg_small", "width": 0.0625})
    problem = open_problem(config, choice, {}, data)
    if how == "shared":
        shared = SharedNetwork(problem, config.shared, data, 0, CPU, folder / "shared.pt")
        shared.train()
        return [parameter.detach() for parameter in shared.network.parameters()]
    kept: list[nn.Module] = []
    training = ShortTraining(
        problem, config.training, data, 0, CPU, start=lambda _, network: kept.append(network)
    )
    judgement = training(problem.space.nth(0), 0)
    if judgement.loss is None:
        raise UserError(judgement.note)
    return [parameter.detach() for parameter in kept[0].parameters()]


@pytest.mark.parametrize("how", ["candidate", "shared"])
@pytest.mark.parametrize(
    ("stage", "more", "near"),
    [
        ({}, {"acceleration": {"mixed_precision": "bfloat16"}}, True),
        ({}, {"micro_batch": 4}, True),
        ({"batch_norm_sparsity": 10.0}, {}, False),
        ({"weight_regularizer": {"weight": 1.0, "scale": 0.5}}, {}, False),
    ],
    ids=["mixed precision", "micro batches", "sparsity", "regularizer"],
)
def test_it_takes_effect(
    data: Data, how: str, stage: dict[str, Any], more: dict[str, Any], near: bool, tmp_path: Path
) -> None:
    plain = weights_after(data, how, tmp_path / "plain", {})
    other = weights_after(data, how, tmp_path / "other", stage, **more)
    assert any(not torch.equal(a, b) for a, b in zip(plain, other, strict=True))
    if near:
        assert all(torch.allclose(a, b, atol=0.5) for a, b in zip(plain, other, strict=True))


@pytest.mark.parametrize("how", ["candidate", "shared"])
def test_what_is_no_number_is_told(data: Data, how: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?i)nan|not a number|infinite|finite"):
        weights_after(data, how, tmp_path, {"optimizer": TOO_FAST})
