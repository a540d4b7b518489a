"""Two ranks train what one process trains: launched by torchrun, gloo on the CPU, compared in float64."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from binas.cli.main import main
from binas.data.batches import Batches
from binas.data.image_set import ImageSet
from binas.engine.data_parallel import average_buffers, take_from_first
from binas.engine.scaling import rate_values
from binas.engine.sync_batch_norm import synchronise
from binas.errors import UserError
from binas.run.distributed import num_ranks, rank_error_text
from binas.run.folder import RunFolder, read_manifest
from binas.run.metrics import read_metrics

PAGE = Path(__file__).parents[2] / "docs" / "distributed.md"
Runner = Callable[..., tuple[int, str, str]]
RECIPE = """\
name: tiny
num_threads: 1
tensorboard: false
data: {name: synthetic, images_per_class: 40, num_classes: 3, augmentation: {crop_padding: 1, flip: true}}
space:
  base: binas
  operations: [zeroise, skip, max_pool_3x3, binary_conv_3x3]
  num_nodes: 2
  supernet: {init_channels: 4, num_cells: 2, reductions: [1], stem_multiplier: 1}
  network: {init_channels: 4, num_cells: 2, reductions: [1], stem_multiplier: 1}
search:
  batch_size: 8
  phases:
    - {name: warm_up, trains: weights, epochs: 1}
    - {name: wide, epochs: 2, end: {operations_per_edge: 3}}
    - {name: narrow, epochs: 1, relaxation: single_path}
retrain:
  batch_size: 10
  validation_fraction: 0.2
  stages:
    - {name: binary_activations, epochs: 1, binarize_weights: false, compactness: {weight: 0.1}}
    - {name: fully_binary, epochs: 2}
"""


TOGETHER = ("--runs", "together", "--data.augmentation.flip", "false")


def launch(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Two ranks, started by torchrun in a folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)},
    )


def norms() -> dict[str, nn.Module]:
    """Batch-norms of every kind, each with an input shape of its own."""
    torch.manual_seed(0)
    kinds: dict[str, nn.Module] = {
        "affine": nn.BatchNorm2d(3),
        "plain": nn.BatchNorm2d(3, affine=False),
        "cumulative": nn.BatchNorm2d(3, momentum=None),
        "untracked": nn.BatchNorm2d(3, track_running_stats=False),
        "vectors": nn.BatchNorm1d(3),
    }
    for norm in kinds.values():
        for parameter in norm.parameters():
            nn.init.normal_(parameter)
        norm.double()
    return kinds


def batch_of(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """What enters a batch-norm, far from 0, and the gradient of what leaves it."""
    torch.manual_seed(1)
    shape = (10, 3) if isinstance(norm, nn.BatchNorm1d) else (10, 3, 4, 5)
    return torch.randn(shape, dtype=torch.float64) + 1000, torch.randn(shape, dtype=torch.float64)


def passed(norm: nn.Module, rows: slice) -> dict[str, Tensor]:
    """Two training passes over some rows of the batch, and one in evaluation: outputs, gradients, state."""
    x, by_y = batch_of(norm)
    found: dict[str, Tensor] = {}
    for number in range(2):
        part = (x + number)[rows].requires_grad_()
        norm.zero_grad()
        y = norm(part)
        y.backward(by_y[rows])
        assert part.grad is not None
        found |= {f"y{number}": y.detach(), f"by_x{number}": part.grad}
    if norm.running_mean is not None:
        found["evaluation"] = norm.eval()(x[rows]).detach()
    by_parameters = {f"by_{name}": p.grad for name, p in norm.named_parameters() if p.grad is not None}
    return found | by_parameters | {name: t.clone() for name, t in norm.state_dict().items()}


def in_double(parts: Any) -> Any:
    """A search or retraining whose images are float64 too; the default type must be."""
    for batches in (parts.train_batches, parts.validation_batches):
        batches._scale, batches._shift = batches._scale.double(), batches._shift.double()
    return parts


def train(folder: Path, whole_batch: int, retrain: bool = False, sync: bool = True) -> dict[str, Any]:
    """A search, or a retraining of a shipped genotype's like, in float64; what it left behind."""
    from binas.arch.sample import random_genotype
    from binas.data.open_data import open_data
    from binas.recipe import load_recipe
    from binas.run.distributed import Distributed, is_first_rank, wait_for_all
    from binas.run.files import write_atomic
    from binas.search.search import Search
    from binas.train.retrain import Retraining

    torch.set_default_dtype(torch.float64)
    write_atomic(folder / "recipe.yaml", RECIPE)  # both ranks do, while the other reads
    recipe, cpu = load_recipe(str(folder / "recipe.yaml"), {}), torch.device("cpu")
    data, together = open_data(recipe.data), Distributed(sync_batch_norm=sync)
    settings: Any = recipe.retrain if retrain else recipe.search
    settings = settings.model_copy(update={"batch_size": whole_batch})
    try:
        if retrain:
            genotype = random_genotype(recipe.space, random.Random(3))
            parts: Any = Retraining(
                genotype,
                settings,
                data,
                seed=0,
                device=cpu,
                tensorboard=False,
                plugins=(),
                distributed=together,
            )
        else:
            parts = Search(
                recipe.space,
                settings,
                data,
                seed=0,
                device=cpu,
                plugins=(),
                provenance={},
                tensorboard=False,
                distributed=together,
            )
        kind, path = ("retrain", folder / "retrain") if retrain else ("search", folder / "search")
        with RunFolder.create(path, kind) if is_first_rank() else RunFolder.follow(path, kind) as run:
            result = in_double(parts).run(run)
            wait_for_all()
            state = torch.load(run.checkpoint, weights_only=True)["state"]
            result = result if isinstance(result, dict) else str(result)
            return {"state": state, "metrics": read_metrics(path), "result": result}
    finally:
        torch.set_default_dtype(torch.float32)


