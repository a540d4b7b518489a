"""Users' mistakes: exit status 2, one message with file and remedy, no traceback, nothing lost."""

from __future__ import annotations

import json
import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
import torch
from PIL import Image

from binas.run.checkpoint import load_checkpoint
from binas.run.folder import RunFolder

Runner = Callable[..., tuple[int, str, str]]
CHECKPOINT = "runs/tiny_retrain/checkpoint.pt"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_told(result: tuple[int, str, str], *parts: str) -> None:
    status, _, error = result
    assert status == 2, error
    assert error.startswith("binas: error: ") and "Traceback" not in error
    for part in parts:
        assert part in error, error


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--search.batchsize", "3"], ["tiny.yaml", "unknown key 'search.batchsize'", "'batch_size'"]),
        (["--search.batch_size", "many"], ["tiny.yaml", "search.batch_size", "'many'"]),
        (["--search.batch_size", "0"], ["search.batch_size", "greater than or equal to 1"]),
        (["--search.phases.9.epochs", "3"], ["'search.phases.9.epochs'", "none of the 3 positions"]),
        (["--search.strategy", "magic"], ["search.strategy: unknown strategy 'magic'", "gradient, random"]),
        (["--data.name", "cifar"], ["data.name", "did you mean 'cifar10'"]),
        (["--space", "bnaz"], ["bnaz", "did you mean 'bnas'"]),
        (["--space.operations", "[bin_conv]"], ["unknown operation 'bin_conv'", "--plugins FILE"]),
        (["--device", "tpu"], ["device 'tpu'", "auto, cpu, cuda or cuda:N"]),
        (["--device", "cuda:77"], ["device 'cuda:77': not there"]),
        (["--name", "../away"], ["name", "'../away'"]),
        (["--plugins", "none.py"], ["none.py: no such plug-in file"]),
        (
            ["--space.operations", "[binary_group_conv_3x3]", "--space.supernet.init_channels", "6"],
            ["grouping.channels_per_group: 4 does not divide 6", "nearest"],
        ),
        (["--data", "{name: folder, root: nowhere}"], ["nowhere"]),
        (["--retrain.network", "{num_cell: 3}"], ["retrain.network", "'num_cell'", "'num_cells'"]),
        (["--retrain.stages.0.optimizer.name", "adm"], ["retrain.stages.0.optimizer.name", "'adm'"]),
    ],
    ids=lambda value: " ".join(value) if value and value[0].startswith("--") else "",
)
def test_mistakes_in_a_search_make_and_lose_nothing(
    done: Path, binas: Runner, words: list[str], parts: list[str]
) -> None:
    before = contents(done / "runs")
    assert_told(binas("search", "tiny.yaml", "--overwrite", *words), *parts)
    assert contents(done / "runs") == before
    assert {path.name for path in done.iterdir()} == {"runs", "tiny.yaml"}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("serch: {}\n", ["c.yaml: unknown key 'serch'; did you mean 'search'"]),
        ("search: {phases: [{epoch: 3}]}\n", ["c.yaml: unknown key 'search.phases.0.epoch'", "'epochs'"]),
        ("search: [1, 2]\n", ["c.yaml", "search"]),
        ("seed: 1\nseed: 2\n", ["c.yaml", "key 'seed' stands twice"]),
        ("seed: [1\n", ["c.yaml: not valid YAML"]),
        ("", ["c.yaml: holds no mapping"]),
        ("plugins: [gone.py]\n", ["gone.py: no such plug-in file"]),
    ],
    ids=["key", "nested", "type", "twice", "yaml", "empty", "plugin"],
)
def test_mistakes_in_a_file(tiny: Path, binas: Runner, text: str, parts: list[str]) -> None:
    Path("c.yaml").write_text(text)
    assert_told(binas("search", "c.yaml"), *parts)
    assert not Path("runs").exists()


def test_no_such_recipe(tiny: Path, binas: Runner) -> None:
    assert_told(binas("search", "demo_digit"), "demo_digit", "did you mean 'demo_digits'")
    assert_told(binas("retrain"), "--genotype FILE")
    assert_told(binas("retrain", "nothing.json"), "nothing.json: no such genotype file")


