"""A folder with everything that a C compiler needs, and a picture in, class out, program."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import numpy as np

from binas.deploy import reference
from binas.deploy.c.emit import Program, emit
from binas.deploy.model_file import Model
from binas.run.files import write_atomic

NAME = "model"
ARRAY = ", "


def write_folder(model: Model, folder: Path) -> Program:
    """Writes the `.c`, the `.h`, `main.c`, a Makefile and a test vector."""
    program = emit(model.graph, NAME)
    text = model.text
    words = {
        "NAME": NAME,
        "UPPER": NAME.upper(),
        "CLASSES": ARRAY.join(_c_string(name) for name in text.classes),
        "MEAN": ARRAY.join(f"{value!r}f" for value in map(float, text.mean)),
        "STD": ARRAY.join(f"{value!r}f" for value in map(float, text.std)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    image, scores = test_vector(model)
    write_atomic(folder / f"{NAME}.c", program.source)
    write_atomic(folder / f"{NAME}.h", program.header)
    for name, written in (("main.c", "main.c"), ("Makefile.txt", "Makefile")):
        source = files("binas.deploy.c").joinpath(name).read_text(encoding="utf-8")
        for key, value in words.items():
            source = source.replace(f"@{key}@", value)
        write_atomic(folder / written, source)
    write_atomic(folder / "test_vector.bin", image.tobytes() + scores.tobytes())
    return program


def test_vector(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """An input, and the scores of the reference."""
    image = np.random.default_rng(0).normal(size=model.graph.input_shape).astype(np.float32)
    scores = reference.run(model.graph, image)[model.graph.output]
    return image, np.ascontiguousarray(scores, np.float32)


def _c_string(text: str) -> str:
    """As a C string: bytes beyond ASCII in octal, which no digit behind can lengthen."""
    escaped = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"
        for byte in text.encode()
    )
    return f'"{escaped}"' if escaped else json.dumps("")
