"""The commands as a user types them, in an empty folder."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
import torch
import yaml

from binas.cli.main import main
from binas.config import describe, shipped_names
from binas.data.open_data import Data
from binas.recipe import Recipe, load_recipe
from binas.run.folder import read_manifest
from binas.run.metrics import read_metrics

Runner = Callable[..., tuple[int, str, str]]


def test_the_files_of_a_search_and_a_retraining(done: Path) -> None:
    names = {path.name for path in (done / "runs/tiny").iterdir()} - {".lock"}
    assert names == {
        "cells.svg",
        "checkpoint.pt",
        "config.yaml",
        "front.json",
        "genotype.json",
        "genotypes",
        "manifest.json",
        "metrics.jsonl",
    }
    assert len(list((done / "runs/tiny/genotypes").iterdir())) == 4
    manifest = read_manifest(done / "runs/tiny")
    assert manifest["kind"] == "search" and manifest["seed"] == 0 and manifest["device"] == "cpu"
    assert {"train", "search_validation", "test"} == set(manifest["splits"])
    assert manifest["versions"]["torch"] == str(torch.__version__)
    recorded = load_recipe(str(done / "runs/tiny/config.yaml"), {})
    assert recorded == load_recipe("tiny.yaml", {})
    search = read_metrics(done / "runs/tiny")
    assert [line["step"] for line in search] == [0, 1, 2, 3]
    wanted = {
        "train_loss",
        "validation_loss",
        "entropy",
        "temperature/normal",
        "temperature/reduce",
        "genotype",
        "time/images_per_second",
        "time/seconds_left",
        "learning_rate",
        "diversity",
    }
    assert wanted <= set(search[-1])
    assert sum(value for name, value in search[-1].items() if name.startswith("operations/")) == 8
    retrain = read_metrics(done / "runs/tiny_retrain")
    assert [line["stage"] for line in retrain] == ["binary_activations"] * 2 + ["fully_binary"] * 2
    results = read_manifest(done / "runs/tiny_retrain")["results"]
    assert results["stages"][-1]["validation_loss"] == retrain[-1]["validation_loss"]


def test_the_printed_commands_run(tiny: Path, binas: Runner) -> None:
    status, output, _ = binas("search", "tiny.yaml", "--search.phases.1.epochs", "1", "--name", "a/b")
    assert status == 0
    command = re.search(r"^next: binas (retrain .*)$", output, re.M)
    assert command is not None
    status, output, _ = binas(*shlex.split(command[1]))
    assert status == 0 and Path("runs/a/b_retrain/checkpoint.pt").is_file()
    command = re.search(r"^next: binas (eval .*)$", output, re.M)
    assert command is not None
    status, output, _ = binas(*shlex.split(command[1]))
    assert status == 0 and output.startswith("test accuracy 0.")


def test_eval_of_the_validation_images_equals_the_last_line(done: Path, binas: Runner) -> None:
    checkpoint = "runs/tiny_retrain/checkpoint.pt"
    status, output, _ = binas("eval", checkpoint, "--split", "validation", "--json", "--device", "cpu")
    last = read_metrics("runs/tiny_retrain")[-1]
    result = json.loads(output)
    assert status == 0
    assert (result["accuracy"], result["loss"]) == (last["validation_accuracy"], last["validation_loss"])
    assert (result["split"], result["epochs"], result["stage"]) == ("validation", 4, "fully_binary")
    assert json.loads(binas("eval", checkpoint, "--json")[1])["images"] == 12


def test_only_eval_opens_the_test_images(tiny: Path, binas: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def refuse(self: Data) -> Any:
        opened.append(self.name)
        raise AssertionError("the test split was opened")

    monkeypatch.setattr(Data, "test", refuse)
    few = ["--search.phases.1.epochs", "1", "--retrain.stages.0.epochs", "1"]
    assert binas("search", "tiny.yaml", *few)[0] == 0
    assert binas("retrain", "runs/tiny/genotype.json", "--retrain.stages.0.epochs", "1")[0] == 0
    checkpoint = "runs/tiny_retrain/checkpoint.pt"
    assert binas("check", checkpoint)[0] == 0
    assert binas("eval", checkpoint, "--split", "validation")[0] == 0
    assert not opened
    with pytest.raises(AssertionError, match="the test split was opened"):
        main(["eval", checkpoint])


def test_the_same_seed_in_a_fresh_process_gives_the_same_bytes(
    done: Path, spawn: Callable[..., Popen[str]]
) -> None:
    with spawn(done, "search", "tiny.yaml", "--runs", "again") as process:
        output = process.communicate()[0]
    assert process.returncode == 0, output
    for name in ["genotype.json", *(f"genotypes/epoch_{number:04d}.json" for number in range(1, 5))]:
        assert (done / "again/tiny" / name).read_bytes() == (done / "runs/tiny" / name).read_bytes()


def test_a_random_genotype(tiny: Path, binas: Runner) -> None:
    status, output, _ = binas("search", "tiny.yaml", "--strategy", "random", "--name", "r")
    assert status == 0 and "(drawn at random)" in output
    genotype = json.loads(Path("runs/r/genotype.json").read_text())
    assert genotype["provenance"]["recipe"]["search"]["strategy"] == "random"
    assert not Path("runs/r/checkpoint.pt").exists()
    assert binas("search", "tiny.yaml", "--strategy", "random", "--name", "s", "--seed", "1")[0] == 0
    assert Path("runs/s/genotype.json").read_text() != Path("runs/r/genotype.json").read_text()


def test_retrain_without_a_recipe_uses_the_one_of_the_genotype(done: Path, binas: Runner) -> None:
    status, _, _ = binas("retrain", "runs/tiny/genotype.json", "--name", "own")
    assert status == 0
    ours, theirs = (torch.load(f"runs/{n}/checkpoint.pt", weights_only=True) for n in ("own", "tiny_retrain"))
    model = ours["state"]["model"]
    assert all(torch.equal(value, model[name]) for name, value in theirs["state"]["model"].items())
    recorded = yaml.safe_load(Path("runs/own/config.yaml").read_text())
    assert recorded["space"]["operations"] == ["zeroise", "skip", "binary_conv_3x3"]


def test_tensorboard_shows_curves_alphas_and_cells(tiny: Path, binas: Runner) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ["--tensorboard", "true", "--search.picture_interval", "3", "--search.phases.1.epochs", "3"]
    assert binas("search", "tiny.yaml", *words)[0] == 0
    events = EventAccumulator("runs/tiny/tensorboard", size_guidance={"images": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("entropy")] == [0, 1, 2, 3, 4]
    for name in ("alphas/normal", "alphas/reduce", "cells"):
        assert [event.step for event in events.Images(name)] == [0, 3, 4]


def test_profile_and_draw(done: Path, binas: Runner) -> None:
    status, output, _ = binas("profile", "runs/tiny/genotype.json", "--json", "-")
    assert status == 0
    from_checkpoint = json.loads(binas("profile", "runs/tiny_retrain/checkpoint.pt", "--json", "-")[1])
    profile = json.loads(output)
    assert (
        profile["parameters"] == from_checkpoint["parameters"] and profile["bits"] == from_checkpoint["bits"]
    )
    assert binas("draw", "runs/tiny/genotype.json", "--output", "c.png")[0] == 0
    assert Path("c.png").read_bytes().startswith(b"\x89PNG")


def test_ops_data_and_import(tiny: Path, binas: Runner) -> None:
    status, output, _ = binas("ops")
    assert status == 0 and len(output.splitlines()) >= 12
    assert all(row["summary"] for row in json.loads(binas("ops", "--json")[1]))
    assert binas("ops", "check", "skip")[0] == 0
    status, output, _ = binas("data", "tiny.yaml", "--output", "grid.png")
    assert status == 0 and "stripes_0" in output and Path("grid.png").is_file()
    cell = "[" + ", ".join(f"('sep_conv_3x3', {source})" for source in (0, 1) * 4) + "]"
    text = f"Genotype(normal={cell}, normal_concat=range(2, 6), reduce={cell}, reduce_concat=range(2, 6))"
    Path("legacy.txt").write_text(text)
    assert binas("import", "legacy.txt", "--names", "bats", "--output", "g.json")[0] == 0
    assert json.loads(Path("g.json").read_text())["normal"][0]["op"] == "binary_group_conv_3x3"
    Path("legacy.txt").write_text("__import__('os').system('touch hacked')")
    assert binas("import", "legacy.txt", "--names", "darts")[0] == 2
    assert not Path("hacked").exists()


@pytest.mark.parametrize(
    ("flag", "value", "path", "expected"),
    [
        ("--search.phases.0.epochs", "7", "search.phases.0.epochs", 7),
        (
            "--retrain.stages.1.optimizer.learning_rate",
            "3e-4",
            "retrain.stages.1.optimizer.learning_rate",
            3e-4,
        ),
        ("--space.supernet.num_cells", "3", "space.supernet.num_cells", 3),
        ("--retrain.network", "{num_cells: 5}", "retrain.network.num_cells", 5),
        ("--search.weights.learning_rate", "0.5", "search.weights.learning_rate", 0.5),
        ("--retrain.stages.0.binarization.pad_value", "-1", "retrain.stages.0.binarization.pad_value", -1.0),
        ("--data.augmentation.flip", "true", "data.augmentation.flip", True),
        ("--plugins.0", "a.py", "plugins", None),
        ("--expected.note", "no", "expected.note", "no"),
    ],
)
@pytest.mark.parametrize("config", [[], ["demo_digits"]], ids=["defaults", "demo"])
def test_keys_on_the_command_line(
    tiny: Path, binas: Runner, config: list[str], flag: str, value: str, path: str, expected: Any
) -> None:
    before = yaml.safe_load(binas("search", *config, "--print_config")[1])
    status, output, error = binas("search", *config, flag, value, "--print_config")
    if expected is None:
        assert status == 2 and "positions" in error
        return
    assert status == 0, error
    found = yaml.safe_load(output)
    for part in path.split("."):
        found = found[int(part) if part.isdigit() else part]
    assert found == expected
    after = yaml.safe_load(output)
    differing = {key for key in after if after[key] != before[key]}
    assert differing <= {path.split(".")[0]}
    assert not Path("runs").exists()


def test_an_override_changes_nothing_else(tiny: Path) -> None:
    before = load_recipe(None, {}).model_dump(mode="json")
    after = load_recipe(None, {"search.weights.learning_rate": 0.5}).model_dump(mode="json")
    before["search"]["weights"]["learning_rate"] = 0.5
    before["search"]["strategy"] = "gradient"  # which alone has weights to set the rate of
    assert after == before


def dotted(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Every leaf of a dumped recipe by its dotted key."""
    if isinstance(value, dict) and value:
        return [pair for key, inner in value.items() for pair in dotted(inner, f"{prefix}{key}.")]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [pair for i, inner in enumerate(value) for pair in dotted(inner, f"{prefix}{i}.")]
    return [(prefix.removesuffix("."), value)]


