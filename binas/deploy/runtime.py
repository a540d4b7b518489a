"""A model that runs: the C program where there is a compiler, otherwise the NumPy reference."""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from binas.data.picture import opened, pixels_array
from binas.deploy import reference
from binas.deploy.c.emit import emit
from binas.deploy.compiler import compiled, find_compiler
from binas.deploy.graph import Array
from binas.deploy.model_file import Model, read_model
from binas.errors import UserError

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """What a model says of an image.

    Args:
        label: name of the class.
        index: of the class.
        probability: of the class, by softmax.
    """

    label: str
    index: int
    probability: float


class Loaded:
    """A model that can be called; several threads may call it, one runs at a time.

    Args:
        model: what it computes.
        arch: the compiler's word for the processor; empty: the portable program.
        threads: that share the rows of each step.
        slow: run the NumPy reference in place of the C program.
        defines: names that the program is compiled with.
    """

    def __init__(
        self,
        model: Model,
        *,
        arch: str = "-march=native",
        threads: int = 1,
        slow: bool = False,
        defines: tuple[str, ...] = (),
    ) -> None:
        self.model, self.program = model, None
        self._lock = threading.Lock()
        self._library: ctypes.CDLL | None = None
        if threads < 1:
            raise UserError(f"deploy: threads: at least 1 is needed, not {threads}")
        if slow:
            return
        defines = (*defines, f"BINAS_THREADS={threads}") if threads > 1 else defines
        if find_compiler() is None:
            LOGGER.warning(
                "no C compiler: the slow reference runs in its place; install a compiler, or binas[deploy]"
            )
            return
        self.program = emit(model.graph)
        self._library = ctypes.CDLL(str(compiled(self.program, arch=arch, defines=defines)))
        self._library.model_isa.restype = ctypes.c_char_p
        self._library.model_sums.restype = ctypes.POINTER(ctypes.c_int32)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the classes, in the order of the scores."""
        return self.model.text.classes

    @property
    def runs_on(self) -> str:
        """The instruction set of the program, or `NumPy`."""
        return "NumPy" if self._library is None else self._library.model_isa().decode()

    def scores(self, image: Array) -> Array:
        """The scores of the classes for one prepared image.

        Shape: (H, W, C) float32, normalised -> (classes,).
        """
        image = np.ascontiguousarray(image, np.float32)
        if image.shape != self.model.graph.input_shape:
            raise UserError(
                f"deploy: an image of shape {self.model.graph.input_shape} is needed, not {image.shape}"
            )
        if self._library is None:
            values = reference.run(self.model.graph, image)
            found: Array = values[self.model.graph.output].reshape(-1)
            return found
        floats = ctypes.POINTER(ctypes.c_float)
        scores = np.empty(len(self.class_names), np.float32)
        with self._lock:  # the program has one arena
            self._library.model_run(image.ctypes.data_as(floats), scores.ctypes.data_as(floats))
        return scores

    def prepare(self, image: Any) -> Array:
        """A picture as the network takes it: resized, its channels, normalised.

        Args:
            image: a file, a picture of Pillow, or an array (H, W) or (H, W, C) of uint8.
        Shape: -> (H, W, C) float32.
        """
        height, width, channels = self.model.graph.input_shape
        if isinstance(image, str | Path):
            with opened(Path(image)) as picture:
                pixels = pixels_array(picture, channels, (height, width))
        elif isinstance(image, Image.Image):
            pixels = pixels_array(image, channels, (height, width))
        else:
            pixels = pixels_array(_picture(image), channels, (height, width))
        pixels = pixels.astype(np.float32) / np.float32(255)
        mean, std = (np.asarray(v, np.float32) for v in (self.model.text.mean, self.model.text.std))
        return (pixels - mean) / std

    def __call__(self, images: Any) -> Prediction | list[Prediction]:
        """The class of a picture, or of each of a list of them."""
        if isinstance(images, list | tuple):
            return [self.predict(one) for one in images]
        return self.predict(images)

    def predict(self, image: Any) -> Prediction:
        """The class of one picture."""
        scores = self.scores(self.prepare(image)).astype(np.float64)
        shares = np.exp(scores - scores.max())
        index = int(scores.argmax())
        return Prediction(self.class_names[index], index, float(shares[index] / shares.sum()))

    def sums(self, places: Sequence[int]) -> Iterator[Array]:
        """The integers of binary convolutions of the last run, of a program that keeps them."""
        assert self._library is not None
        nodes = [node for node in self.model.graph.nodes if node.op == "binary_convolution"]
        for place in places:
            node = nodes[place]
            pointer = self._library.model_sums(place)
            yield np.ctypeslib.as_array(pointer, (node.size,)).reshape(node.shape).copy()

    def times(self) -> list[float]:
        """Seconds of each step since the last call, of a program that measures them."""
        assert self._library is not None and self.program is not None
        found = (ctypes.c_double * (len(self.program.groups) + 1))()
        count = self._library.model_times(found)
        return list(found[:count])


def _picture(array: Any) -> Image.Image:
    array = np.asarray(array)
    if (
        array.dtype != np.uint8
        or array.ndim not in (2, 3)
        or (array.ndim == 3 and array.shape[2] not in (1, 3, 4))
    ):
        raise UserError(
            "predict: an array (H, W) or (H, W, C) of uint8 is needed, not"
            f" {array.dtype} of shape {array.shape}"
        )
    return Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def load(path: str | Path, **how: Any) -> Loaded:
    """A `.binas` file as something that can be called with pictures.

    Args:
        how: see `Loaded`.
    Raises:
        UserError: the file is none, or cannot be compiled.
    """
    return Loaded(read_model(Path(path)), **how)
