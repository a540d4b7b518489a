"""Images that a program and its network do not answer alike are listed, with the reason."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import binas
from binas.deploy import reference
from binas.deploy.agreement import compare, nearest_threshold
from binas.deploy.graph import Array
from tests.deploy.programs import exported, shaken


def small() -> nn.Module:
    torch.manual_seed(0)
    return shaken(
        nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            binas.nn.BinaryConv2d(4, 8, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 3),
        )
    )


def test_equal_programs_list_nothing() -> None:
    module = small()
    graph = exported(module, 1, 6, 6).graph
    images = torch.randn(20, 1, 6, 6)
    found = compare(lambda x: reference.run(graph, x)[graph.output].reshape(-1), graph, module, images)
    assert found.same_class == found.images == 20 and not found.differing and found.largest < 1e-5
    assert "20 of 20" in str(found) and "rounding" not in str(found)


def test_a_sign_that_rounding_decides_is_listed_and_another_is_not_excused() -> None:
    module = small()
    graph = exported(module, 1, 6, 6).graph
    image = torch.randn(1, 1, 6, 6)
    step = next(node for node in graph.nodes if node.op == "step")
    numbers = reference.run(graph, image[0].permute(1, 2, 0).numpy())[step.inputs[0]]
    distance = nearest_threshold(graph, image[0].permute(1, 2, 0).numpy())
    assert 0 < distance <= float(np.abs(numbers).min()) + 1

    def wrong(x: Array) -> Array:
        return reference.run(graph, x)[graph.output].reshape(-1)[::-1]

    found = compare(wrong, graph, module, image)
    assert [one.image for one in found.differing] == [0]
    assert len(found.unexplained) == (distance > 1e-5)
    # a number brought to within rounding of its threshold excuses the difference
    at = np.unravel_index(np.abs(numbers).argmin(), numbers.shape)
    bias = module[0].bias
    with torch.no_grad():
        bias[at[2]] -= float(numbers[at]) * (1 - 1e-7) - 1e-9
    graph = exported(module, 1, 6, 6).graph
    assert nearest_threshold(graph, image[0].permute(1, 2, 0).numpy()) <= 1
