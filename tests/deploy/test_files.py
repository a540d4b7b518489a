"""`model.binas`: what is written is read, and what is damaged or hostile is refused in words."""

from __future__ import annotations

import base64
import json
import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save
from torch import nn

import binas
from binas.deploy import reference
from binas.deploy.model_file import MOST_TEXT, read_model, unpacked_text, write_model
from tests.deploy.programs import exported, image_of, shaken


def network() -> nn.Module:
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(1, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12))
    second = nn.Sequential(binas.nn.BinaryConv2d(12, 20, 3, padding=1), nn.BatchNorm2d(20), nn.ReLU())
    third = binas.nn.BinaryConv2d(20, 6, 3, padding=1, weight="twn", activation={"name": "pact", "bits": 2})
    return shaken(nn.Sequential(first, second, third, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_model(exported(network(), 1, 9, 8), tmp_path / "m.binas")
    return tmp_path / "m.binas"


def test_what_is_written_is_read(written: Path) -> None:
    model = exported(network(), 1, 9, 8)
    read = read_model(written)
    assert read.hash == model.hash and read.text == model.text
    image = image_of(model)
    ours, theirs = (reference.run(one.graph, image)[one.graph.output] for one in (model, read))
    assert np.array_equal(ours, theirs)


def test_it_is_as_large_as_its_constants_and_its_header(written: Path) -> None:
    content = written.read_bytes()
    header = int.from_bytes(content[:8], "little")
    assert len(content) == 8 + header + sum(read_model(written).sizes().values())
    weights = 12 * 20 * 9 / 8 + 20 * 6 * 9 * 2 / 8  # signs, and ternary weights in two planes
    steps = 12 + 20  # which way codes go, a bit for each channel
    assert read_model(written).sizes()["1-bit"] == pytest.approx(weights + steps / 8, abs=2)


def changed(written: Path, change: Any) -> Path:
    """The file with another text, or other constants; these lie one after another, by their names."""
    with safe_open(written, framework="numpy") as file:
        text = unpacked_text(file.metadata()["binas"])
        constants = file.get_tensor("constants").tobytes()
    places, place = {}, 0
    for node in text.nodes:
        for key in sorted(node.tensors):
            places[f"{node.name}.{key}"] = constants[place : place + node.tensors[key].num_bytes]
            place += node.tensors[key].num_bytes
    plain = text.model_dump(mode="json")
    change(plain, places)
    words = base64.b85encode(zlib.compress(json.dumps(plain).encode())).decode()
    joined = np.frombuffer(b"".join(places.values()), np.uint8)
    written.write_bytes(save({"constants": joined}, metadata={"binas": words}))
    return written


def _node(text: dict[str, Any], op: str) -> dict[str, Any]:
    found: dict[str, Any] = next(node for node in text["nodes"] if node["op"] == op)
    return found


HOSTILE: dict[str, Any] = {
    "another format": lambda text, _: text.update(format="other"),
    "a later version": lambda text, _: text.update(version=3),
    "an unknown operation": lambda text, _: _node(text, "pool").update(op="os.system"),
    "a cycle": lambda text, _: text["nodes"][0].update(inputs=[text["nodes"][-1]["name"]]),
    "no such input": lambda text, _: text["nodes"][1].update(inputs=["v999"]),
    "a huge shape": lambda text, _: _node(text, "pool").update(shape=[2**23, 2**23, 2**23]),
    "many numbers out of nothing": lambda text, _: _node(text, "line")["tensors"].update(
        factor={"shape": [2**30], "type": "same"}
    ),
    "a negative shape": lambda text, _: _node(text, "pool").update(shape=[1, 1, -6]),
    "a wrong shape": lambda text, _: _node(text, "binary_convolution").update(shape=[5, 4, 21]),
    "a huge stride": lambda text, _: _node(text, "binary_convolution")["attributes"].update(stride=10**30),
    "a stride of 0": lambda text, _: _node(text, "binary_convolution")["attributes"].update(stride=0),
    "a word for a number": lambda text, _: _node(text, "binary_convolution")["attributes"].update(groups="1"),
    "no levels": lambda text, _: _node(text, "step")["attributes"].update(levels=[]),
    "an extra attribute": lambda text, _: _node(text, "linear").setdefault("attributes", {}).update(x=1),
    "twice the same name": lambda text, _: text["nodes"][1].update(name=text["nodes"][0]["name"]),
    "a name that is code": lambda text, _: text["nodes"][0].update(name="v0; exit(1)"),
    "other classes": lambda text, _: text.update(classes=["one"]),
    "a mean that is none": lambda text, _: text.update(mean=["nan"]),
    "a std of 0": lambda text, _: text.update(std=[0.0]),
    "a missing constant": lambda _, tensors: tensors.pop(next(iter(tensors))),
    "a constant too many": lambda _, tensors: tensors.update({"v77.weight": bytes(8)}),
    "a constant of another size": lambda _, tensors: tensors.update(
        {next(k for k in tensors if k.endswith("factor")): bytes(12)}
    ),
    "a constant that is no number": lambda _, tensors: tensors.update(
        {k: b"\xff" * len(v) for k, v in tensors.items() if k.endswith("factor")}
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused(written: Path, kind: str) -> None:
    with pytest.raises(binas.UserError, match=r"m\.binas.*(damaged|no model)"):
        read_model(changed(written, HOSTILE[kind]))


def test_a_text_that_swells_is_refused(written: Path) -> None:
    words = base64.b85encode(zlib.compress(b" " * (MOST_TEXT + 1))).decode()
    written.write_bytes(save({"constants": np.zeros(1, np.uint8)}, metadata={"binas": words}))
    with pytest.raises(binas.UserError, match="too long"):
        read_model(written)
    for words in ("", "{}", "\u00e4", base64.b85encode(b"no zlib").decode()):
        written.write_bytes(save({"constants": np.zeros(1, np.uint8)}, metadata={"binas": words}))
        with pytest.raises(binas.UserError, match="damaged"):
            read_model(written)


def test_any_damage_is_told_or_harmless(written: Path) -> None:
    """Cut anywhere, or with bytes changed: a message, or a file that can be read."""
    content = written.read_bytes()
    generator = random.Random(0)
    for number in range(300):
        data = bytearray(content)
        if number % 3 == 0:
            del data[generator.randrange(len(data)) :]
        for _ in range(generator.randrange(1, 4)):
            if data:
                reach = len(data) if number % 2 else min(len(data), 2000)
                data[generator.randrange(reach)] = generator.randrange(256)
        written.write_bytes(bytes(data))
        try:
            read_model(written)
        except binas.UserError as error:
            assert str(written) in str(error)


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "text.binas").write_text("hello")
    (tmp_path / "other.binas").write_bytes(save({"a": np.zeros(1, np.float32)}))
    for name, words in (
        ("none.binas", "no such file"),
        ("text.binas", "damaged"),
        ("other.binas", "no model"),
    ):
        with pytest.raises(binas.UserError, match=words):
            read_model(tmp_path / name)
    with pytest.raises(binas.UserError, match="folder"):
        read_model(tmp_path)
