"""A batch in parts: gradients add up over them, so that the inside of only one part is kept at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from torch import Tensor

Batch = tuple[Tensor, Tensor]
Scale = Callable[[Tensor], Tensor]


def _word_or_number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.strip().isdigit() else value


MicroBatch = Annotated[Literal["auto"] | Annotated[int, Field(ge=1)] | None, BeforeValidator(_word_or_number)]
"""Setting: images that are computed at a time; `auto`, or None for the whole batch."""


def parts(batch: Batch, size: int | None) -> Iterator[tuple[Batch, float]]:
    """A batch in equal parts of at most `size` images, and the share of each in the whole batch.

    Parts differ by one image at most: a last part of a single image would have no batch statistics.
    """
    images, labels = batch
    count = 1 if size is None else -(-len(labels) // size)
    if count == 1:
        yield batch, 1.0
        return
    for some, names in zip(images.tensor_split(count), labels.tensor_split(count), strict=True):
        yield (some, names), len(names) / len(labels)


def backward_in_parts(
    batch: Batch,
    size: int | None,
    forward: Callable[[Batch], tuple[Tensor, Mapping[str, Tensor]]],
    scale: Scale | None = None,
) -> dict[str, Tensor]:
    """Adds the gradient of the mean loss over a batch to what is there, part by part; gives the mean values.

    loss = Σ over parts of n_part/n · loss_part, which is the loss of the whole batch where it is a mean over
    images. Batch-norm is the exception: it sees the statistics of a part, and its running averages move once
    for each part.

    Args:
        size: largest number of images in a part; None: all at once.
        forward: gives the loss to differentiate and the scalar values to report.
        scale: what the loss is passed through before its gradient is taken (a GradScaler's `scale`).
    """
    means: dict[str, Tensor] = {}
    for part, share in parts(batch, size):
        loss, values = forward(part)
        shared = loss if share == 1.0 else loss * share
        if shared.requires_grad:  # not where every edge of a single path is zeroise
            (shared if scale is None else scale(shared)).backward()  # type: ignore[no-untyped-call]
        for name, value in values.items():
            weighted = value.detach() if share == 1.0 else value.detach() * share
            means[name] = means[name] + weighted if name in means else weighted
    return means