def test_every_key_can_be_given_and_means_itself(tiny: Path) -> None:
    """Each key, overridden with the value that it has, leaves the recipe as it is."""
    from binas.config import parse_override

    whole = load_recipe("tiny.yaml", {})
    leaves = dotted(whole.model_dump(mode="json"))
    assert len(leaves) > 100
    for key, value in leaves:
        name, given = parse_override(f"{key}={json.dumps(value)}")
        assert load_recipe("tiny.yaml", {name: given}) == whole, key


@pytest.mark.parametrize("config", [None, *shipped_names("configs")])
def test_print_config_loads_back_to_the_same_recipe(tiny: Path, binas: Runner, config: str | None) -> None:
    expected = load_recipe(config, {})
    command = ["search", config] if expected.model is None else ["retrain", "--config", config]
    status, output, _ = binas(*(word for word in command if word), "--print_config")
    assert status == 0
    Path("again.yaml").write_text(output)
    assert load_recipe("again.yaml", {}) == expected


@pytest.mark.parametrize(
    "command", ["search", "retrain", "eval", "check", "profile", "draw", "ops", "data", "import"]
)
def test_help(binas: Runner, command: str) -> None:
    status, output, _ = binas(command, "--help")
    assert status == 0 and f"usage: binas {command}" in output
    if command in ("search", "retrain"):
        assert "--search.phases.0.epochs" in output and "shipped recipes: " in output


def test_every_key_has_a_help_text_or_parts() -> None:
    rows = list(describe(Recipe))
    keys = [key for key, _, _ in rows]
    bare = [
        key for key, _, text in rows if not text and not any(other.startswith(f"{key}.") for other in keys)
    ]
    assert [key for key in bare if not key.endswith(".name")] == []


def test_version_and_no_command(binas: Runner) -> None:
    assert binas("--version")[1].startswith("binas ")
    assert "COMMAND" in binas()[1]
