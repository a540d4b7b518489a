"""What a program decides beside the network that it was made of, image by image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from binas.deploy import reference
from binas.deploy.graph import Array, Graph

NEAR = 1e-5
"""Distance of a number from its threshold, relative to the larger one, within which rounding may decide."""
EXACT = 1e-4
"""Difference of scores, relative to the largest of an image, that rounding explains where no sign differs."""


@dataclass(frozen=True)
class Difference:
    """An image that the two do not answer alike.

    Args:
        image: its number.
        classes: given by the network and by the program.
        scores: largest difference of a score, relative to the largest score.
        distance: from a number that the program takes a sign of to its threshold: the smallest, relative.
    """

    image: int
    classes: tuple[int, int]
    scores: float
    distance: float

    def __str__(self) -> str:
        words = f"image {self.image}: "
        if self.classes[0] != self.classes[1]:
            words += f"class {self.classes[0]} by the network, {self.classes[1]} by the program; "
        return (
            f"{words}scores differ by {self.scores:.1e}, a number lies {self.distance:.1e} from its threshold"
        )


@dataclass(frozen=True)
class Agreement:
    """A model beside the network that it was made of.

    Args:
        images: that both were given.
        largest: difference of a score, relative to the largest score of its image; of images not listed.
        differing: images that are given another class, or whose scores differ by more than rounding does.
    """

    images: int
    largest: float
    differing: tuple[Difference, ...] = ()

    @property
    def same_class(self) -> int:
        """Images that are given the same class."""
        return self.images - sum(one.classes[0] != one.classes[1] for one in self.differing)

    @property
    def unexplained(self) -> tuple[Difference, ...]:
        """Differing images in which no number is near its threshold: the program is wrong there."""
        return tuple(one for one in self.differing if one.distance > NEAR)

    def __str__(self) -> str:
        words = (
            f"{self.same_class} of {self.images} images are given the same class as by the network;"
            f" scores differ by {self.largest:.1e} of the largest at most"
        )
        if self.differing:
            words += f", but for {len(self.differing)} images where a sign is decided by rounding:"
        return "\n  ".join([words, *map(str, self.differing)])


def compare(run: Callable[[Array], Array], graph: Graph, module: nn.Module, images: Tensor) -> Agreement:
    """What a model gives beside the module's own scores.

    Args:
        run: (H, W, C) -> scores, `Loaded.scores` say.
        graph: of the model; it says for images that differ how near a sign was.
        images: (N, C, H, W), prepared.
    """
    was_training = module.training
    module.eval()
    largest, differing = 0.0, []
    with torch.no_grad():
        for number, image in enumerate(images.cpu().float()):
            theirs: Array = module(image[None])[0].float().numpy()
            pixels = image.permute(1, 2, 0).numpy()
            ours = run(pixels)
            scale = float(np.abs(theirs).max()) or 1.0
            difference = float(np.abs(ours - theirs).max()) / scale
            classes = int(theirs.argmax()), int(ours.argmax())
            if classes[0] != classes[1] or difference > EXACT:
                distance = nearest_threshold(graph, pixels)
                differing.append(Difference(number, classes, difference, distance))
            else:
                largest = max(largest, difference)
    module.train(was_training)
    return Agreement(len(images), largest, tuple(differing))


def nearest_threshold(graph: Graph, image: Array) -> float:
    """The smallest relative distance of a real number to the threshold by which it is made a code.

    Numbers that are exactly 0 are left out: a ReLU gave them, in the network as well.

    Shape: (H, W, C).
    """
    values = reference.run(graph, image)
    found = np.inf
    for node in graph.nodes:
        given = values[node.inputs[0]] if node.inputs else None
        if node.op == "step" and given is not None and given.dtype == np.float32:
            for column in node.tensors["thresholds"].T:
                size = np.maximum(np.maximum(np.abs(given), np.abs(column)), np.finfo(np.float32).tiny)
                distance = np.where(given == 0, np.inf, np.abs(given - column) / size)
                found = min(found, float(distance.min()))
    return found