def test_an_existing_run_folder(done: Path, binas: Runner) -> None:
    before = contents(done / "runs")
    assert_told(binas("search", "tiny.yaml"), "runs/tiny: exists already", "--resume", "--overwrite")
    words = ["retrain", "runs/tiny/genotype.json"]
    assert_told(binas(*words), "runs/tiny_retrain: exists already")
    (done / "runs/other").mkdir()
    (done / "runs/other/thesis.txt").write_text("x")
    assert_told(binas("search", "tiny.yaml", "--name", "other", "--overwrite"), "was not made by binas")
    assert (done / "runs/other/thesis.txt").exists()
    assert contents(done / "runs/tiny") == {k: v for k, v in before.items() if "/runs/tiny/" in k}
    assert binas("search", "tiny.yaml", "--overwrite")[0] == 0


def image(path: Path, size: tuple[int, int] = (8, 8), mode: str = "L", value: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, (value,) * len(mode) if mode == "RGB" else value).save(path)


@pytest.fixture
def photos(tiny: Path) -> list[str]:
    """A folder of two classes, twelve grey images each, and the words that search it."""
    for name, value in (("cats", 40), ("dogs", 200)):
        for number in range(12):
            image(tiny / f"photos/{name}/{number}.png", value=value + number)
    return ["--data", "{name: folder, root: photos, num_workers: 0}"]


def test_a_folder_of_images(photos: list[str], binas: Runner) -> None:
    assert binas("search", "tiny.yaml", *photos)[0] == 0
    assert binas("retrain", "runs/tiny/genotype.json")[0] == 0
    Path("photos").rename("moved")
    assert_told(binas("eval", CHECKPOINT), "photos", "--data-root")
    status, output, _ = binas("eval", CHECKPOINT, "--data-root", "moved")
    assert status == 0 and "test accuracy" in output
    image(Path("moved/cats/new.png"))
    assert_told(binas("eval", CHECKPOINT, "--data-root", "moved"), CHECKPOINT, "its hash differs")


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (lambda: Path("photos").rename("gone"), ["photos"]),
        (lambda: [path.unlink() for path in Path("photos").rglob("*.png")], ["photos"]),
        (lambda: Path("photos/cats/3.png").write_bytes(b"not an image"), ["photos/cats/3.png"]),
        (
            lambda: Path("photos/cats/3.png").write_bytes(Path("photos/cats/3.png").read_bytes()[:40]),
            ["photos/cats/3.png"],
        ),
        (lambda: image(Path("photos/cats/3.png"), (9, 8)), ["photos/cats", "image_size"]),
        (lambda: image(Path("photos/cats/3.png"), mode="RGB"), ["photos/cats", "channels"]),
        (lambda: Path("photos/dogs").rename("dogs"), ["photos", "class"]),
    ],
    ids=["missing", "empty", "unreadable", "truncated", "sizes", "modes", "one_class"],
)
def test_images_that_do_not_fit(
    photos: list[str], binas: Runner, spoil: Callable[[], Any], parts: list[str]
) -> None:
    spoil()
    assert_told(binas("search", "tiny.yaml", *photos), *parts)
    assert_told(binas("data", "tiny.yaml", *photos), *parts)
    assert not Path("runs").exists()


def edited_genotype(done: Path, **changes: Any) -> str:
    genotype = json.loads((done / "runs/tiny/genotype.json").read_text())
    (done / "g.json").write_text(json.dumps({**genotype, **changes}))
    return "g.json"


def test_a_genotype_of_another_space(done: Path, binas: Runner) -> None:
    words = ["retrain", "--config", "tiny.yaml", "--name", "x", "--genotype"]
    assert_told(binas(*words, "bnas_latest_cell"), "bnas_latest_cell.json: is of another space", "recipe")
    space = json.loads(Path("runs/tiny/genotype.json").read_text())["space"]
    other = edited_genotype(done, space={**space, "operations": ["max_pool_3x3"]})
    for command in (words, ["profile"]):
        assert_told(binas(*command, other), "is of another space")
    assert_told(binas("retrain", other, "--space.network.num_cells", "3"), "use --retrain.network.num_cells")
    assert not Path("runs/x").exists()


