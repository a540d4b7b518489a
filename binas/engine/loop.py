"""The one epoch of every training, and the loop over batches under it: averages, rate, checks for NaN."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from binas.data.batches import Batches
from binas.data.image_set import Images
from binas.data.open_data import Data
from binas.engine.data_parallel import average_buffers
from binas.run.distributed import all_reduce_sum, num_ranks, rank
from binas.run.nan import check_finite
from binas.run.progress import Stopwatch, progress

B = TypeVar("B")
B_contra = TypeVar("B_contra", contravariant=True)
CHECK_INTERVAL = 50
"""Steps between two looks at the loss; each look waits for the device."""
EVALUATION_BATCH_SIZE = 256
"""One size wherever a network is evaluated, so that the same images give the same figures to the last bit."""


def evaluation_batches(
    images: Images, data: Data, device: torch.device, *, on_device: Literal["auto", "on", "off"] = "auto"
) -> Batches:
    """Images of a data set as they are, in the one size in which networks are evaluated."""
    return Batches(images, EVALUATION_BATCH_SIZE, device, data.mean, data.std, on_device=on_device)


@dataclass(frozen=True)
class EpochResult:
    """What an epoch measured.

    Args:
        means: mean over all images of each value that the steps returned.
        images_per_second: rate of the whole epoch, of all ranks together.
        seconds: wall time.
    """

    means: dict[str, float]
    images_per_second: float
    seconds: float


class Step(Protocol[B_contra]):
    """What an epoch hands its batches to; the trainings differ in it alone.

    `train_epoch` puts `trained` into training mode, calls `step` once for each batch in order, then makes the
    buffers of `trained` the same on all ranks and looks whether everything in them is a finite number.
    """

    @property
    def trained(self) -> Sequence[nn.Module]:
        """What the steps change; of the first one all ranks must have the same state afterwards."""

    def step(self, batch: B_contra) -> tuple[int, Mapping[str, Tensor]]:
        """One batch: its number of images, and scalars by name, means over the batch, see `run_epoch`."""


def train_epoch(
    step: Step[B],
    batches: Iterable[B],
    num_batches: int,
    description: str,
    *,
    check_interval: int = CHECK_INTERVAL,
) -> EpochResult:
    """Trains for an epoch: of a search, a retraining, a candidate, or a network that candidates share.

    Args:
        step: what is done with a batch.
        description: of the work, for the progress bar and for errors.
        check_interval: steps between two looks at the values.
    Raises:
        UserError: a loss, a weight or a statistic is not finite.
    """
    for module in step.trained:
        module.train()
    result = run_epoch(batches, num_batches, step.step, description, check_interval=check_interval)
    average_buffers(*step.trained)
    for module in step.trained:
        check_weights(module, description)
    return result


def run_epoch(
    batches: Iterable[B],
    num_batches: int,
    step: Callable[[B], tuple[int, Mapping[str, Tensor]]],
    description: str,
    *,
    check_interval: int = CHECK_INTERVAL,
    in_step: bool = True,
) -> EpochResult:
    """Calls `step` on every batch and averages the values that it returns.

    Between two looks at the values nothing is read from the device, so that it never waits.

    Args:
        step: takes a batch, returns the number of its images and scalar tensors by name, means over the
            batch; those whose name contains `loss` are checked for NaN.
        description: of the work, for the progress bar and for errors.
        check_interval: steps between two looks at the values.
        in_step: whether all ranks make as many steps; otherwise values are only looked at in the end.
    Raises:
        UserError: a loss is not finite.
    """
    sums: dict[str, Tensor] = {}
    watch = Stopwatch()
    for position, batch in enumerate(progress(batches, description, num_batches), start=1):
        images, values = step(batch)
        for name, value in values.items():
            weighted = value.detach() * images
            sums[name] = sums[name] + weighted if name in sums else weighted
        watch.add(images)
        if in_step and (position % check_interval == 0 or position == 1):
            _check(sums, watch.count, f"{description}, step {position}")
    means, count = _check(sums, watch.count, description)
    seconds = watch.seconds
    return EpochResult(means, count / max(seconds, 1e-9), seconds)


def _check(sums: Mapping[str, Tensor], count: float, where: str) -> tuple[dict[str, float], float]:
    """The mean of each value over the images of all ranks, and how many these are."""
    # one read for all, because each one waits for the device
    totals = torch.stack([value.double() for value in sums.values()]).tolist() if sums else []
    if num_ranks() > 1:
        *totals, count = all_reduce_sum(torch.tensor([*totals, count], dtype=torch.float64)).tolist()
    means = {name: value / max(count, 1) for name, value in zip(sums, totals, strict=True)}
    for name, mean in means.items():
        if "loss" in name:
            check_finite(mean, f"{where}: {name.replace('_', ' ')}")
    return means, count


def check_weights(model: nn.Module, where: str) -> None:
    """Raises a `UserError` where the last step has left a weight or statistic that is no number."""
    state = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    if not state:
        return
    fine = torch.stack([tensor.isfinite().all() for tensor in state.values()]).tolist()
    for name, is_finite in zip(state, fine, strict=True):
        if not is_finite:
            check_finite(math.nan, f"{where}: a value of '{name}'")


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """The share of images whose most probable class is the right one. Shape: (N, classes), (N,) -> ()."""
    return (logits.argmax(dim=1) == labels).to(torch.float32).mean()


@torch.inference_mode()
def evaluate(
    model: nn.Module, batches: Batches, loss: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, float]:
    """Mean loss and accuracy of a model in evaluation mode; no parameter or statistic changes.

    Ranks share out the batches; where there is not one for each, all compute all.
    """
    was_training = model.training
    model.eval()

    def step(batch: tuple[Tensor, Tensor]) -> tuple[int, Mapping[str, Tensor]]:
        images, labels = batch
        logits = model(images)
        return len(labels), {"loss": loss(logits, labels), "accuracy": accuracy(logits, labels)}

    every = (rank(), num_ranks()) if len(batches) >= num_ranks() else (0, 1)
    shared = batches.epoch(0, shuffle=False, every=every)
    result = run_epoch(
        shared, len(range(len(batches))[every[0] :: every[1]]), step, "evaluation", in_step=False
    )
    model.train(was_training)
    return result.means
