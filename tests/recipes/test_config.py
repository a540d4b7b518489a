"""YAML to typed settings and back: YAML 1.2 scalars, overrides, and mistakes told with file and key."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, field_validator

from binas.arch.kinds import load_any_space
from binas.arch.space import SearchSpace, load_space
from binas.config import (
    Config,
    build,
    describe,
    dump,
    find_file,
    load,
    merged,
    parse_override,
    parse_yaml,
    read_mapping,
    shipped_names,
    with_override,
)
from binas.errors import UserError
from binas.recipe import Recipe


class Optimizer(Config):
    """Settings inside settings."""

    lr: float = Field(0.1, gt=0)
    """Learning rate."""
    nesterov: bool = False


class Phase(Config):
    """One of a list."""

    epochs: int = 1
    """Rounds through
    the data."""
    trains: Literal["weights", "both"] = "both"


class Phases(Config):
    """A list that is never empty, and a validator that raises like one that reads another file."""

    phases: Annotated[tuple[Phase, ...], Field(min_length=1)]
    folder: Path = Path("runs")

    @field_validator("folder", mode="before")
    @classmethod
    def _exists(cls, value: Any) -> Any:
        if value == "absent":
            raise UserError("absent: no such folder")
        return value


class Sample(Config):
    """A model with every kind of field."""

    name: str = "unnamed"
    """What it is called."""
    optimizer: Optimizer = Optimizer()
    phases: tuple[Phase, ...] = ()
    window: float | None = None
    sizes: tuple[int, ...] = (1, 2)
    needed: int


SCALARS: list[tuple[str, Any]] = [
    ("3e-4", 3e-4),
    ("1E5", 1e5),
    ("-2.5e+3", -2500.0),
    (".5", 0.5),
    ("1.", 1.0),
    ("+3", 3),
    ("-0", 0),
    ("0.1", 0.1),
    ("010", 10),
    ("1_000", "1_000"),
    ("0x1f", "0x1f"),
    ("12:30", "12:30"),
    (".inf", math.inf),
    ("-.inf", -math.inf),
    ("true", True),
    ("False", False),
    ("no", "no"),
    ("yes", "yes"),
    ("on", "on"),
    ("off", "off"),
    ("y", "y"),
    ("null", None),
    ("~", None),
    ("", None),
    ("nUll", "nUll"),
    ("'3'", "3"),
    ("2026-01-02", "2026-01-02"),
    ("[1, no, 2e1]", [1, "no", 20.0]),
    ("{a: off}", {"a": "off"}),
    ("e5", "e5"),
    ("-", [None]),
    ("<<", "<<"),
    ("=", "="),
    ("1e", "1e"),
    (".", "."),
    ("nan", "nan"),
]


@pytest.mark.parametrize(("text", "value"), SCALARS, ids=[text or "empty" for text, _ in SCALARS])
def test_scalars_of_yaml_1_2(text: str, value: Any) -> None:
    read = parse_yaml(text, "here")
    assert read == value and type(read) is type(value)


def test_not_a_number() -> None:
    assert math.isnan(parse_yaml(".nan", "here"))


def test_fields_keep_numbers_and_words(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: no\noptimizer: {lr: 3e-4}\nneeded: 3\n")
    sample = load(Sample, path)
    assert sample.name == "no" and sample.optimizer.lr == 3e-4


BROKEN = {
    "duplicate key": ("a: 1\nb: 2\na: 3\n", "key 'a' stands twice"),
    "duplicate nested key": ("a:\n  b: 1\n  b: 1\n", "key 'b' stands twice"),
    "number as key": ("3: 1\n", "key 3 is not a word"),
    "list as key": ("[1, 2]: 1\n", "is not a word"),
    "tag": ("a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    "own tag": ("a: !thing 3\n", "not valid YAML"),
    "brackets": ("a: [1, 2\n", "not valid YAML"),
    "tab": ("a:\n\tb: 1\n", "not valid YAML"),
    "control character": ("a: \x00\n", "not valid YAML"),
    "deep": ("[" * 5000, "not valid YAML"),
    "two documents": ("a: 1\n---\nb: 2\n", "not valid YAML"),
    "unknown alias": ("a: *b\n", "not valid YAML"),
    "list at the top": ("- 1\n", "holds no mapping"),
    "empty": ("", "holds no mapping"),
}


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_files_name_the_file(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"broken\.yaml.*{message}"):
        read_mapping(path)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.yaml: cannot be read: No such file"):
        read_mapping(tmp_path / "absent.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        read_mapping(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(UserError, match=r"latin\.yaml: cannot be read: it is not UTF-8"):
        read_mapping(tmp_path / "latin.yaml")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"nme": "a", "needed": 1}, r"^f\.yaml: unknown key 'nme'; did you mean 'name'\? known: n"),
    "unknown nested": (
        {"optimizer": {"lrr": 1}, "needed": 1},
        r"^f\.yaml: unknown key 'optimizer\.lrr'; did you mean 'lr'\? known: lr, nesterov$",
    ),
    "unknown in a list": (
        {"phases": [{}, {"epoch": 1}], "needed": 1},
        r"unknown key 'phases\.1\.epoch'; did you mean 'epochs'",
    ),
    "missing": ({}, r"^f\.yaml: key 'needed' is missing$"),
    "word for a number": ({"needed": "many"}, r"^f\.yaml: needed: .*integer.*\(given: 'many'\)"),
    "fraction for a whole": ({"needed": 1.5}, r"needed: .*integer.*1\.5"),
    "number for a word": ({"needed": 1, "name": 3}, r"name: .*string.*\(given: 3\)"),
    "word for a flag": ({"needed": 1, "optimizer": {"nesterov": "maybe"}}, r"optimizer\.nesterov: .*bool"),
    "out of range": ({"needed": 1, "optimizer": {"lr": 0}}, r"optimizer\.lr: .*greater than 0"),
    "none of the words": ({"needed": 1, "phases": [{"trains": 1}]}, r"phases\.0\.trains: .*'weights' or"),
    "list for a mapping": ({"needed": 1, "optimizer": [1]}, r"^f\.yaml: optimizer: "),
    "mapping for a list": ({"needed": 1, "sizes": {"a": 1}}, r"^f\.yaml: sizes: "),
    "not a mapping": ([], r"^f\.yaml: "),
}


@pytest.mark.parametrize(("data", "message"), WRONG.values(), ids=WRONG)
def test_wrong_settings_name_file_key_and_nearest(data: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(Sample, data, "f.yaml")


def test_every_mistake_is_told_on_a_line_of_its_own() -> None:
    with pytest.raises(UserError) as caught:
        build(Sample, {"nme": 1, "optimizer": {"lr": -1}}, "f.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 3 and all(line.startswith("f.yaml: ") for line in lines)


def test_a_list_of_wrong_things_is_not_called_too_short() -> None:
    with pytest.raises(UserError) as caught:
        build(Phases, {"phases": [{"epoch": 1}]}, "f.yaml")
    assert str(caught.value) == (
        "f.yaml: unknown key 'phases.0.epoch'; did you mean 'epochs'? known: epochs, trains"
    )
    with pytest.raises(UserError, match=r"^f\.yaml: phases: .*at least 1 item"):
        build(Phases, {"phases": []}, "f.yaml")


def test_mistakes_that_a_validator_tells_name_the_file_too() -> None:
    with pytest.raises(UserError, match=r"^f\.yaml: absent: no such folder$"):
        build(Phases, {"phases": [{}], "folder": "absent"}, "f.yaml")


def test_default_paths_are_described_as_text() -> None:
    assert {key: default for key, default, _ in describe(Phases)}["folder"] == "runs"


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("search.lr=3e-4", "search.lr", 3e-4),
        ("name=no", "name", "no"),
        ("a=b=c", "a", "b=c"),
        ("a=", "a", None),
        ("a.0.b=[1, {c: 2}]", "a.0.b", [1, {"c": 2}]),
    ],
)
def test_overrides_are_read_as_yaml(text: str, key: str, value: Any) -> None:
    assert parse_override(text) == (key, value)


@pytest.mark.parametrize("text", ["a", "=3", "a={"])
def test_overrides_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UserError, match="override"):
        parse_override(text)


@pytest.mark.parametrize(
    ("data", "key", "value", "expected"),
    [
        ({"a": 1}, "a", 2, {"a": 2}),
        ({"a": {"b": 1, "c": 2}}, "a.b", 3, {"a": {"b": 3, "c": 2}}),
        ({}, "a.b.c", 1, {"a": {"b": {"c": 1}}}),
        ({"a": None}, "a.b", 1, {"a": {"b": 1}}),
        ({"a": [{"b": 1}, {"b": 2}]}, "a.1.b", 3, {"a": [{"b": 1}, {"b": 3}]}),
        ({"a": [[1, 2], [3]]}, "a.0.1", 9, {"a": [[1, 9], [3]]}),
        ({"space": "bnas"}, "space.num_nodes", 3, {"space": {"base": "bnas", "num_nodes": 3}}),
        (
            {"space": {"base": "bnas"}},
            "space.network.num_cells",
            8,
            {"space": {"base": "bnas", "network": {"num_cells": 8}}},
        ),
    ],
    ids=str,
)
def test_an_override_changes_one_place_of_a_copy(data: Any, key: str, value: Any, expected: Any) -> None:
    before = repr(data)
    assert with_override(data, key, value) == expected
    assert repr(data) == before


@pytest.mark.parametrize(
    ("data", "key", "message"),
    [
        ({"a": [1]}, "a.1", "none of the 1 positions"),
        ({"a": [1]}, "a.-1", "none of the 1 positions"),
        ({"a": [1]}, "a.b", "'b' is none"),
        ({"a": 3}, "a.b", "no key inside the value 3"),
        ({"a": True}, "a.b.c", "no key inside the value True"),
    ],
    ids=str,
)
def test_overrides_that_lead_nowhere(data: Any, key: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        with_override(data, key, 1)


def test_overrides_come_before_validation(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("phases: [{epochs: 2}, {epochs: 3}]\nneeded: 1\n")
    sample = load(Sample, path, {"phases.1.epochs": 5, "optimizer.lr": 3e-4})
    assert [phase.epochs for phase in sample.phases] == [2, 5] and sample.optimizer.lr == 3e-4
    with pytest.raises(UserError, match=r"a\.yaml: unknown key 'optimizer\.rate'"):
        load(Sample, path, {"optimizer.rate": 5})


def test_overrides_through_base_reach_the_space() -> None:
    data = with_override({"space": "bnas"}, "space.network.num_cells", 8)
    space = load_space(data["space"])
    assert space.network.num_cells == 8 and space.network.init_channels == 36


@pytest.mark.parametrize(
    ("base", "changes", "expected"),
    [
        ({"a": 1, "b": {"c": 1, "d": 2}}, {"b": {"d": 3}}, {"a": 1, "b": {"c": 1, "d": 3}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"a": 1}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"o": {"name": "sgd", "momentum": 1}}, {"o": {"name": "adam"}}, {"o": {"name": "adam"}}),
        ({"o": {"name": "sgd", "lr": 1}}, {"o": {"name": "sgd", "lr": 2}}, {"o": {"name": "sgd", "lr": 2}}),
        ({"o": {"lr": 1}}, {"o": {"name": "sgd"}}, {"o": {"lr": 1, "name": "sgd"}}),
        ({"name": "a", "k": 1}, {"name": "b"}, {"name": "b", "k": 1}),
    ],
    ids=str,
)
def test_merging(base: dict[str, Any], changes: dict[str, Any], expected: dict[str, Any]) -> None:
    before = repr((base, changes))
    assert merged(base, changes) == expected
    assert repr((base, changes)) == before


look_alikes = st.sampled_from(
    ["3e-4", "1e5", "010", "no", "yes", "1_000", "null", "~", "", ".5", "-", "1.", "=", "0x1f"]
)
words = st.text(max_size=12) | look_alikes
finite = st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)


class Anything(Config):
    """Holds nested values of any kind."""

    values: dict[str, Any] = {}


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(words, values, max_size=4))
def test_dumped_values_load_again(data: dict[str, Any]) -> None:
    config = Anything(values=data)
    text = dump(config)
    assert build(Anything, parse_yaml(text, "dump"), "dump") == config


samples = st.builds(
    Sample,
    name=words,
    optimizer=st.builds(Optimizer, lr=st.floats(1e-300, 1e300), nesterov=st.booleans()),
    phases=st.lists(st.builds(Phase, epochs=st.integers()), max_size=3).map(tuple),
    window=st.none() | finite,
    sizes=st.lists(st.integers(), max_size=3).map(tuple),
    needed=st.integers(),
)


@settings(max_examples=60, deadline=None)
@given(samples)
def test_dumped_models_load_again(sample: Sample) -> None:
    assert build(Sample, parse_yaml(dump(sample), "dump"), "dump") == sample


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_a_value_or_a_told_mistake(text: str) -> None:
    try:
        parse_yaml(text, "here")
    except UserError as error:
        assert str(error).startswith("here: not valid YAML")


@pytest.mark.parametrize("name", shipped_names("search_spaces"))
def test_shipped_spaces_survive_dump_and_load(name: str) -> None:
    space = load_any_space(name)
    assert build(type(space), parse_yaml(dump(space), name), name) == space


def test_description_covers_every_key_with_default_and_help() -> None:
    rows = {key: (default, text) for key, default, text in describe(Sample)}
    assert list(rows) == [
        "name",
        "optimizer",
        "optimizer.lr",
        "optimizer.nesterov",
        "phases",
        "phases.0.epochs",
        "phases.0.trains",
        "window",
        "sizes",
        "needed",
    ]
    assert rows["name"] == ("'unnamed'", "What it is called.")
    assert rows["optimizer.lr"] == ("0.1", "Learning rate.")
    assert rows["phases.0.epochs"] == ("1", "Rounds through the data.")
    assert rows["needed"][0] == "required" and rows["window"][0] == "None"
    assert rows["sizes"][0] == "(1, 2)" and rows["optimizer"][0] == ""


def test_description_of_a_space_covers_what_a_space_dumps() -> None:
    def paths(value: Any, prefix: str = "") -> set[str]:
        if isinstance(value, list):
            return {path for inner in value for path in paths(inner, f"{prefix}0.")}
        if not isinstance(value, dict):
            return set()
        return {f"{prefix}{k}" for k in value} | {
            p for k, v in value.items() for p in paths(v, f"{prefix}{k}.")
        }

    described = {key for key, _, _ in describe(SearchSpace)}
    quantized = {"gradient": {"name": "dorefa"}}
    full = {
        "base": "bnas",
        "binarization": quantized,
        "gating": {},
        "layers": [{"match": "cells.0", "binarization": quantized}],
    }
    free = {"binarization.activation.window", "binarization.weight.center"}  # options of binarizers
    assert paths(load_space(full).model_dump(mode="json")) - free == described


def test_a_recipe_is_described_whole_and_survives_dump_and_load() -> None:
    def paths(value: Any, prefix: str = "") -> set[str]:
        if isinstance(value, list):
            return {path for inner in value for path in paths(inner, f"{prefix}0.")}
        if not isinstance(value, dict):
            return set()
        return {f"{prefix}{k}" for k in value} | {
            p for k, v in value.items() for p in paths(v, f"{prefix}{k}.")
        }

    recipe = Recipe()
    described = {key for key, _, _ in describe(Recipe)}
    free = {"space.binarization.activation.window", "space.binarization.weight.center"}
    assert paths(recipe.model_dump(mode="json")) - free <= described
    assert build(Recipe, parse_yaml(dump(recipe), "dump"), "dump") == recipe
    with pytest.raises(UserError, match=r"^f\.yaml: bnsa: no such search space.*'bnas'"):
        build(Recipe, {"space": "bnsa"}, "f.yaml")


def test_models_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Sample(needed=1).needed = 2  # type: ignore[misc]


def test_files_by_path_name_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("bnas", "bnas.yaml", "search_spaces/bnas", "search_spaces/bnas.yaml"):
        assert read_mapping(find_file(name, "search_spaces"))["name"] == "bnas"
    (tmp_path / "bnas.yaml").write_text("name: mine\n")
    assert read_mapping(find_file("bnas.yaml", "search_spaces"))["name"] == "mine"
    with pytest.raises(UserError, match=r"bnsa: no such search space file.*did you mean 'bnas'"):
        find_file("bnsa", "search_spaces")
    with pytest.raises(UserError, match="no such search space"):
        find_file("elsewhere/bnas.yaml", "search_spaces")  # a folder of the user's own is meant


def test_shipped_files_are_found_from_an_empty_folder(tmp_path: Path) -> None:
    code = (
        "from binas.arch.kinds import load_any_space as load_space; from binas.config import shipped_names;"
        "print([load_space(name).name for name in shipped_names('search_spaces')])"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert yaml.safe_load(result.stdout) == shipped_names("search_spaces") != []
