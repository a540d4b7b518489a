"""Latency tables: signatures, sums, the command that measures, limits in a real run, mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from binas.arch.genotype import read_genotype
from binas.arch.network import Network
from binas.arch.space import NetworkSettings
from binas.binarize import Binarization, BinarizerSpec, BinaryConv2d
from binas.cli.main import main
from binas.config import find_file
from binas.errors import UserError
from binas.ops import OPS
from binas.profile import Profile, profile_genotype, profile_module
from binas.profile.executed import executed_layers
from binas.profile.latency import Entry, LatencyMilliseconds, LatencyTable, signature, signatures
from binas.recipe import load_recipe
from binas.run.metrics import read_metrics

RECIPE = """\
name: tiny
num_threads: 1
tensorboard: false
data: {name: digits, subset: 120}
model: {name: vgg_small, width: 0.0625}
evolve:
  evaluations: 7
  population: 3
  references: false
  operators: {draws: 20}
  training: {stages: [{name: fully_binary, epochs: 1, optimizer: {learning_rate: 3e-3}}]}
  width: {ratios: [0.5, 1]}
limits: {latency_ms: {table: lat.yaml}}
retrain:
  stages: [{name: fully_binary, epochs: 1}]
"""
FIRST = "conv 3x3/1 groups 1 dilation 1, 1x8x8 -> 4x8x8, weights 32 bits, inputs 32 bits"
Runner = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    return tmp_path


def tool(*words: str) -> int:
    """Runs `binas latency` on the recipe."""
    try:
        return main(["latency", "tiny.yaml", "--runs", "1", *words])
    except SystemExit as end:  # argparse
        return int(end.code or 0)


def write_times(path: Path, source: Path, time: Callable[[str], float]) -> None:
    """The table of these layers with other times."""
    entries = LatencyTable.read(source).entries
    LatencyTable(
        device="made up", unit="ms", entries=tuple(Entry(layer=e.layer, ms=time(e.layer)) for e in entries)
    ).write(path)


def channels_of(layer: str) -> int:
    """Input channels of a layer by its signature: a made-up time that depends on the genome only."""
    return int(layer.partition(" -> ")[0].split()[-1].split("x")[0])


# ---- signatures and sums


def signature_of(module: nn.Module, *shape: int) -> str:
    (layer,) = [
        layer for layer in executed_layers(module, torch.zeros(1, *shape)) if layer.flops + layer.bops
    ]
    return signature(layer)


def test_signatures_in_words() -> None:
    conv = BinaryConv2d(64, 128, 3, stride=2, padding=1, groups=16)
    words = "conv 3x3/2 groups 16 dilation 1, 64x32x32 -> 128x16x16, weights 1 bit, inputs 1 bit"
    assert signature_of(conv, 64, 32, 32) == words
    conv.binarize_activations = False
    assert signature_of(conv, 64, 32, 32) == words.replace("inputs 1 bit", "inputs 32 bits")
    dilated = nn.Conv2d(2, 4, (3, 5), stride=(1, 2), padding=(2, 4), dilation=2)
    told = "conv 3x5/1x2 groups 1 dilation 2, 2x6x8 -> 4x6x4, weights 32 bits, inputs 32 bits"
    assert signature_of(dilated, 2, 6, 8) == told
    assert signature_of(nn.Linear(1280, 10), 1280) == "linear 1280 -> 10, weights 32 bits, inputs 32 bits"


def test_codes_of_several_bases_are_told_apart_from_wider_ones() -> None:
    def of(**weight: Any) -> str:
        binarization = Binarization(weight=BinarizerSpec.model_validate(weight))
        return signature_of(BinaryConv2d(2, 4, 1, binarizations=(binarization,)), 2, 3, 3)

    assert of(name="dorefa", bits=2).endswith("weights 2 bits, inputs 1 bit")
    assert of(name="abc_net", bases=2).endswith("weights 2 x 1 bit, inputs 1 bit")


def test_closed_form_and_executed_have_the_same_signatures() -> None:
    genotype = read_genotype(find_file("bnas_latest_cell", "genotypes"), OPS)
    settings = NetworkSettings(num_cells=4, init_channels=6, widths=(1, 2, 0.5, 1))
    closed = profile_genotype(genotype, 1, (9, 7), 3, settings)
    run = profile_module(Network(genotype, 1, 3, settings=settings), 1, (9, 7))
    told = sorted(words for words, _ in signatures(closed.layers))
    assert told == sorted(words for words, _ in signatures(run.layers))
    assert any("dilation 2" in words for words in told) and any("/2 " in words for words in told)


def test_a_latency_is_the_sum_over_layers_and_their_runs(tmp_path: Path) -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        twice := nn.Conv2d(2, 2, 1),
        nn.ReLU(),
        twice,
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    layers = profile_module(network, 1, (4, 4)).layers
    times = dict(zip(dict(signatures(layers)), (0.5, 0.25, 2.0), strict=True))
    file = tmp_path / "lat.json"
    entries = tuple(Entry(layer=words, ms=ms) for words, ms in times.items())
    LatencyTable(device="d", unit="ms", entries=entries).write(file)
    kinds = [layer.kind for layer in layers if layer.runs == 2]
    assert kinds == ["convolution"]
    assert LatencyMilliseconds(file)(Any, Profile(layers)) == 0.5 + 2 * 0.25 + 2.0


def test_a_table_reads_as_it_was_written(tmp_path: Path) -> None:
    entries = (Entry(layer="linear 3 -> 2, „x“", ms=1e-5), Entry(layer="b", ms=2))
    table = LatencyTable(device="a: b", unit="ms", entries=entries)
    for name in ("t.yaml", "t.json"):
        table.write(tmp_path / name)
        assert LatencyTable.read(tmp_path / name) == table
    other = table.model_copy(update={"entries": entries[::-1]})
    assert other.digest() == table.digest()
    assert table.model_copy(update={"entries": entries[:1]}).digest() != table.digest()
    LatencyTable(device="d", unit="ms", entries=()).write(tmp_path / "none.yaml")
    assert LatencyTable.read(tmp_path / "none.yaml").entries == ()


# ---- the command, and a limit in a real run


def test_the_command_adds_to_a_table(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none = ("--genomes", "0", "--evolve.width.ratios=[0.5, 1, 2]")
    assert tool(*none) == 0
    first = LatencyTable.read(here / "lat.yaml")
    assert all(entry.ms > 0 for entry in first.entries)
    named = ("--genome", "0.5,1.0,0.5,1.0,0.5,1.0")
    assert tool(*none, *named) == 0
    second = LatencyTable.read(here / "lat.yaml")
    assert second.entries[: len(first.entries)] == first.entries
    # the others have the shapes of layers in the smallest network
    new = [entry.layer for entry in second.entries[len(first.entries) :]]
    assert new == ["conv 3x3/1 groups 1 dilation 1, 4x8x8 -> 8x8x8, weights 1 bit, inputs 1 bit"]
    assert tool(*none, *named, "--data.subset", "130") == 0
    assert LatencyTable.read(here / "lat.yaml") == second and "no layer is new" in capsys.readouterr().out
    for words, told in {
        ("--genome", "1,2"): "2 values, and there are 6 genes",
        ("--genome", "0.5,0.5,0.5,0.5,0.5,7"): "'7' is no choice of ratios.5: 0.5, 1.0",
        ("--threads", "2"): "name another one with --output FILE",
        ("--runs", "0"): "numbers from 1 on",
        ("--genoms", "3"): "unknown key 'genoms'",
        ("word",): "unrecognized arguments: word",
    }.items():
        assert tool(*words) == 2
        assert told in capsys.readouterr().err


def test_a_limit_keeps_every_trained_candidate_below_it(here: Path, binas: Runner) -> None:
    assert tool("--genomes", "100") == 0
    status, out, error = binas("evolve", "tiny.yaml", "--name", "told")
    assert status == 0 and "latency_ms by device" in out, error
    document = json.loads((here / "runs/told/front.json").read_text())
    assert document["limits"] == {} and document["infeasible"] == 0
    assert all(row["latency_ms"] > 0 for row in document["front"])
    write_times(here / "made.yaml", here / "lat.yaml", channels_of)
    words = ("--limits.latency_ms.table", "made.yaml", "--limits.latency_ms.at_most", "80")
    status, _, error = binas("evolve", "tiny.yaml", *words)
    assert status == 0, error
    lines = read_metrics(here / "runs/tiny")
    trained = [line for line in lines if line["feasible"]]
    assert len(lines) == 7 and trained
    for line in lines:
        # made up: the input channels of all layers, of the linear one 1×1 pixels
        widths = [8, 8, 16, 16, 32, 32]
        assert line["latency_ms"] == 1 + sum(w * r for w, r in zip(widths, line["genome"], strict=True))
        assert line["feasible"] == (line["latency_ms"] <= 80)
    document = json.loads((here / "runs/tiny/front.json").read_text())
    assert document["limits"]["latency_ms"] == 80
    assert document["measures"]["latency_ms"]["device"] == "made up"
    assert all(row["latency_ms"] <= 80 for row in document["front"])


def test_workers_of_another_table_are_refused(here: Path, binas: Runner) -> None:
    assert tool("--genomes", "100") == 0
    words = ("evolve", "tiny.yaml", "--storage", "s.journal", "--study", "both", "--evolve.evaluations", "3")
    assert binas(*words, "--name", "first")[0] == 0
    (here / "copy.yaml").write_text("# the same\n" + (here / "lat.yaml").read_text())
    status, out, _ = binas(*words, "--name", "second", "--limits.latency_ms.table", "copy.yaml")
    assert status == 0 and "0 of them here" in out, "the same table under another name"
    write_times(here / "made.yaml", here / "lat.yaml", channels_of)
    status, _, error = binas(*words, "--name", "third", "--limits.latency_ms.table", "made.yaml")
    assert status == 2 and "begun with other settings: limits.latency_ms.table differs" in error


# ---- mistakes


def test_a_table_lies_beside_its_recipe(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "lat.yaml").write_text("")
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert load_recipe("../tiny.yaml", {}).limits.entries == {"latency_ms": {"table": "../lat.yaml"}}
    told = {"limits.latency_ms.table": "other.yaml"}
    assert load_recipe("../tiny.yaml", told).limits.entries == {"latency_ms": {"table": "other.yaml"}}


def test_a_missing_layer_is_told_with_the_nearest(here: Path, binas: Runner) -> None:
    near = FIRST.replace("4x8x8", "5x8x8")
    (here / "lat.yaml").write_text(f"device: d\nunit: ms\nentries: [{{layer: '{near}', ms: 1}}]\n")
    status, _, error = binas("evolve", "tiny.yaml")
    assert status == 2 and not (here / "runs").exists()
    for words in ("lat.yaml: lacks the layer", f"'{FIRST}'", f"'{near}'", "binas latency RECIPE"):
        assert words in error, error
    genome = error.partition("(genome ")[2].partition(")")[0]
    (here / "lat.yaml").unlink()
    assert tool("--genomes", "0", "--genome", genome) == 0
    assert FIRST in {entry.layer for entry in LatencyTable.read(here / "lat.yaml").entries}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1, 2]", "lat.yaml: holds no mapping"),
        ("device: d\nunit: ms\nentries: [{layer: a, ms: -1}]", "entries.0.ms: Input should be greater"),
        ("device: d\nunit: ms\nentries: [{layer: a, ms: .nan}]", "entries.0.ms"),
        ("device: d\nunit: ms\nentries: [{layer: a, time: 1}]", "unknown key 'entries.0.time'"),
        ("device: d\nunit: s\nentries: []", "unit: Input should be 'ms'"),
        ("unit: ms\nentries: []", "key 'device' is missing"),
        ("device: d\nunit: ms\nentries: [{layer: a, ms: 1}, {layer: a, ms: 2}]", "'a' stands twice"),
        ("device: d\nunit: ms\nentries: []", "it has none at all"),
    ],
)
def test_a_bad_table_is_told(here: Path, binas: Runner, text: str, told: str) -> None:
    (here / "lat.yaml").write_text(text)
    status, _, error = binas("evolve", "tiny.yaml")
    assert status == 2 and told in error and "lat.yaml" in error, error


def test_no_table_is_told(here: Path, binas: Runner) -> None:
    status, _, error = binas("evolve", "tiny.yaml")
    assert status == 2 and "limits.latency_ms.table: lat.yaml: no such file" in error
    words = ("--limits.latency_ms", "{at_most: 1}")
    status, _, error = binas("evolve", "tiny.yaml", *words)
    assert status == 2 and "measure 'latency_ms': option 'table' is missing" in error
    with pytest.raises(UserError, match="a number from 0 on is needed"):
        load_recipe("tiny.yaml", {"limits.latency_ms.at_most": -1})
