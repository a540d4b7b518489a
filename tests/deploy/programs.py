"""Networks for the tests of export, and their programs compiled in several ways."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from binas.deploy.export import export_module
from binas.deploy.model_file import Model
from binas.deploy.runtime import Loaded

KEEPS = ("BINAS_KEEP_SUMS",)


def shaken(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in evaluation mode with batch-norms and slopes as after training."""
    torch.manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 2)
            if part.affine:
                nn.init.normal_(part.weight, 1, 0.4)
                nn.init.normal_(part.bias, 0, 0.3)
        if isinstance(part, nn.PReLU):
            nn.init.normal_(part.weight, 0.2, 0.3)
    return module.eval()


def exported(module: nn.Module, *size: int) -> Model:
    """A module as a model, for images (C, H, W)."""
    return export_module(module, torch.zeros(1, *size))


def image_of(model: Model, seed: int = 0) -> np.ndarray[Any, Any]:
    """An image that the model takes."""
    return np.random.default_rng(seed).normal(size=model.graph.input_shape).astype(np.float32)


def check_reference(module: nn.Module, model: Model, seed: int = 0) -> None:
    """The reference gives the module's scores but for rounding."""
    from binas.deploy import reference

    image = image_of(model, seed)
    scores = reference.run(model.graph, image)[model.graph.output].reshape(-1)
    with torch.no_grad():
        theirs = module(torch.from_numpy(image.transpose(2, 0, 1)[None]))[0].numpy()
    assert np.abs(scores - theirs).max() <= 1e-4 * max(np.abs(theirs).max(), 1e-3)


def check_program(module: nn.Module, model: Model, arch: str = "-march=native", images: int = 2) -> None:
    """The C program gives the reference's bits in all sums and scores, and the module's scores nearly."""
    from binas.deploy import reference

    loaded = Loaded(model, arch=arch, defines=KEEPS)
    binary = [node for node in model.graph.nodes if node.op == "binary_convolution"]
    for seed in range(images):
        image = image_of(model, seed)
        values = reference.run(model.graph, image)
        scores = loaded.scores(image)
        for node, sums in zip(binary, loaded.sums(range(len(binary))), strict=True):
            assert np.array_equal(sums, values[node.name]), f"{arch}: sums of {node.source}"
        assert np.array_equal(scores, values[model.graph.output].reshape(-1)), arch
        with torch.no_grad():
            theirs = module(torch.from_numpy(image.transpose(2, 0, 1)[None]))[0].numpy()
        assert np.abs(scores - theirs).max() <= 1e-4 * max(np.abs(theirs).max(), 1e-3), arch
