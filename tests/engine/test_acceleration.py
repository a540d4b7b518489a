"""Switches for GPUs, as far as a CPU can tell: ±1 sums in 16 bits, no waiting, what cannot be captured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from binas.arch.space import load_space
from binas.binarize import Binarization, BinaryConv2d
from binas.binarize.exact import LARGEST_EXACT, convolve_integers, half_type
from binas.config import build
from binas.data.batches import Batches
from binas.data.image_set import ImageSet
from binas.engine.acceleration import Acceleration, MixedPrecision
from binas.engine.capture import GraphedBackward, capture_choice
from binas.engine.loop import run_epoch
from binas.run.checkpoint import load_checkpoint
from binas.run.optimizer_state import load_optimizer_state, optimizer_state
from binas.search.config import SearchConfig
from binas.search.regularizers.base import Regularizer
from binas.search.regularizers.diversity import Diversity
from binas.search.state import Builder, SearchState
from binas.search.step import BilevelStep, StepOptions
from binas.train.objective import Objective
from binas.train.parts.base import StagePart
from binas.train.stage import RetrainConfig
from binas.train.stepper import Stepper

CPU = torch.device("cpu")
SMALL = {"init_channels": 4, "num_cells": 2, "reductions": [1], "stem_multiplier": 1, "preprocess": "binary"}
OPERATIONS = ["zeroise", "skip", "binary_conv_3x3", "max_pool_3x3", "binary_group_conv_3x3"]
FLAT = {"normal": 1.0, "reduce": 1.0}
HALVES = [torch.bfloat16, torch.float16]


def space(**more: Any) -> Any:
    return load_space({"base": "binas", "operations": OPERATIONS, "num_nodes": 2, "supernet": SMALL} | more)


def state_and_step(
    device: str = "cpu", micro_batch: int | None = None, **more: Any
) -> tuple[SearchState, BilevelStep]:
    settings = build(SearchConfig, {"phases": [{"epochs": 1}], **more}, "test")
    state = Builder(space(), settings, 3, 10, 0, CPU).fresh()
    if device != "cpu":
        state.supernet.to(device), state.alphas.to(device)
        state.weight_optimizer = settings.weights.build_for(state.supernet)
        state.alpha_optimizer = settings.alphas.build(state.alphas.parameters())
    state.supernet.train()
    step = BilevelStep(
        state.supernet,
        state.alphas,
        state.weight_optimizer,
        state.alpha_optimizer,
        settings,
        FLAT,
        regularizers=(Diversity(1.0),),
        options=StepOptions(
            micro_batch=micro_batch,
            weight_precision=state.weight_precision,
            alpha_precision=state.alpha_precision,
        ),
    )
    return state, step


def batch(device: str = "cpu") -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, 8, 8, generator=generator)
    return images.to(device), (torch.arange(8) % 10).to(device)


# ---- ±1 sums in 16 bits


def signs(*shape: int) -> Tensor:
    return 2.0 * torch.randint(2, shape, generator=torch.Generator().manual_seed(len(shape))) - 1


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_the_limits_are_where_a_type_stops_counting(dtype: torch.dtype) -> None:
    limit = LARGEST_EXACT[dtype]
    numbers = torch.arange(-limit, limit + 1, dtype=torch.float32)
    assert torch.equal(numbers.to(dtype).float(), numbers)
    assert float(torch.tensor(limit + 1.0).to(dtype)) != limit + 1


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("channels", "size"), [(4, 3), (28, 3), (29, 3), (64, 5), (256, 3)])
@pytest.mark.parametrize("groups", [1, 4])
def test_sums_are_exact_and_in_16_bits_only_where_these_hold_them(
    dtype: torch.dtype, channels: int, size: int, groups: int
) -> None:
    if channels % groups:
        return
    x, kernel = signs(2, channels, 6, 6), signs(channels, channels // groups, size, size)
    expected = F.conv2d(x, kernel, None, 1, size // 2, 1, groups)
    largest = kernel[0].numel()
    with torch.autocast("cpu", dtype):
        y = convolve_integers(x, kernel, largest, (1, size // 2, 1, groups))
        assert half_type("cpu", largest) == (dtype if largest <= LARGEST_EXACT[dtype] else None)
    assert y.dtype == torch.float32  # a scale is multiplied next
    assert torch.equal(y, expected)
    assert half_type("cpu", largest) is None


def test_an_honest_limit_is_needed() -> None:
    """All ones: what autocast alone would give is another number."""
    x, kernel = torch.ones(1, 29, 3, 3), torch.ones(4, 29, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert float(F.conv2d(x, kernel).float().flatten()[0]) != 261
        assert float(convolve_integers(x, kernel, 261, (1, 0, 1, 1)).flatten()[0]) == 261


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("channels", [16, 64])
@pytest.mark.parametrize(("activation", "weight"), [("sign", "xnor"), ("dorefa", "xnor"), ("sign", "twn")])
def test_a_binary_convolution_is_the_same_under_autocast(
    dtype: torch.dtype, channels: int, activation: str, weight: str
) -> None:
    torch.manual_seed(0)
    chosen = build(Binarization, {"activation": {"name": activation}, "weight": {"name": weight}}, "test")
    conv = BinaryConv2d(channels, 8, 3, padding=1, binarizations=[chosen])
    x = torch.randn(2, channels, 6, 6)
    expected = conv(x)
    with torch.autocast("cpu", dtype):
        y = conv(x)
    # sums are integers and exact; scales are float32, for some of them a mean of products in another order
    assert torch.allclose(y.float(), expected, rtol=1e-6, atol=1e-6)


def test_batch_norm_statistics_stay_float32_and_edge_sums_exact() -> None:
    """The cells of a supernet under autocast: what differs comes from the real-valued stem and head alone."""
    torch.manual_seed(0)
    state, _ = state_and_step()
    supernet = state.supernet
    weights = {kind: p.detach() for kind, p in state.alphas.probabilities(FLAT).items()}
    x = torch.randn(4, 4, 8, 8)
    cell = supernet.cells[0]
    expected = cell(x, x, weights["normal"])
    with torch.autocast("cpu", torch.bfloat16):
        y = cell(x, x, weights["normal"])
    assert torch.allclose(y.float(), expected, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        F.cross_entropy(supernet(*batch()[:1], weights).float(), batch()[1]).backward()
    assert all(b.dtype == torch.float32 for name, b in supernet.named_buffers() if "running" in name)
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in supernet.parameters())


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_search_in_mixed_precision_learns(precision: str, checkpoint: bool) -> None:
    """Losses near those of float32, and falling; steps whose gradient overflows are left out."""
    losses = {}
    for chosen in ("off", precision):
        state, step = state_and_step(
            acceleration={"mixed_precision": chosen},
            checkpoint_cells=checkpoint,
            weights={"learning_rate": 0.1},
        )
        for _ in range(12):
            step.alpha_step(batch())
            value = step.weight_step(batch())["train_loss"]
        losses[chosen] = float(value)
        assert all(bool(p.isfinite().all()) for p in state.supernet.parameters())
    assert losses[precision] < 2.0 and losses["off"] < 2.0  # log 10 = 2.3 at the start


def test_an_overflowing_step_is_left_out_and_the_scale_falls() -> None:
    precision = MixedPrecision(torch.float16, CPU)
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], 0.1)
    precision.scale((weight * torch.tensor([1.0, torch.inf])).sum()).backward()
    before = precision.scaler.get_scale()
    precision.step(optimizer, [weight], max_norm=1.0)
    assert torch.equal(weight.detach(), torch.ones(2)) and precision.scaler.get_scale() == before / 2
    optimizer.zero_grad()
    precision.scale((weight * 3).sum()).backward()
    precision.step(optimizer, [weight], max_norm=1.0)
    # the gradient (3, 3) clipped to norm 1, as if it had never been scaled
    assert torch.allclose(weight.detach(), torch.full((2,), 1 - 0.1 / 2**0.5), atol=1e-5)
    again = MixedPrecision(torch.float16, CPU)
    again.load_state_dict(precision.state_dict())
    assert again.state_dict() == precision.state_dict()
    precision.step(torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1))  # nothing to do is no error


@pytest.mark.parametrize("kind", ["search", "retrain"])
def test_the_scale_is_in_the_checkpoint(done: Path, binas: Any, kind: str) -> None:
    words = ["--config", "tiny.yaml", "--name", "half", f"--{kind}.acceleration.mixed_precision", "float16"]
    words += ["--genotype", "runs/tiny/genotype.json"] if kind == "retrain" else []
    status, _, error = binas(kind, *words)
    assert status == 0, error
    state = load_checkpoint(done / "runs/half/checkpoint.pt", kind).state
    names = ["precision"] if kind == "retrain" else ["weight_precision", "alpha_precision"]
    assert all(state[name]["scale"] > 0 for name in names)


# ---- no waiting for the device


class NoWaiting(TorchDispatchMode):
    """Refuses what would make a device wait: reading a number, asking for a count, copying from or to it."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        accelerated = [tensor for tensor in tensors if tensor.device.type == "meta"]
        if accelerated:
            self.seen += 1
            assert not any(name.startswith(word) for word in self.WAITS), f"{name} waits for the device"
            assert name not in ("index", "index_put", "index_put_"), (
                f"{name}: a list is copied, a mask counted"
            )
            others = [tensor for tensor in tensors if tensor.device.type != "meta" and tensor.dim()]
            assert not others, f"{name} mixes devices: {[tuple(tensor.shape) for tensor in others]}"
        result = func(*args, **(kwargs or {}))
        given = {tensor.device.type for tensor in tensors}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and given and leaf.dim():
                assert leaf.device.type in given, f"{name} copies from {given} to {leaf.device.type}"
        return result


