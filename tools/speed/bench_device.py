"""What training does on a GPU: steps of search and retraining, inference, epochs, paths.

One row a measurement is appended to a JSON-lines file as it comes. `tools/speed/gpu.sh` calls it.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from binas.arch.genotype import read_cells
from binas.arch.kinds import genotype_network, load_any_space
from binas.arch.network import Network
from binas.arch.path_supernet import path_supernet
from binas.arch.sample import random_genotype
from binas.config import build, find_file
from binas.data.batches import Batches
from binas.data.image_set import ImageSet
from binas.engine.acceleration import Acceleration, MixedPrecision
from binas.engine.capture import GraphedBackward, capture_choice
from binas.engine.loss import LossConfig
from binas.engine.micro_batch import Batch
from binas.engine.optimizer import Curve, OptimizerConfig
from binas.engine.update import Update
from binas.ops import OPS
from binas.run.device import device_name, pick_device, wait_for
from binas.run.memory import peak_bytes
from binas.run.seeds import set_deterministic
from binas.search.measured.draw import FairDraw
from binas.search.measured.ranking import Ranking
from binas.search.measured.schedule import Schedule
from binas.search.measured.supernet_training import SupernetSettings, SupernetTraining
from binas.train.stage import RetrainConfig
from binas.train.stepper import Stepper


def main() -> None:
    """Measures what is named, all by default."""
    measured: dict[str, Callable[[torch.device], dict[str, Any]]] = {
        "retrain": retrain,
        "infer": infer,
        "trial": trial,
        "paths": paths,
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", nargs="*", default=list(measured), help=f"of {', '.join(measured)}")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=Path, default=Path("gpu_rows.jsonl"))
    options = parser.parse_args()
    device = pick_device(options.device)
    set_deterministic(device)
    for name in options.what:
        if device.type == "cuda":
            torch.cuda.init()  # type: ignore[no-untyped-call]
            torch.cuda.reset_peak_memory_stats(device)
        row = {"what": name, "device": device_name(device), "torch": torch.__version__}
        row |= {**measured[name](device), "peak_bytes": peak_bytes(device)}
        print(json.dumps(row), flush=True)
        with options.rows.open("a") as file:
            file.write(json.dumps(row) + "\n")


def retrain(device: torch.device) -> dict[str, Any]:
    """Milliseconds of a training step of BNAS-A, recorded and not."""
    found: dict[str, Any] = {}
    x, y = torch.randn(64, 3, 32, 32, device=device), torch.arange(64, device=device) % 10
    for capture in ("off", "auto"):
        network = _bnas_a(device).train()
        settings = {"acceleration": {"capture": capture}, "stages": [{"name": "s"}]}
        config = build(RetrainConfig, settings, "bench")
        optimizer = config.stages[0].optimizer.build_for(network)
        stepper = Stepper(network, optimizer, config.stages[0], config, 0, 1000)
        found[f"{capture}_ms"] = _ms(partial(stepper.step, (x, y)), device, 40)
        found[f"{capture}_optimizer_ms"] = _ms(optimizer.step, device, 20)
    return found


def infer(device: torch.device) -> dict[str, Any]:
    """Milliseconds of 64 images through BNAS-A in evaluation mode."""
    network, x = _bnas_a(device).eval(), torch.randn(64, 3, 32, 32, device=device)
    with torch.inference_mode():
        return {"ms": _ms(lambda: network(x), device, 40)}


def trial(device: torch.device) -> dict[str, Any]:
    """Where the milliseconds of a training step of a small network go."""
    space = load_any_space("binas_macro_small")
    genotype = random_genotype(space, random.Random(0))
    network = genotype_network(genotype, 1, 10).to(device).train()
    optimizer, loss = OptimizerConfig().build_for(network), LossConfig()

    def forward(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        value = loss(network(batch[0]), batch[1])
        return value, {"loss": value}

    batch = (torch.randn(64, 1, 14, 14, device=device), torch.arange(64, device=device) % 10)
    capture = capture_choice("auto", device, None)
    update = Update(forward, optimizer, [network], MixedPrecision(), capture=capture)
    found = {
        "step_ms": _ms(lambda: update(batch), device, 80),
        "optimizer_ms": _ms(optimizer.step, device, 80),
    }
    if device.type == "cuda" and isinstance(update._backward, GraphedBackward) and update._backward._graph:
        found["replay_ms"] = _ms(update._backward._graph.replay, device, 80)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            update(batch)
            wait_for(device)
        kernels = [event for event in profiler.events() if event.device_type.name == "CUDA"]
        found["kernels"] = len(kernels)
        found["kernels_ms"] = round(sum(event.time_range.elapsed_us() for event in kernels) / 1e3, 3)
        print(
            profiler.key_averages().table(
                sort_by="self_cuda_time_total", row_limit=25, max_name_column_width=70
            )
        )
    return found


def paths(device: torch.device) -> dict[str, Any]:
    """Images a second of steps over single paths, and genotypes ranked a second over 1,000 images."""
    space = load_any_space({"base": "binas", "supernet": {"init_channels": 16, "num_cells": 6}})
    train = _images(device, 128 * 40, 28, 128)
    supernet = path_supernet(space, 1, 10).to(device)
    schedule = Schedule(2, OptimizerConfig(), Curve(), LossConfig(), Acceleration(check_interval=1000))
    training = SupernetTraining(
        supernet, SupernetSettings(schedule), lambda generator: FairDraw(space, generator), train, 0, {}
    )
    rates = [training.train_epoch().images_per_second for _ in range(2)]
    ranking = Ranking(supernet, train, 2, train.first(1000), LossConfig(), 0)
    genotypes = [random_genotype(space, random.Random(seed)) for seed in range(8)]
    ranking(genotypes[0])
    begun = time.perf_counter()
    for genotype in genotypes:
        ranking(genotype)
    return {
        "images_per_second": round(rates[1]),
        "genotypes_per_second": round(8 / (time.perf_counter() - begun), 2),
    }


def _bnas_a(device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    genotype = read_cells(Path(find_file("bnas_latest_cell_zeroise", "genotypes")), OPS)
    return Network(genotype, 3, 10).to(device)


def _images(device: torch.device, number: int, size: int = 14, batch: int = 64) -> Batches:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (number, 1, size, size), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (number,), generator=generator)
    return Batches(ImageSet(images, labels), batch, device, [0.5], [0.25], drop_last=True)


def _ms(work: Callable[[], Any], device: torch.device, times: int) -> float:
    for _ in range(3):
        work()
    found = []
    for _ in range(4):
        wait_for(device)
        begun = time.perf_counter()
        for _ in range(times // 4):
            work()
        wait_for(device)
        found.append(4e3 * (time.perf_counter() - begun) / times)
    return round(statistics.median(found), 3)


if __name__ == "__main__":
    main()
