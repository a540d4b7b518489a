"""export, predict and bench as a user types them, and onnxruntime beside the reference."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import binas
from binas.cli.main import main
from binas.deploy import reference
from binas.deploy.compiler import find_compiler
from binas.deploy.model_file import read_model
from binas.deploy.runtime import Loaded, load
from tests.deploy.programs import exported, image_of, shaken
from tests.pages import program_of

Runner = Callable[..., tuple[int, str, str]]
STAGES = "[{name: binary, epochs: 1}]"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A retrained genotype of digits, and pictures."""

    folder = tmp_path_factory.mktemp("deploy")
    before = Path.cwd()
    os.chdir(folder)
    os.environ["BINAS_CACHE"] = str(folder / "cache")
    try:
        words = [
            "--retrain.stages",
            STAGES,
            "--retrain.network.init_channels",
            "4",
            "--retrain.network.num_cells",
            "3",
        ]
        data = ["--data.name", "digits", "--data.subset", "300", "--tensorboard", "false", "--name", "r"]
        assert main(["retrain", "--genotype", "digits_searched", *words, *data, "--device", "cpu"]) == 0
        pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8), np.uint8)
        (folder / "pictures/inner").mkdir(parents=True)
        Image.fromarray(pixels[0]).save(folder / "pictures/a.png")
        Image.fromarray(pixels[1]).save(folder / "pictures/inner/b.pgm")
        yield folder
    finally:
        os.chdir(before)
        del os.environ["BINAS_CACHE"]


