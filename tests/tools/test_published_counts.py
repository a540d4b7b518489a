"""Published networks are counted as published; the page that says so is what its tool writes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from binas.errors import UserError
from binas.models import MODELS, ModelChoice
from binas.profile import LayerCost, Profile, count
from tools.counts import published_counts as tool
from tools.counts import published_figures as data

MIB = 8 * 2**20


@pytest.fixture(scope="module")
def figures() -> data.Figures:
    return data.read_figures()


@pytest.mark.parametrize(
    ("name", "options", "printed"),
    [
        # digits as printed: ours, rounded to them, or within 1 %
        ("bireal_resnet18", {}, {"Mbit": 33.6, "ops": 1.63e8}),
        ("resnete18", {}, {"MiB": 4.0}),
        ("binary_densenet28", {}, {"MiB": 4.04, "ops": 2.58e8}),
        ("meliusnet22", {}, {"MiB": 3.89, "ops": 2.58e8}),
        ("meliusnet22", {"stem": "grouped"}, {"MiB": 3.88, "ops": 2.08e8}),
        ("meliusnet59", {}, {"MiB": 17.39, "flops": 2.45e8, "bops": 18.3e9, "ops": 5.32e8}),
        ("reactnet_a", {}, {"M": 29.34, "MB": 7.89, "bops": 4.82e9, "ops": 0.87e8}),
    ],
)
def test_anchors_at_224(name: str, options: dict[str, Any], printed: dict[str, float]) -> None:
    profile = count(ModelChoice(name=name, **options), (224, 224), 1000)
    totals = profile.totals()
    ours = {
        **totals,
        "Mbit": profile.bits / 1e6,
        "MiB": profile.bits / MIB,
        "MB": profile.bits / 8e6,
        "M": profile.parameters / 1e6,
    }
    for key, value in printed.items():
        assert ours[key] == pytest.approx(value, rel=0.01), key


def test_reactnet_a_to_the_printed_digits() -> None:
    profile = count("reactnet_a", (224, 224), 1000)
    assert f"{profile.parameters / 1e6:.2f}" == "29.34"
    assert f"{profile.bops / 1e9:.2f}" == "4.82"
    assert f"{profile.flops / 1e8:.2f}" == "0.12"


def test_bnas_a_to_the_last_parameter() -> None:
    assert count("bnas_a").totals()["parameters_as_published"] == 5_578_252


def test_twins_are_the_real_resnets() -> None:
    """Bi-Real Net, table 3: 374.1 Mbit and 1.81e9 with 18 layers, 697.3 Mbit and 3.66e9 with 34."""
    for depth, megabits, flops in ((18, 374.1, 1.81e9), (34, 697.3, 3.66e9)):
        twin = count(ModelChoice(name=f"bireal_resnet{depth}", real=True), (224, 224), 1000)
        assert twin.bits / 1e6 == pytest.approx(megabits, rel=1e-3)
        assert twin.flops == pytest.approx(flops, rel=0.01) and twin.bops == 0


# ---- the page


@pytest.mark.slow
def test_the_page_is_what_the_tool_writes(figures: data.Figures) -> None:
    assert tool.PAGE.read_text(encoding="utf-8") == tool.page(figures), (
        "python tools/counts/published_counts.py"
    )


def test_every_network_and_every_figure_is_on_the_page(figures: data.Figures) -> None:
    assert set(MODELS) <= set(figures.networks())
    found = list(tool.comparisons(figures))
    given = [
        getattr(printed, quantity)
        for rows in figures.figures.values()
        for printed in rows
        for quantity in tool.QUANTITIES
    ]
    assert len(found) == sum(figure is not None for figure in given) > 80
    assert {one.reason for one in found if one.reason} == set(figures.reasons)
    for one in found:
        assert one.reason or one.is_rounding or abs(one.difference) <= 0.01


def test_reasons_that_recount_come_nearer(figures: data.Figures) -> None:
    for one in tool.comparisons(figures):
        if one.other is not None:
            assert abs(one.other - one.number) < abs(one.ours - one.number), one


@pytest.mark.parametrize(
    ("network", "row", "told"),
    [
        ("resnet20", {"ops": "9e9"}, "resnet20: ops 9e9: .* needs a reason"),
        ("resnet20", {"parameters": "0.27 M", "why": {"parameters": "scales"}}, "a reason, but needs none"),
        ("resnet20", {"source": "Somebody"}, "'Somebody' begins with none"),
        ("resnet19", {}, "'resnet19' is neither"),
        ("resnet20", {"ops": "9e9", "why": {"ops": "luck"}}, "no reason 'luck'"),
        ("resnet20", {"ops": "9e9", "why": {"ops": "all_weights"}}, "'one_bit_each' does not give ops"),
    ],
)
def test_a_figure_that_does_not_fit_is_told(
    figures: data.Figures, network: str, row: dict[str, Any], told: str
) -> None:
    given = {"source": "BNAS", "read": "printed", "parameters": "0.27 M", **row}
    changed = data.Figures.model_validate({**figures.model_dump(), "figures": {network: [given]}})
    with pytest.raises(UserError, match=told):
        list(tool.comparisons(changed))


@pytest.mark.parametrize(
    ("printed", "ours", "words", "is_rounding", "needs_reason"),
    [
        ("0.12e8", 0.1186e8, "0.1186e8", True, False),
        ("0.12e8", 0.126e8, "0.1260e8", False, True),
        ("33.6 Mbit", 33.515, "33.515", False, False),
        ("4.0 MiB", 3.94, "3.940", False, True),
        ("18.3e9", 18.316e9, "18.316e9", True, False),
        ("5.578252 M", 5.578252, "5.578252", True, False),
    ],
)
def test_comparisons(printed: str, ours: float, words: str, is_rounding: bool, needs_reason: bool) -> None:
    one = tool.Comparison("x", "ops", printed, "BNAS", ours)
    assert one.exactly(ours) == words
    assert (one.is_rounding, one.needs_reason) == (is_rounding, needs_reason)


def test_other_ways_to_count_by_hand() -> None:
    def layer(name: str, kind: str, **more: Any) -> LayerCost:
        return LayerCost(name, kind, (4, 2, 2), (8, 2, 2), **more)

    skip = layer("cells.1.skip.reduce", "convolution", real_parameters=10, flops=300)
    conv = layer("conv", "convolution", binary_parameters=50, bops=6400, extra_operations=16 + 32)
    norm = layer("norm", "batch_norm", norm_parameters=8, extra_operations=16)
    pool = layer("pool", "pool", extra_operations=7)
    unread = layer("unread", "convolution", binary_parameters=5, bops=640)
    profile = Profile((skip, conv, norm, pool), (unread,))
    assert data.ours(profile)["parameters"] == 73 and data.ours(profile)["ops"] == 300 + 100
    assert data.with_scales(profile)["flops"] == 300 + 32
    assert data.everything(profile)["flops"] == 300 + 48 + 16 + 7
    assert data.with_norms_and_pools(profile)["ops"] == 300 + 16 + 7 + 100
    assert data.one_bit_each(profile)["size"] == 68
    assert data.with_running_statistics(profile)["parameters"] == 68 + 8
    assert data.with_running_statistics(profile)["size"] == profile.bits + 32 * 8
    assert data.without_reduction_skips(profile) == {"flops": 0, "bops": 7040, "ops": 110}


@pytest.mark.slow
def test_the_command_writes_and_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "page.md"

    def run(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["published_counts.py", "--output", str(path), *words])
        status: int = tool.main()
        return status

    check: Callable[[], int] = lambda: run("--check")  # noqa: E731
    assert check() == 1 and "differs" in capsys.readouterr().out
    assert run() == 0 and check() == 0
    path.write_text(path.read_text(encoding="utf-8").replace("33.515", "33.6"), encoding="utf-8")
    assert check() == 1