@pytest.mark.parametrize("command", [["retrain", "--name", "x"], ["profile"], ["draw"]], ids=lambda c: c[0])
@pytest.mark.parametrize("kind", ["truncated", "empty", "pickle", "version", "unknown_operation"])
def test_a_damaged_genotype(done: Path, binas: Runner, command: list[str], kind: str) -> None:
    whole = Path("runs/tiny/genotype.json").read_bytes()
    edge = json.loads(whole)["normal"]
    match kind:
        case "truncated":
            Path("g.json").write_bytes(whole[: len(whole) // 2])
        case "empty":
            Path("g.json").write_bytes(b"")
        case "pickle":
            Path("g.json").write_bytes(pickle.dumps(Hostile()))
        case "version":
            edited_genotype(done, version=3)
        case _:
            edited_genotype(done, normal=[{**edge[0], "op": "sep_conv"}, *edge[1:]])
    assert_told(binas(*command, "g.json"), "g.json")
    assert not Path("hacked").exists() and not Path("runs/x").exists()


class Hostile:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return (os.system, ("touch hacked",))


def _zip_of_hostile(path: Path) -> None:
    torch.save({"format": "binas-checkpoint", "state": Hostile()}, path)


@pytest.mark.parametrize("command", ["eval", "check", "profile", "retrain", "search"])
@pytest.mark.parametrize(
    "kind", ["missing", "truncated", "empty", "pickle", "hostile_zip", "text", "other_kind"]
)
def test_a_damaged_checkpoint(done: Path, binas: Runner, command: str, kind: str) -> None:
    run = "runs/tiny" if command == "search" else "runs/tiny_retrain"
    path = Path(run) / "checkpoint.pt"
    whole = path.read_bytes()
    match kind:
        case "missing" if command in ("retrain", "search"):
            pytest.skip("such a run begins again")
        case "missing":
            path.unlink()
        case "truncated":
            path.write_bytes(whole[: len(whole) * 2 // 3])
        case "empty":
            path.write_bytes(b"")
        case "pickle":
            path.write_bytes(pickle.dumps(Hostile()))
        case "hostile_zip":
            _zip_of_hostile(path)
        case "text":
            path.write_text("hello")
        case _:
            path.write_bytes(
                Path(f"runs/{'tiny_retrain' if command == 'search' else 'tiny'}/checkpoint.pt").read_bytes()
            )
    words = [command, "--resume", run] if command in ("retrain", "search") else [command, str(path)]
    assert_told(binas(*words), "checkpoint.pt")
    assert not Path("hacked").exists()


def test_a_checkpoint_of_another_network(done: Path, binas: Runner) -> None:
    other = ["--retrain.network", "{init_channels: 8}", "--name", "wide"]
    assert binas("retrain", "runs/tiny/genotype.json", *other)[0] == 0
    Path("runs/wide/checkpoint.pt").replace(CHECKPOINT)
    assert_told(
        binas("retrain", "--resume", "runs/tiny_retrain"), CHECKPOINT, "is a checkpoint of another network"
    )
    start = ["--retrain.stages.0.initial_checkpoint", CHECKPOINT, "--name", "x"]
    assert_told(binas("retrain", "runs/tiny/genotype.json", *start), "is a checkpoint of another network")
    assert not Path("runs/x").exists()


def test_a_loss_that_is_no_number(done: Path, binas: Runner) -> None:
    rate = ["--retrain.stages.1.optimizer", "{name: sgd, learning_rate: 1.0e+37}", "--name", "nan"]
    result = binas("retrain", "runs/tiny/genotype.json", *rate)
    assert_told(result, "fully_binary epoch", "training stops here", "last good checkpoint", "learning rate")
    saved = load_checkpoint("runs/nan/checkpoint.pt", "retrain").state
    assert saved["position"]["step"] == 2  # both epochs of the stage before
    assert all(bool(value.isfinite().all()) for value in saved["model"].values())
    assert binas("eval", "runs/nan/checkpoint.pt")[0] == 0
    search = ["--search.weights.learning_rate", "1.0e+37", "--name", "nan_search"]
    assert_told(binas("search", "tiny.yaml", *search), "warm_up epoch 1/4", "What to try")


@pytest.fixture
def small_disk(done: Path) -> Iterator[Path]:
    """A disk of 1 MiB, where the test may mount one."""
    folder = done / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_loses_nothing(small_disk: Path, binas: Runner) -> None:
    ballast = small_disk / "ballast"
    genotype = "runs/tiny/genotype.json"
    words = ["retrain", "--config", "tiny.yaml", "--genotype", genotype, "--name", "tiny_retrain"]
    size = Path(CHECKPOINT).stat().st_size
    # room for one checkpoint, but not for the next one beside it
    ballast.write_bytes(b"x" * (1024 * 1024 - int(1.5 * size) - 40 * 1024))
    result = binas(*words, "--runs", small_disk)
    assert_told(result, "small/tiny_retrain", "No space left on device", "--resume")
    assert load_checkpoint(small_disk / "tiny_retrain/checkpoint.pt").state["position"]["step"] >= 1
    ballast.unlink()
    status, _, error = binas("retrain", "--resume", small_disk / "tiny_retrain")
    assert status == 0, error
    ours, theirs = (load_checkpoint(p) for p in (small_disk / "tiny_retrain/checkpoint.pt", CHECKPOINT))
    assert all(torch.equal(v, theirs.state["model"][k]) for k, v in ours.state["model"].items())


@pytest.mark.slow
def test_a_limit_on_the_size_of_files(done: Path, spawn: Callable[..., Popen[str]]) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (24_000, 24_000))  # a recipe fits, a checkpoint does not

    command = [
        "-c",
        "import signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from binas.cli.main import main; sys.exit(main(sys.argv[1:]))",
    ]
    finished = subprocess.run(
        [sys.executable, *command, "search", "tiny.yaml", "--runs", "limited"],
        cwd=done,
        capture_output=True,
        text=True,
        preexec_fn=limit,
        check=False,
    )
    assert finished.returncode == 2 and "Traceback" not in finished.stderr
    assert "cannot be written" in finished.stderr and "ulimit" in finished.stderr
    assert binas_resumes(done / "limited/tiny", spawn)


def binas_resumes(folder: Path, spawn: Callable[..., Popen[str]]) -> bool:
    with spawn(folder.parent.parent, "search", "--resume", str(folder)) as process:
        process.communicate()
    return process.returncode == 0


def test_a_folder_that_cannot_be_written(tiny: Path, binas: Runner) -> None:
    Path("runs").write_text("a file")
    assert_told(binas("search", "tiny.yaml"), "runs")


def test_a_run_in_use(done: Path, spawn: Callable[..., Popen[str]]) -> None:
    before = contents(done / "runs/tiny/genotypes")
    with (
        RunFolder.resume("runs/tiny", "search"),
        spawn(done, "search", "tiny.yaml", "--overwrite") as process,
    ):
        output = process.communicate()[0]
    assert process.returncode == 2 and "is being written by another process" in output
    assert contents(done / "runs/tiny/genotypes") == before


def test_argparse_mistakes(tiny: Path, binas: Runner) -> None:
    assert binas("serch")[0] == 2
    assert binas("eval")[0] == 2
    assert binas("eval", "x.pt", "--spilt", "test")[0] == 2
    assert_told(binas("eval", "x.pt"), "x.pt: no such checkpoint")
    assert_told(binas("draw", "bnas_latest_cell", "--output", "cells.bmp"), "cells.bmp", "svg")
    assert_told(binas("profile", "bnas_latest_cell", "--num-cells", "0"), "num_cells")


def test_an_operation_of_a_wrong_shape_is_told_before_the_search(done: Path, binas: Runner) -> None:
    Path("wrong.py").write_text(
        "from torch import nn\nfrom binas.ops import register_op\n"
        "@register_op('unpadded')\ndef unpadded(channels, stride):\n    return nn.AvgPool2d(3, stride)\n"
    )
    space = ["--space.operations", "[skip, unpadded]", "--plugins", "wrong.py", "--name", "unpadded"]
    result = binas("search", "tiny.yaml", *space)
    assert_told(result, "'unpadded' of wrong.py", "expected (2, 4, 8, 8)", "binas ops check")
    assert not Path("runs/unpadded").exists()


def test_a_plugin_that_ends_the_program_is_told(done: Path, binas: Runner) -> None:
    Path("ends.py").write_text("import sys\nsys.exit(3)\n")
    result = binas("search", "tiny.yaml", "--plugins", "ends.py", "--name", "ends")
    assert_told(result, "ends.py", "raised SystemExit", "line 2")