def worker(folder: Path) -> None:
    """What each rank does in the launch that most tests look at; leaves what it found in a file."""
    import binas.search.search as search
    import binas.train.retrain as retraining
    from binas.run.distributed import check_same, joined_ranks, rank, wait_for_all

    seen: list[dict[str, Tensor]] = []

    def recorded(original: Callable[..., None]) -> Callable[..., None]:
        def check(module: nn.Module, *words: str) -> None:
            seen.append({name: t.clone() for name, t in module.state_dict().items()})
            original(module, *words)

        return check

    for room in (search, retraining):
        room.check_replicas = recorded(room.check_replicas)  # type: ignore[attr-defined]
    found: dict[str, Any] = {}
    with joined_ranks():
        rows = slice(0, 6) if rank() == 0 else slice(6, 10)
        for name, norm in norms().items():
            synchronise(norm)
            found[name] = passed(norm, rows)
        different = nn.BatchNorm1d(3)
        different.running_mean = torch.tensor([1.0, 2.0 + rank(), 3.0])
        different.weight.data += rank()
        average_buffers(different)
        found["settled"] = different.running_mean
        take_from_first(different)
        found["taken"] = different.weight.detach()
        try:
            check_same(bytes([rank()]), "the ranks", "be the same")
        except UserError as error:
            found["told"] = str(error)
        found["search"] = train(folder, 16)
        found["retrain"] = train(folder, 20, retrain=True)
        (folder / "own").mkdir(exist_ok=True)
        found["own"] = train(folder / "own", 16, sync=False)
        found["seen"] = seen.copy()
        found["status"] = []
        for words in (
            ["search", "--resume", "alone/tiny"],
            ["search", "recipe.yaml", *TOGETHER],
            ["retrain", "--genotype", "together/tiny/genotype.json", *TOGETHER, "--name", "tiny_retrain"],
        ):
            found["status"].append(main(words))
            wait_for_all()
    torch.save(found, folder / f"rank{os.environ['RANK']}.pt")


def interrupted_alone(folder: Path) -> None:
    """A search of one process, stopped after its second epoch."""
    import binas.search.search as search

    (folder / "recipe.yaml").write_text(RECIPE)
    save, count = search.save_checkpoint, itertools.count(1)

    def stop(*words: Any) -> None:
        save(*words)
        if next(count) == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(search, "save_checkpoint", stop)
        assert main(["search", "recipe.yaml", "--runs", "alone"]) == 130


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two ranks have done what `worker` says."""
    folder = tmp_path_factory.mktemp("together")
    interrupted_alone(folder)
    process = launch(folder, str(Path(__file__)), str(folder))
    output, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, output
    (folder / "output.txt").write_text(output)
    return folder


@pytest.fixture(scope="module")
def ranks(together: Path) -> list[dict[str, Any]]:
    """What each of the two ranks found."""
    return [torch.load(together / f"rank{number}.pt", weights_only=True) for number in (0, 1)]


def assert_near(one: Any, other: Any, where: str = "") -> None:
    """Both hold the same, numbers to 1e-9 of their size."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_near(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_near(*pair, f"{where}.{number}")
    elif isinstance(one, Tensor):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9, msg=lambda text: f"{where}: {text}")
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-9, abs=1e-9), where
    else:
        assert one == other, where