def without_cpu_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU does not run either: 8-bit convolutions and tables of sums."""
    monkeypatch.setattr("binas.kernels.edge_sum.edge_sum.is_available", lambda: False)


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_search_step_never_waits(micro_batch: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device `meta`, which has no numbers to give: whatever reads one, or copies, is refused."""
    without_cpu_paths(monkeypatch)
    _, step = state_and_step("meta", micro_batch, clip_grad_norm=5.0)
    given = batch("meta")
    step.alpha_step(given), step.weight_step(given)  # optimizers make their state
    with NoWaiting() as watch:
        values = step.alpha_step(given) | step.weight_step(given)
    assert watch.seen > 500 and all(value.device.type == "meta" for value in values.values())


def test_a_reading_step_would_be_seen() -> None:
    x = torch.zeros(3, device="meta")
    for wait in (lambda: float(x.sum()), lambda: x[[0, 1]], lambda: x + torch.zeros(3), lambda: x.nonzero()):
        with pytest.raises((AssertionError, RuntimeError, NotImplementedError)), NoWaiting():
            wait()


def test_a_retraining_step_never_waits() -> None:
    import random

    from binas.arch.network import Network
    from binas.arch.sample import random_genotype

    chosen = space(network=SMALL)
    network = Network(random_genotype(chosen, random.Random(0)), 3, 10).to("meta").train()
    config = build(
        RetrainConfig, {"drop_path": 0.2, "stages": [{"name": "s", "clip_grad_norm": 5.0}]}, "test"
    )
    optimizer = config.stages[0].optimizer.build_for(network)
    stepper = Stepper(network, optimizer, config.stages[0], config, 0, 4)
    given = batch("meta")
    stepper.step(given)
    with NoWaiting() as watch:
        stepper.step(given)
    assert watch.seen > 100


