"""A search's speed on a device: seconds a step over many steps, the whole search from it, what bounds it.

Images are random bytes, as many as CIFAR-10 has in its two halves; what they show does not change the time.
Called by `bench_search.py --device`.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from oracles import supernet as oracles  # type: ignore[import-not-found]
from torch import Tensor
from torch.nn import functional as F

from binas.arch.alphas import Alphas
from binas.arch.space import load_space
from binas.arch.supernet import Supernet, all_candidates
from binas.data.batches import Batches
from binas.data.config import Augmentation
from binas.data.image_set import ImageSet
from binas.engine.acceleration import Acceleration
from binas.engine.loop import run_epoch
from binas.engine.micro_batch import Batch
from binas.run.device import device_name, wait_for
from binas.run.memory import peak_bytes
from binas.run.seeds import set_deterministic
from binas.search.config import SearchConfig
from binas.search.regularizers.diversity import Diversity
from binas.search.step import BilevelStep, StepOptions

IMAGES, EPOCHS = 25_000, 50
TEMPERATURES = {"normal": 1.0, "reduce": 1.0}
PROFILED_STEPS = 5
ORACLE_STEPS = 5


def measure_on_device(
    setting: Mapping[str, Any], device: torch.device, steps: int, acceleration: Acceleration
) -> dict[str, Any]:
    """Figures of one setting; the table of the profiler is printed."""
    set_deterministic(device)
    parity = _parity(setting, device)
    step, batches, num_steps = _search(setting, device, acceleration)
    work = step_of(step)
    for pair in islice(batches(0), 3):  # libraries choose, graphs are recorded
        work(pair)
    wait_for(device)
    start = time.perf_counter()
    run_epoch(
        islice(_endless(batches), steps), steps, work, "benchmark", check_interval=acceleration.check_interval
    )
    wait_for(device)
    seconds = (time.perf_counter() - start) / steps
    oracle = _oracle_seconds(setting, device)
    print(_profile(work, batches(1), device))
    whole = seconds * num_steps * EPOCHS
    result = {
        "words": setting["words"],
        "device": device_name(device),
        "torch": torch.__version__,
        "acceleration": acceleration.model_dump(),
        "steps": steps,
        "ours_seconds": seconds,
        "oracle_seconds": oracle,
        "time_ratio": oracle / seconds,
        "images": f"random uint8, {IMAGES} and {IMAGES}",
        "whole_search_seconds": whole,
        "whole_search": f"{EPOCHS} epochs of {num_steps} steps, extrapolated from {steps} steps",
        "peak_bytes": peak_bytes(device),
        "parity_float64": parity,
    }
    print(
        f"{setting['words']} on {result['device']}: {1e3 * seconds:.2f} ms a step, oracle"
        f" {1e3 * oracle:.2f} ms, {oracle / seconds:.2f}×; whole search {whole / 60:.1f} min (random images)"
    )
    return result


def step_of(step: BilevelStep) -> Callable[[tuple[Batch, Batch]], tuple[int, dict[str, Tensor]]]:
    """One alpha step and one weight step, as the search's loop wants them."""

    def work(pair: tuple[Batch, Batch]) -> tuple[int, dict[str, Tensor]]:
        return len(pair[0][1]), step.alpha_step(pair[1]) | step.weight_step(pair[0])

    return work