@pytest.mark.parametrize("name", norms())
def test_batch_norm_of_two_ranks_is_that_of_one_process(name: str, ranks: list[dict[str, Any]]) -> None:
    alone = passed(norms()[name], slice(None))
    for key, expected in alone.items():
        parts = [found[name][key] for found in ranks]
        if key.startswith(("y", "by_x", "evaluation")):
            got = torch.cat(parts)
        else:
            got = sum(parts) if key.startswith("by_") else parts[0]
            assert key.startswith("by_") or torch.equal(*parts)
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def comparable(found: dict[str, Any]) -> dict[str, Any]:
    """What a run left behind, without what a clock or the number of ranks decides."""
    metrics = [
        {name: value for name, value in line.items() if not name.startswith("time/") and name != "ranks"}
        for line in found["metrics"]
    ]
    return {"state": found["state"], "metrics": metrics, "result": found["result"]}


@pytest.mark.parametrize("kind", ["search", "retrain"])
def test_two_ranks_are_one_process_with_twice_the_batch(
    kind: str, ranks: list[dict[str, Any]], tmp_path: Path
) -> None:
    alone = train(tmp_path, {"search": 16, "retrain": 20}[kind], retrain=kind == "retrain")
    assert_near(comparable(ranks[0][kind]), comparable(alone))


def test_ranks_hold_the_same_bits(ranks: list[dict[str, Any]]) -> None:
    first, second = (found["seen"] for found in ranks)
    assert len(first) == len(second) >= 10
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    for kind in ("search", "own"):
        assert ranks[0][kind]["result"] == ranks[1][kind]["result"]
    assert ranks[0]["own"]["metrics"] != ranks[0]["search"]["metrics"]


