"""Wide convolutions of one node, forward: block by block, while the numbers are in the cache.

Legend: N images, T target nodes, C channels, H×W pixels of the output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from binas.kernels.edge_sum.wide_conv import WideConv
from binas.kernels.sum_tables.sum_tables import IMAGES_PER_WORD, Masks
from binas.kernels.threads import Team

BLOCK_ELEMENTS = 1 << 19
"""Numbers of a wide convolution's output that are worked on at a time (2 MiB of float32)."""


@dataclass
class WideForward:
    """A wide convolution before it runs.

    Args:
        reads: its input, channels last; bytes mean ±1.
        dtype: of the sums that are kept for the gradient, or None where masks do.
    """

    index: int
    conv: WideConv
    reads: Tensor
    kernel: Tensor
    coefficient: Tensor
    dtype: torch.dtype | None
    masks: Masks | None

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """(N, T·C, H, W)"""
        geometry = self.conv.geometry(self.reads, self.kernel, 0)
        return (len(self.reads), len(self.kernel), *geometry.output_size)

    def ready(self, block_size: int) -> tuple[Callable[[Tensor], Tensor], Any]:
        """Its rectified sums as a function of a block of the input, and their scales."""
        ordered = self.conv.kernel(self.kernel)
        scales = self.conv.kernel(self.coefficient).contiguous()
        convolve = self.conv.rectified(ordered, self.reads, block_size)
        return convolve, self.masks.pattern(scales) if self.masks else scales.view(1, -1, 1, 1)

    def room(self) -> Tensor:
        """For the sums that are kept."""
        if self.dtype is None:
            return torch.empty(0)
        shape, device = self.output_shape, self.reads.device
        return torch.empty(shape, dtype=self.dtype, device=device, memory_format=torch.channels_last)

    def take(
        self, block: slice, y: Tensor, scales: Tensor, total: Tensor, is_new: bool, kept: Tensor
    ) -> None:
        """Keeps of rectified sums what the gradient needs, and adds them, scaled, to a total."""
        if self.masks is not None:
            self.masks.take(block.start, y, scales, total, is_new)
            return
        if self.dtype == torch.bool:
            torch.gt(y, 0, out=kept[block])
        else:
            kept[block] = y
        if is_new:
            torch.mul(y, scales, out=total)
        else:
            total.addcmul_(y, scales)


def run_layout(
    forwards: Sequence[WideForward], outputs: list[Tensor | None], kept: list[Tensor], team: Team
) -> None:
    """Runs convolutions of one layout; adds to the outputs block by block, while these are in the cache."""
    conv, reads, shape = forwards[0].conv, forwards[0].reads, forwards[0].output_shape
    images, width = shape[:2]
    shares = (
        team.size
        if all(each.masks for each in forwards) and images % (team.size * IMAGES_PER_WORD) == 0
        else 1
    )
    blocks = blocks_of(images // shares, width * shape[2] * shape[3] * shares, reads.is_cuda)
    is_new = [outputs[target] is None for target in conv.targets]
    for target in conv.targets:
        if outputs[target] is None:
            outputs[target] = torch.empty(
                images,
                width // len(conv.targets),
                *shape[2:],
                dtype=forwards[0].kernel.dtype,
                device=reads.device,
            )
    ready: list[Any] = [None] * len(forwards)

    def prepare(number: int) -> None:
        ready[number] = forwards[number].ready(blocks[0].stop)

    run = team.run_alone if shares > 1 else team.run_in_turn
    run(prepare, len(forwards))
    for each in forwards:
        kept[each.index] = each.room()

    def share(index: int) -> None:
        room: Tensor | None = None
        for part in blocks:
            first = index * (images // shares)
            block = slice(first + part.start, first + part.stop)
            for number, (each, (convolve, scales)) in enumerate(zip(forwards, ready, strict=True)):
                y = convolve(each.reads[block])
                room = torch.empty_like(y) if room is None else room
                each.take(block, y, scales, room[: len(y)], number == 0, kept[each.index])
            assert room is not None
            for position, target in enumerate(conv.targets):
                out = outputs[target]
                assert out is not None
                conv.write_target(room[: len(y)], position, out[block], is_new[position])

    run(share, shares)


def blocks_of(num_images: int, elements_each: int, on_gpu: bool) -> list[slice]:
    # on a GPU the cache is no reason to launch more kernels
    size = num_images if on_gpu else max(1, BLOCK_ELEMENTS // elements_each)
    return [slice(start, min(start + size, num_images)) for start in range(0, num_images, size)]
