"""A name with options: every spelling, what is checked, and what is told of mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from binas.config import Config, NamedOptions, build, dump, load, option_parameters, parse_yaml, with_override
from binas.errors import UserError
from binas.registry import Registry

PARTS: Registry[Any] = Registry("part")


@PARTS.register("gumbel")
class Gumbel:
    """A class with options of several types."""

    def __init__(self, rows: int, tau: float = 1.0, steps: tuple[int, ...] = (), table: Path | None = None):
        if tau <= 0:
            raise ValueError("tau has to be above 0")
        self.rows, self.tau, self.steps, self.table = rows, tau, steps, table


@PARTS.register("plain")
def plain(rows: int) -> int:
    """A function without options."""
    return rows


@PARTS.register("strict")
class Strict:
    """A class whose option has no default."""

    def __init__(self, rows: int, *, weight: float) -> None:
        self.weight = weight


class Part(NamedOptions):
    """One of `PARTS`."""

    registry: ClassVar[Registry[Any]] = PARTS


class Settings(Config):
    """Settings with a part."""

    part: Part = Part(name="plain")


def part(value: Any) -> Part:
    return build(Settings, {"part": value}, "test").part


def test_a_word_and_a_mapping_are_built() -> None:
    assert part("plain").build(3) == 3 and part("plain").options == {}
    found = part({"name": "gumbel", "tau": 10, "steps": [1, 2], "table": "a.yaml"}).build(3)
    assert (found.rows, found.tau, found.steps, found.table) == (3, 10.0, (1, 2), Path("a.yaml"))


def test_an_entry_of_ones_own_needs_no_name() -> None:
    class Mine:
        def __init__(self, rows: int) -> None:
            self.rows = rows

    instance = Gumbel(7, tau=2.0)
    assert part(instance).build(3) is instance and part(instance).name == "Gumbel"
    assert part(Mine).build(3).rows == 3
    assert part(lambda rows: rows + 1).build(3) == 4
    assert part(Gumbel) == part("gumbel")  # what is registered goes by its name


def test_yaml_and_back(tmp_path: Path) -> None:
    for value in ("plain", {"name": "gumbel", "tau": 2.5}):
        settings = build(Settings, {"part": value}, "test")
        assert parse_yaml(dump(settings), "test") == {"part": value}
        (tmp_path / "a.yaml").write_text(dump(settings))
        assert load(Settings, tmp_path / "a.yaml") == settings


def test_an_override_reaches_into_a_word() -> None:
    data = with_override({"part": "gumbel"}, "part.tau", 3.0)
    assert build(Settings, data, "test").part == part({"name": "gumbel", "tau": 3.0})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("gumbl", "unknown part 'gumbl'; did you mean 'gumbel'"),
        ({"name": "gumbel", "tua": 1}, "part 'gumbel': unknown option 'tua'; did you mean 'tau'"),
        ({"name": "gumbel", "rows": 1}, "unknown option 'rows'"),
        ({"name": "gumbel", "tau": "hot"}, r"option 'tau': .*number.* \(given: 'hot'\)"),
        ({"name": "gumbel", "tau": True}, "option 'tau'"),
        ({"name": "gumbel", "steps": [1, "two"]}, "option 'steps'"),
        ({"name": "gumbel", "tau": -1}, "part 'gumbel' with options {'tau': -1}: tau has to be above 0"),
        ("strict", "part 'strict': option 'weight' is missing"),
    ],
)
def test_mistakes_name_the_entry_and_the_option(value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        part(value).build(3)


def test_names_are_checked_when_they_are_used_since_a_file_may_be_loaded_later() -> None:
    early = part("later")
    with pytest.raises(UserError, match="unknown part 'later'"):
        early.check()
    with PARTS.loading_from("a.py"):
        PARTS.register("later")(plain)
    early.check(1)
    assert early.build(5) == 5
    with PARTS.loading_from("a.py"):
        pass


@pytest.mark.parametrize("value", [3, None, 2.5, ["gumbel"], {"tau": 1}, {"name": 3}])
def test_what_is_no_name(value: Any) -> None:
    with pytest.raises(UserError, match="part"):
        part(value)


def test_the_options_of_an_entry_can_be_listed() -> None:
    known = option_parameters(Gumbel, 1)
    assert list(known) == ["tau", "steps", "table"]
    assert known["tau"].annotation is float and known["tau"].default == 1.0