@pytest.mark.parametrize("interval", [1, 4, 100])
def test_losses_are_read_once_an_interval(interval: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = [0]
    real = Tensor.tolist

    def tolist(self: Tensor) -> Any:
        reads[0] += 1
        return real(self)

    for name in ("item", "__float__", "cpu"):
        monkeypatch.setattr(Tensor, name, lambda self, *_: pytest.fail("the loop waited"))
    monkeypatch.setattr(Tensor, "tolist", tolist)
    values = {"loss": torch.tensor(2.0), "accuracy": torch.tensor(0.5)}
    result = run_epoch(range(12), 12, lambda _: (1, values), "test", check_interval=interval)
    assert reads[0] == 1 + sum(step % interval == 0 or step == 1 for step in range(1, 13))
    assert result.means == {"loss": 2.0, "accuracy": 0.5}


@pytest.mark.parametrize("wanted", ["auto", "on", "off"])
def test_batches_are_the_same_wherever_images_wait(wanted: Any) -> None:
    images = torch.randint(256, (10, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = ImageSet(images, torch.arange(10))
    found = list(Batches(data, 4, "cpu", [0.5], [0.5], on_device=wanted).epoch(3))
    assert [len(labels) for _, labels in found] == [4, 4, 2]
    pixels = torch.cat([part for part, _ in found])
    labels = torch.cat([part for _, part in found])
    assert sorted(labels.tolist()) == list(range(10))
    # (level/255 - mean)/std, in one multiplication and one addition
    assert torch.allclose(pixels, (images[labels].float() / 255 - 0.5) / 0.5, atol=1e-6)


# ---- capturing


@pytest.mark.parametrize(
    ("wanted", "device", "obstacle", "expected", "told"),
    [
        ("auto", "cpu", None, "off", False),
        ("auto", "cuda", None, "cuda_graphs", False),
        ("auto", "cuda", "why", "off", False),
        ("off", "cuda", None, "off", False),
        ("cuda_graphs", "cuda", None, "cuda_graphs", False),
        ("cuda_graphs", "cpu", None, "off", True),
        ("cuda_graphs", "cuda", "why not", "off", True),
        ("compile", "cpu", None, "compile", False),
        ("compile", "cpu", "why not", "off", True),
    ],
)
def test_what_is_captured(
    wanted: Any,
    device: str,
    obstacle: str | None,
    expected: str,
    told: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert capture_choice(wanted, torch.device(device), obstacle) == expected
    assert ("has no effect" in caplog.text) is told


def test_where_a_graph_cannot_be_recorded_steps_go_on_as_before(caplog: pytest.LogCaptureFixture) -> None:
    if torch.cuda.is_available():
        pytest.skip("graphs work here")
    linear = nn.Linear(3, 2)

    def backward(part: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        loss = linear(part[0]).sum()
        loss.backward()
        return {"loss": loss.detach()}

    graphed = GraphedBackward(backward, linear, list(linear.parameters()))
    given = torch.ones(4, 3), torch.zeros(4)
    for _ in range(2):
        graphed(given)
        assert linear.bias.grad is not None and linear.bias.grad.tolist() == [4, 4]  # from none each time
    assert caplog.text.count("no CUDA graph, going on without") == 1


COMPILE = """
import logging, sys, warnings
logging.basicConfig(stream=sys.stdout, level=logging.INFO)
warnings.simplefilter("ignore")
import torch
from torch import nn
from binas.engine.capture import compiled
weight = nn.Parameter(torch.ones(3))
def forward(batch):
    loss = ((batch[0] * weight).relu() * 2).mean()
    return loss, {"loss": loss}
run = compiled(forward)
for _ in range(2):
    weight.grad = None
    loss, values = run((torch.ones(4, 3), torch.zeros(4)))
    loss.backward()
    print(float(values["loss"].detach()), [round(x, 4) for x in weight.grad.tolist()])
"""


@pytest.mark.parametrize("broken", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_compiled_steps_and_their_fallback(tmp_path: Path, broken: bool) -> None:
    """With a compiler the numbers are the same; without one the log says so and they are the same too."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    environment |= {"CXX": "/no/compiler"} if broken else {}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2.0 [0.6667, 0.6667, 0.6667]") == 2
    assert ("compile failed, going on without it" in done.stdout) is broken


@pytest.mark.gpu
@pytest.mark.parametrize("capture", ["cuda_graphs", "compile"])
def test_captured_steps_give_what_ordinary_ones_give(capture: str) -> None:
    found = []
    for chosen in ("off", capture):
        settings = build(SearchConfig, {"acceleration": {"capture": chosen}}, "test")
        state = Builder(space(), settings, 3, 10, 0, torch.device("cuda")).fresh()
        state.supernet.train()
        step = BilevelStep(
            state.supernet,
            state.alphas,
            state.weight_optimizer,
            state.alpha_optimizer,
            settings,
            FLAT,
            regularizers=(Diversity(1.0),),
        )
        for _ in range(5):
            values = step.alpha_step(batch("cuda")) | step.weight_step(batch("cuda"))
        found.append((values, state.supernet.state_dict()))
    for name, value in found[0][0].items():
        assert torch.allclose(value, found[1][0][name], rtol=1e-3), name
    for name, value in found[0][1].items():
        if name.endswith("num_batches_tracked"):
            assert torch.equal(value, found[1][1][name]), name


# ---- steps that last through epochs, as a recorded program must


class Watching(Regularizer):
    """A user's, which says nothing of programs."""


class Moving(StagePart):
    """A user's, which may change anything between epochs."""

    def begin_epoch(self, epoch: int) -> dict[str, float]:
        return {}


def test_steps_that_last_give_what_new_ones_give_each_epoch() -> None:
    found = []
    for lasts in (True, False):
        state, step = state_and_step()
        assert step.lasts and isinstance(step.temperatures["normal"], Tensor)
        kept = step.temperatures["normal"]
        diversity = step.regularizers[0]
        for epoch, temperature in enumerate((1.0, 0.7, 0.3)):
            given = {"normal": temperature, "reduce": 2 * temperature}
            diversity.begin_epoch(epoch, epoch / 3)
            if lasts:
                step.begin_epoch(given, (0, epoch))
                assert step.temperatures["normal"] is kept and float(kept) == pytest.approx(temperature)
            else:
                step = BilevelStep(
                    state.supernet,
                    state.alphas,
                    state.weight_optimizer,
                    state.alpha_optimizer,
                    step.config,
                    given,
                    regularizers=(Diversity(1.0),),
                )
                step.regularizers[0].begin_epoch(epoch, epoch / 3)
            values = step.alpha_step(batch()) | step.weight_step(batch())
        found.append({**values, **state.supernet.state_dict(), **state.alphas.state_dict()})
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


def test_what_may_move_in_python_keeps_steps_from_lasting() -> None:
    state, step = state_and_step()
    for regularizers in ((Watching(),), (Diversity(1.0), Watching())):
        other = BilevelStep(
            state.supernet,
            state.alphas,
            state.weight_optimizer,
            state.alpha_optimizer,
            step.config,
            FLAT,
            regularizers=regularizers,
        )
        assert not other.lasts and other.temperatures == FLAT


def test_a_stepper_goes_on_until_its_program_changes() -> None:
    import random

    from binas.arch.network import Network
    from binas.arch.sample import random_genotype
    from binas.binarize import set_precision

    network = Network(random_genotype(space(network=SMALL), random.Random(0)), 3, 10).train()
    config = build(RetrainConfig, {"stages": [{"name": "s", "epochs": 4}]}, "test")
    stage = config.stages[0]
    optimizer, objective = stage.optimizer.build_for(network), Objective(stage, network, 10)

    def after(before: Stepper | None, epoch: int, micro_batch: int | None = None) -> Stepper:
        return Stepper(
            network,
            optimizer,
            stage,
            config,
            epoch,
            5,
            objective=objective,
            micro_batch=micro_batch,
            precision=precision,
        ).after(before)

    precision = MixedPrecision()
    first = after(None, 0)
    first.step(batch())
    assert after(first, 2) is first and first.done == 10
    assert after(first, 2, micro_batch=2) is not first
    set_precision(network, binarize_weights=False)
    second = after(first, 3)
    assert second is not first and second.done == 15
    next(network.parameters()).requires_grad_(False)
    third = after(second, 3)
    assert third is not second
    objective.parts["moving"] = Moving()
    assert after(third, 4) is not third


def test_a_state_takes_no_way_of_launching_along() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([parameter], fused=True)
    saved = optimizer_state(optimizer, {"w": parameter})
    assert saved["groups"][0]["hyper"]["fused"] is True
    other = torch.optim.Adam([parameter], lr=0.5)
    load_optimizer_state(other, saved, {"w": parameter})
    assert other.param_groups[0]["lr"] == 1e-3 and not other.param_groups[0]["fused"]


def test_defaults_are_safe() -> None:
    default = Acceleration()
    assert default.precision(CPU).dtype is None and default.precision(torch.device("cuda")).dtype is None
    assert default.check_interval == 50