def test_buffers_and_weights_are_brought_together(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert found["settled"].tolist() == [1.0, 2.5, 3.0]
        assert found["taken"].tolist() == [1.0, 1.0, 1.0]
        assert found["told"].startswith("the ranks are not the same on all 2 ranks; be the same")


def test_commands_run_on_two_ranks_and_rank_0_alone_writes(
    together: Path, ranks: list[dict[str, Any]], binas: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [found["status"] for found in ranks] == [[0, 0, 0], [0, 0, 0]]
    for name, epochs in (("tiny", 4), ("tiny_retrain", 3)):
        folder = together / "together" / name
        lines = read_metrics(folder)
        assert [line["step"] for line in lines] == list(range(epochs))
        assert read_manifest(folder)["ranks"] == 2
        for line in lines:
            assert line["ranks"] == 2
            each = line["time/images_per_second_per_rank"]
            assert each == pytest.approx(line["time/images_per_second"] / 2) and line["time/scaling"] > 0
    output = (together / "output.txt").read_text()
    assert output.count("next: binas retrain --config together/tiny/config.yaml") == 1
    assert output.count("a step takes 20 images, 10 of them on each of 2 ranks") == 1
    monkeypatch.chdir(together)
    status, out, _ = binas("eval", "together/tiny_retrain/checkpoint.pt", "--split", "validation", "--json")
    last = read_metrics(together / "together/tiny_retrain")[-1]
    assert status == 0 and json.loads(out)["accuracy"] == pytest.approx(last["validation_accuracy"], abs=1e-6)


def test_a_run_of_one_process_goes_on_with_two_ranks(together: Path) -> None:
    lines = read_metrics(together / "alone/tiny")
    assert [line.get("ranks") for line in lines] == [None, None, 2, 2]
    output = (together / "output.txt").read_text()
    assert "a step takes 8 images, as when it was started on 1 rank, 4 of them on each of 2 ranks" in output


def killed(folder: Path, *words: str) -> str:
    """What a launch of two ranks prints, whose rank 1 is killed after the first epoch."""
    process = launch(folder, "-m", "binas", *words)
    run = folder / "together/tiny"
    while not (run / "checkpoint.pt").exists() and process.poll() is None:
        time.sleep(0.02)
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        if b"RANK=1" in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            os.kill(int(child), signal.SIGKILL)
    output, _ = process.communicate(timeout=600)
    assert process.returncode != 0, output
    return output


@pytest.mark.slow
def test_a_killed_rank_ends_the_job_which_goes_on_with_any_number_of_ranks(
    together: Path, tmp_path: Path, binas: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    output = killed(tmp_path, "search", "recipe.yaml", *TOGETHER)
    assert "another rank has ended" in output and "; --resume goes on with it" in output
    done = len(read_metrics(tmp_path / "together/tiny"))
    assert 1 <= done < 4
    shutil.copytree(tmp_path / "together", tmp_path / "alone")

    process = launch(tmp_path, "-m", "binas", "search", "--resume", "together/tiny")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    uninterrupted, resumed = together / "together/tiny", tmp_path / "together/tiny"
    assert comparable({"metrics": read_metrics(resumed), "state": 0, "result": 0}) == comparable(
        {"metrics": read_metrics(uninterrupted), "state": 0, "result": 0}
    )
    assert (resumed / "genotype.json").read_bytes() == (uninterrupted / "genotype.json").read_bytes()
    states = [
        torch.load(run / "checkpoint.pt", weights_only=True)["state"] for run in (resumed, uninterrupted)
    ]
    for part in ("supernet", "alphas"):
        assert all(torch.equal(states[0][part][name], states[1][part][name]) for name in states[0][part])

    monkeypatch.chdir(tmp_path)
    status, out, error = binas("search", "--resume", "alone/tiny")
    assert status == 0, error
    assert "a step takes 16 images, as when it was started on 2 ranks" in out
    lines = read_metrics(tmp_path / "alone/tiny")
    assert [line.get("ranks") for line in lines] == [2] * done + [None] * (4 - done)


def images_of(count: int) -> ImageSet:
    """Images that are numbered by their first pixel."""
    pixels = torch.zeros(count, 1, 4, 4, dtype=torch.uint8)
    pixels[:, 0, 0, 0] = torch.arange(count)
    return ImageSet(pixels, torch.arange(count) % 3)


@pytest.mark.parametrize(
    ("count", "batch", "parts"), [(40, 8, 2), (43, 8, 2), (44, 8, 2), (41, 10, 3), (7, 8, 3)]
)
def test_parts_of_batches_are_those_of_one_process(count: int, batch: int, parts: int) -> None:
    whole = list(Batches(images_of(count), batch, "cpu", [0.5], [1.0]).epoch(1))
    split = [Batches(images_of(count), batch, "cpu", [0.5], [1.0], part=(n, parts)) for n in range(parts)]
    each = [list(batches.epoch(1)) for batches in split]
    assert len({len(found) for found in each}) == 1 and len(each[0]) == len(split[0])
    for number, together in enumerate(zip(*each, strict=True)):
        assert len({len(labels) for _, labels in together}) == 1
        shared = parts * len(together[0][1])
        assert len(whole[number][1]) - shared < parts
        for position in range(2):
            got = torch.cat([pair[position] for pair in together])
            assert torch.equal(got, whole[number][position][:shared])
    assert split[0].largest == len(each[0][0][1]) >= 2


def test_too_few_images_for_the_ranks_are_told() -> None:
    with pytest.raises(UserError, match=r"3 images in batches of 8 are too few for 2 ranks"):
        Batches(images_of(3), 8, "cpu", [0.5], [1.0], part=(0, 2))


def test_every_third_batch_is_handed_out() -> None:
    batches = Batches(images_of(40), 8, "cpu", [0.5], [1.0])
    whole = list(batches.epoch(0))
    parts = [list(batches.epoch(0, every=(n, 3))) for n in range(3)]
    assert [len(part) for part in parts] == [2, 2, 1]
    assert all(torch.equal(parts[n % 3][n // 3][0], whole[n][0]) for n in range(5))


def test_without_a_launcher_nothing_is_done() -> None:
    norm, plain = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    synchronise(norm)
    take_from_first(norm)
    average_buffers(norm)
    assert "forward" not in vars(norm) and num_ranks() == 1 and rank_error_text(RuntimeError("gloo")) == ""
    x = torch.randn(4, 3, 2, 2)
    assert torch.equal(norm(x), plain(x))
    assert rate_values(10.0, None) == {"images_per_second": 10.0}


COMMANDS = re.findall(
    r"^.*torchrun (.*) -m binas (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE
)


@pytest.mark.parametrize(("launcher", "words"), COMMANDS)
def test_a_shown_command_is_one(launcher: str, words: str, done: Path, binas: Runner) -> None:
    from torch.distributed.run import get_args_parser

    get_args_parser().parse_args([*shlex.split(launcher), "-m", "binas"])
    shutil.copytree("runs/tiny", "runs/first")
    parts = shlex.split(words)
    status, out, error = binas(*parts) if "--resume" in parts else binas(*parts, "--print_config")
    assert status == 0, error
    assert "resumed the search after epoch 4/4" in out or "sync_batch_norm: true" in out


def test_the_page_shows_how_to_run_and_how_to_go_on() -> None:
    shown = " ".join(launcher + words for launcher, words in COMMANDS)
    assert all(word in shown for word in ("search", "retrain", "--resume", "--nnodes", "--rdzv-endpoint"))


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
