"""One key for limits: older keys are read and told, twice is an error, measures are checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from binas.api.building import create_model
from binas.config import build
from binas.errors import UserError
from binas.profile import MEASURES, Limits, count
from binas.recipe import load_recipe

OLD = {
    "search.limits.ops": ("ops", 5e6),
    "evolve.max_ops": ("ops", 5e6),
    "evolve.max_bits": ("bits", 5e6),
}


@pytest.mark.parametrize("key", OLD)
def test_an_older_key_is_read_and_told(key: str, caplog: pytest.LogCaptureFixture) -> None:
    measure, value = OLD[key]
    recipe = load_recipe(None, {key: value})
    assert recipe.limits.entries == {measure: value} and recipe.limits.at_most == {measure: value}
    (record,) = caplog.records
    assert key in record.message and f"limits.{measure}" in record.message
    caplog.clear()
    assert load_recipe(None, {f"limits.{measure}": value}) == recipe and not caplog.records


def test_older_keys_of_latency_become_one(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("evolve: {latency_table: lat.yaml, max_latency: 3}\n")
    (tmp_path / "lat.yaml").write_text("")
    table = str(tmp_path / "lat.yaml")
    assert load_recipe(str(tmp_path / "r.yaml"), {}).limits.entries == {
        "latency_ms": {"table": table, "at_most": 3}
    }


@pytest.mark.parametrize("written", ["search: {limits: {ops: 1.0}}", "limits: {ops: 1.0}"])
@pytest.mark.parametrize("key", ["search.limits.ops", "evolve.max_ops", "limits.ops"])
def test_an_override_replaces_what_the_recipe_says_however_both_spell_it(
    tmp_path: Path, written: str, key: str
) -> None:
    (tmp_path / "r.yaml").write_text(f"{written}\n")
    assert load_recipe(str(tmp_path / "r.yaml"), {key: 2.0}).limits.at_most == {"ops": 2.0}
    assert load_recipe(str(tmp_path / "r.yaml"), {key: None}).limits.at_most == {}


@pytest.mark.parametrize("value", [None, 1.0])
def test_twice_is_an_error_unless_it_is_unset(value: float | None) -> None:
    changes = {"search.limits.ops": value, "limits.ops": 2.0}
    if value is None:
        assert load_recipe(None, changes).limits.at_most == {"ops": 2.0}
        return
    with pytest.raises(UserError, match=r"search\.limits\.ops and limits\.ops say the same"):
        load_recipe(None, changes)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"opps": 1}, "unknown measure 'opps'; did you mean 'ops'"),
        ({"ops": -1}, "ops: a number from 0 on is needed"),
        ({"ops": True}, "ops: a number from 0 on"),
        ({"ops": float("nan")}, "ops: a number from 0 on"),
        ({"ops": "many"}, "ops: a number from 0 on"),
        ({"ops": {"at_mots": 1}}, "unknown option 'at_mots'"),
        ({"latency_ms": 3}, "option 'table' is missing"),
        ({"latency_ms": {"table": 3, "at_most": 1}}, "option 'table'"),
        ([1], "limits"),
    ],
)
def test_mistakes_are_told(entry: Any, told: str) -> None:
    with pytest.raises(UserError, match="limits") as error:
        load_recipe(None, {"limits": entry})
    assert told in str(error.value)


def test_every_measure_of_ours_is_a_number_of_a_network(tmp_path: Path) -> None:
    profile = count("resnet20")
    for name in MEASURES:
        if name in ("latency_ms", "program_ms"):  # of tables, with tests of their own
            continue
        limits = build(Limits, {name: 1}, "test")
        built = (
            (lambda: create_model("resnet20", num_classes=10))
            if limits.measures[name].reads_network
            else None
        )
        value = limits.values(profile, built)[name]
        assert value > 0 and limits.excess(profile, built) == {name: value - 1.0}
        assert MEASURES[name].unit  # type: ignore[attr-defined]


def test_what_is_only_told_limits_nothing() -> None:
    limits = build(Limits, {"ops": {}, "bits": 1}, "test")
    assert limits.at_most == {"bits": 1} and set(limits.values(count("resnet20"))) == {"ops", "bits"}