def _search(
    setting: Mapping[str, Any], device: torch.device, acceleration: Acceleration
) -> tuple[BilevelStep, Callable[[int], Iterator[tuple[Batch, Batch]]], int]:
    torch.manual_seed(0)
    space, config = load_space(setting["space"]), SearchConfig(acceleration=acceleration)
    supernet = Supernet(space, setting["images"][0], 10).to(device).train()
    alphas = Alphas(space, all_candidates(space)).to(device)
    options = StepOptions(
        weight_precision=acceleration.precision(device), alpha_precision=acceleration.precision(device)
    )
    step = BilevelStep(
        supernet,
        alphas,
        config.weights.build_for(supernet),
        config.alphas.build(alphas.parameters()),
        config,
        TEMPERATURES,
        regularizers=(Diversity(),),
        options=options,
    )
    augmentation = Augmentation(crop_padding=4, flip=True)
    halves = [
        Batches(
            _random_images(setting, seed),
            setting["batch"],
            device,
            [0.5] * setting["images"][0],
            [0.25] * setting["images"][0],
            augmentation=augmentation,
            drop_last=True,
            on_device=acceleration.data_on_device,
        )
        for seed in (1, 2)
    ]

    def epoch(seed: int) -> Iterator[tuple[Batch, Batch]]:
        return zip(halves[0].epoch(seed), halves[1].epoch(seed), strict=True)

    return step, epoch, len(halves[0])


def _random_images(setting: Mapping[str, Any], seed: int) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (IMAGES, *setting["images"]), dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.randint(10, (IMAGES,), generator=generator))


def _endless(batches: Callable[[int], Iterator[tuple[Batch, Batch]]]) -> Iterator[tuple[Batch, Batch]]:
    epoch = 0
    while True:
        yield from batches(epoch)
        epoch += 1


def _oracle_seconds(setting: Mapping[str, Any], device: torch.device) -> float:
    """Median seconds of the plain supernet's two steps, in eager mode."""
    torch.manual_seed(0)
    space, config = load_space(setting["space"]), SearchConfig()
    oracle = oracles.oracle_from(Supernet(space, setting["images"][0], 10)).to(device)
    alphas = Alphas(space, all_candidates(space)).to(device)
    values = {kind: alphas.get_parameter(kind).detach() for kind in TEMPERATURES}
    optimizer = config.weights.build(oracle.parameters())
    images = torch.randn(setting["batch"], *setting["images"], device=device)
    labels = torch.randint(0, 10, (setting["batch"],), device=device)
    times = []
    for _ in range(ORACLE_STEPS + 1):
        wait_for(device)
        start = time.perf_counter()
        oracles.alpha_step(oracle, values, images, labels, TEMPERATURES, 1.0)
        optimizer.zero_grad(set_to_none=True)
        weights = {kind: oracles.probabilities(values[kind], 1.0) for kind in values}
        F.cross_entropy(oracle(images, weights), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        wait_for(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _profile(work: Callable[[Any], Any], pairs: Iterator[tuple[Batch, Batch]], device: torch.device) -> str:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        for pair in islice(pairs, PROFILED_STEPS):
            work(pair)
        wait_for(device)
    by = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    return str(profiler.key_averages().table(sort_by=by, row_limit=20, max_name_column_width=60))


def _parity(setting: Mapping[str, Any], device: torch.device, batch: int = 4) -> dict[str, float]:
    """Relative differences between the device and the CPU in float64: of the loss, and of gradients."""
    torch.manual_seed(0)
    space = load_space(setting["space"])
    supernet = Supernet(space, setting["images"][0], 10).double().train()
    alphas = Alphas(space, all_candidates(space)).double()
    images = torch.randn(batch, *setting["images"], dtype=torch.float64)
    labels = torch.arange(batch) % 10
    found = []
    for place in (torch.device("cpu"), device):
        net, mix = copy.deepcopy(supernet).to(place), copy.deepcopy(alphas).to(place)
        loss = F.cross_entropy(net(images.to(place), mix.probabilities(TEMPERATURES)), labels.to(place))
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = [*net.parameters(), *mix.parameters()]
        found.append((loss.item(), [p.grad.cpu() for p in parameters if p.grad is not None]))
    (expected, gradients), (reached, its_gradients) = found
    pairs = list(zip(gradients, its_gradients, strict=True))
    worst = max(((a - b).abs().max() / a.abs().max().clamp_min(1e-9)).item() for a, b in pairs)
    return {"loss": abs(expected - reached) / abs(expected), "gradient": worst}
