"""Every command that reads genotypes reads all kinds of them: version 1, 2, with choices, macro."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from binas.cli.main import main

DIGITS = ["--data.name", "digits", "--data.subset", "400", "--data.augmentation.flip", "false"]
STAGES = "[{name: binary, epochs: 1}]"
KINDS = ("v1", "v2", "choices", "macro")


def cell_file(version: int, choices: bool) -> dict[str, Any]:
    def edges() -> list[dict[str, Any]]:
        return [
            {"node": 2, "source": 0, "op": "binary_conv_3x3"},
            {"node": 2, "source": 1, "op": "skip"},
            {"node": 3, "source": 1, "op": "max_pool_3x3"},
            {"node": 3, "source": 2, "op": "binary_conv_3x3"},
        ]

    normal = edges()
    if choices:
        normal[0] |= {"activation": "rprelu", "estimator": {"name": "rsign"}}
    network = {"init_channels": 4, "num_cells": 3, "batch_norm_affine": True}
    space = {
        "name": "tiny",
        "operations": ["zeroise", "skip", "max_pool_3x3", "binary_conv_3x3"],
        "num_nodes": 2,
        "network": network,
    }
    kind = {} if version == 1 else {"kind": "cell"}
    cells = {"num_nodes": 2, "edges_per_node": 2, "normal": normal, "reduce": edges()}
    return {"format": "binas-genotype", "version": version, **kind, "space": space, **cells}


def genotype_file(kind: str, folder: Path) -> Path:
    block = {"kernel_size": 3, "groups": 2, "activation": "rprelu", "skip": "average"}
    macro = {
        "format": "binas-genotype",
        "version": 2,
        "kind": "macro",
        "space": {
            "kind": "macro",
            "name": "tiny",
            "stem": {"channels": [4, 8]},
            "stages": [{"channels": [8, 16], "depth": [1, 2], "stride": 2, "groups": [1, 2]}],
        },
        "stem": {"kind": "cifar", "channels": 4},
        "stages": [{"channels": 8, "stride": 2, "blocks": [block, block]}],
    }
    data = {
        "v1": cell_file(1, choices=False),
        "v2": cell_file(2, choices=False),
        "choices": cell_file(2, choices=True),
        "macro": macro,
    }[kind]
    file = folder / f"{kind}.json"
    file.write_text(json.dumps(data))
    return file


@pytest.mark.parametrize("kind", KINDS)
def test_commands_read_every_kind(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = str(genotype_file(kind, tmp_path))

    def said(*words: str, rc: int = 0) -> str:
        assert main([*words]) == rc, capsys.readouterr().err
        captured = capsys.readouterr()
        return captured.out + captured.err

    assert "OPs" in said("profile", file)
    for ending in ("svg", "png", "pdf", "dot"):
        said("draw", file, "-o", f"picture.{ending}")
        assert (tmp_path / f"picture.{ending}").stat().st_size > 500
    drawn = (tmp_path / "picture.dot").read_text()
    assert ("rprelu" in drawn) == (kind in ("choices", "macro"))
    stages = ["--retrain.stages", STAGES, "--runs", "runs", "--tensorboard", "false"]
    said("retrain", "--genotype", file, "--name", "one", *stages, *DIGITS, "--device", "cpu")
    checkpoint = "runs/one/checkpoint.pt"
    assert "test accuracy" in said("eval", checkpoint)
    assert "binary: each of" in said("check", checkpoint)
    counted = json.loads(said("profile", checkpoint, "--json", "-"))
    whole = said(
        "profile", "runs/one/genotype.json", "--in-channels", "1", "--image-size", "8", "--json", "-"
    )
    for key in ("parameters", "bits", "flops", "bops"):
        assert json.loads(whole)[key] == counted[key] > 0
    rows = said("sensitivity", checkpoint)
    assert "none" in rows
    squeeze = ("squeeze", checkpoint, "--init-channels", "2")
    if kind == "macro":
        assert "macro genotype (kind: macro)" in said(*squeeze, rc=2)
        assert "--method binas evolves" in said("evolve", "evolve_width_cells", "--genotype", file, rc=2)
        wrong = ("--retrain.network.num_cells", "4", *stages, *DIGITS)
        assert "retrain.network" in said("retrain", "--genotype", file, "--name", "two", *wrong, rc=2)
    else:
        assert "2 of 4 channels" in said(*squeeze)


def test_random_searches_macro_spaces_and_gradient_refuses_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    search = ["search", "demo_digits", "--space", "binas_macro", "--device", "cpu"]
    assert main([*search, "--name", "refused"]) == 2
    error = capsys.readouterr().err
    assert "search.strategy: 'gradient' does not search space 'binas_macro'" in error
    assert "strategies that do: binas, random" in error
    assert not Path("runs/refused").exists()
    limits = ["--limits", "{ops: 1e6}", "--space.binarization.pad_value", "1"]
    assert main([*search, "--strategy", "random", "--name", "drawn", *limits]) == 0
    found = json.loads(Path("runs/drawn/genotype.json").read_text())
    assert found["kind"] == "macro"
    assert found["space"]["binarization"]["pad_value"] == 1
    front = json.loads(Path("runs/drawn/front.json").read_text())
    assert front["front"][0]["ops"] <= 1e6
    assert Path("runs/drawn/stages.svg").is_file()