@pytest.mark.skipif(find_compiler() is None, reason="no C compiler here")
def test_from_run_to_class(run: Path, binas: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    status, output, error = binas("export", "runs/r")
    assert status == 0, error
    assert "64 of 64 images are given the same class" in output and "of it signs" in output
    assert "stem.1" in output and "classifier" in output
    lines = {}
    for model in ("runs/r", "runs/r/checkpoint.pt", "runs/r/model.binas"):
        status, output, error = binas("predict", model, "pictures", "--json")
        assert status == 0, error
        lines[model] = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        assert [set(line) for line in lines[model]] == [{"file", "class", "index", "probability"}] * 2
    assert lines["runs/r"] == lines["runs/r/checkpoint.pt"] == lines["runs/r/model.binas"]
    _, output, _ = binas("predict", "runs/r/model.binas", "pictures/a.png", "--csv")
    assert output.splitlines()[0] == "file,class,index,probability"
    slow = Loaded(read_model(Path("runs/r/model.binas")), slow=True)
    fast = load("runs/r/model.binas")
    assert slow("pictures/a.png") == fast(Image.open("pictures/a.png")) and slow.runs_on == "NumPy"
    array = np.asarray(Image.open("pictures/a.png"))
    assert fast([array, array[:, :, None]]) == [fast(array)] * 2
    (run / "pictures/bad.png").write_bytes(b"no picture")
    status, output, error = binas("predict", "runs/r/model.binas", "pictures")
    assert status == 1 and "bad.png: is not a readable image" in error and "1 of 3" in error
    assert len(output.splitlines()) == 2
    (run / "pictures/bad.png").unlink()


@pytest.mark.skipif(shutil.which("make") is None or shutil.which("cc") is None, reason="no make or cc here")
def test_the_c_folder_builds_and_tells_the_same_class(
    run: Path, binas: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    status, output, error = binas("export", "runs/r", "--output", "program", "--images", "0")
    assert status == 0 and "make -C program test" in output, error
    done = subprocess.run(["make", "-C", "program", "test"], capture_output=True, text=True)
    assert done.returncode == 0 and "test vector equal" in done.stdout and "warning" not in done.stderr, (
        done.stderr
    )
    _, output, _ = binas("predict", "runs/r", "pictures/inner/b.pgm", "--json")
    said = subprocess.run(["program/model", "pictures/inner/b.pgm"], capture_output=True, text=True)
    assert f": {json.loads(output.splitlines()[-1])['class']} (" in said.stdout
    for picture in (b"P5 2 x", b"P7", b"P5\n8 8\n255\n123", b"P5 99999999999 8 255 "):
        Path("bad.pgm").write_bytes(picture)
        assert subprocess.run(["program/model", "bad.pgm"], capture_output=True).returncode == 1


@pytest.mark.skipif(find_compiler() is None, reason="no C compiler here")
def test_bench_tells_times_and_parts(run: Path, binas: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    status, output, error = binas("bench", "runs/r", "--rounds", "3", "--against", "torch,onnxruntime")
    assert status == 0, error
    assert "torch" in output and "onnxruntime" in output and "1-bit" in output and "one thread" in output
    status, output, _ = binas("bench", "runs/r", "--rounds", "2", "--json", "-", "--chart", "steps.svg")
    assert "<svg" in Path("steps.svg").read_text(encoding="utf-8")
    assert json.loads(output.splitlines()[-1])["memory_bytes"]["activations"] > 0
    figures = json.loads(output.splitlines()[-1])
    assert figures["threads"] == 1 and sum(figures["shares"].values()) == pytest.approx(1)
    assert any(step["kind"] == "1-bit" and step["source"] for step in figures["steps"])
    assert binas("bench", "runs/r", "--against", "tvm")[0] == 2


def test_mistakes_are_told(run: Path, binas: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    for words, told in (
        (("export", "nowhere.pt"), "nowhere.pt"),
        (("export", "runs/r", "--output", "m.txt"), "which format"),
        (("export", "runs/r", "--images", "-1"), "--images"),
        (("predict", "runs/r", "nowhere.png"), "no such image"),
        (("predict", "runs/r", "pictures", "--json", "--csv"), "leave one out"),
        (("predict", "nowhere.binas", "pictures/a.png"), "no such file"),
        (("bench", "resnet99"), "resnet99"),
    ):
        status, _, error = binas(*words)
        assert status == 2 and told in error, (words, error)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_group", "reactnet_a", "bnas_mini", "xnor_resnet18"])
def test_onnx_computes_the_same(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from binas.deploy.onnx_file import write_onnx

    options = {"init_channels": 8, "num_cells": 3} if name == "bnas_mini" else {"width": 0.25}
    model = exported(shaken(binas.create_model(name, num_classes=10, image_size=32, **options)), 3, 32, 32)
    write_onnx(model, tmp_path / "m.onnx")
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        settings = onnxruntime.SessionOptions()
        settings.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        session = onnxruntime.InferenceSession(
            str(tmp_path / "m.onnx"), settings, providers=["CPUExecutionProvider"]
        )
        for seed in range(2):
            image = image_of(model, seed)
            expected = reference.run(model.graph, image)[model.graph.output]
            (found,) = session.run(None, {"input": np.ascontiguousarray(image.transpose(2, 0, 1)[None])})
            assert np.abs(found[0] - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.skipif(find_compiler() is None, reason="no C compiler here")
def test_threads_share_rows_and_give_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BINAS_CACHE", str(tmp_path))
    network = binas.create_model("reactnet_a", num_classes=10, image_size=32, width=0.25)
    model = exported(shaken(network), 3, 32, 32)
    one, three = Loaded(model), Loaded(model, threads=3)
    for seed in range(20):
        image = image_of(model, seed)
        assert np.array_equal(one.scores(image), three.scores(image))


def test_the_program_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BINAS_CACHE", str(tmp_path / "cache"))
    exec(compile(program_of("docs/deploy.md", "load("), "docs/deploy.md", "exec"), {})
    assert (tmp_path / "net.binas").stat().st_size < 20_000


def test_prediction_by_a_file_imports_no_torch(run: Path) -> None:
    code = (
        "import sys; from binas.cli.main import main; status = main(sys.argv[1:]);"
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    words = [sys.executable, "-c", code, "predict", "runs/r/model.binas", "pictures/a.png"]
    if not (run / "runs/r/model.binas").exists():
        assert main(["export", str(run / "runs/r"), "--images", "0"]) == 0
    done = subprocess.run(words, cwd=run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
