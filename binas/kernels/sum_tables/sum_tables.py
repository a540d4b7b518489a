"""Gradients of ±1 convolutions by tables of sums: float32 all along, with a quarter of the additions.

A gradient by the input adds ±g over output channels, one by the kernel adds ±g over images: the signs are
the codes of the kernel, or of the input. For every four g, all 16 signed sums are made once, and each of
the many places that need one of them looks it up (the "method of four Russians"; Arlazarov et al., 1970).
The order of additions differs from an ordinary convolution's, nothing else does.

Legend: N images, O output and I input channels, P output pixels; tables are those of the kernels' file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from binas.kernels.compiled import is_available
from binas.kernels.layouts.channels_last import channels_first
from binas.kernels.threads import Team

IMAGES_PER_WORD = 32
PATTERN = 2048
"""Numbers of an image that are masked and scaled at a time, at least: all that is read stays in the cache."""
SMALLEST_BATCH = 24
"""Below, most of the 32 places for images would stay empty."""
SMALLEST_WORK = 1 << 22
"""Multiply-accumulates of a convolution below which looking up does not pay."""


@dataclass(frozen=True)
class TableGeometry:
    """What a convolution's gradient needs to know of it.

    Args:
        kernel_size, stride, padding, dilation, groups: as in a convolution.
        input_shape: (N, I, H, W).
        width: O.
        margin: zeros around the padded input, at least `padding`; several convolutions share an input.
    """

    kernel_size: int
    stride: int
    padding: int
    dilation: int
    groups: int
    input_shape: tuple[int, int, int, int]
    width: int
    margin: int

    @property
    def output_size(self) -> tuple[int, int]:
        """Rows and columns of the output."""
        reach = self.dilation * (self.kernel_size - 1) - 2 * self.padding
        rows, columns = self.input_shape[2:]
        return (rows - reach - 1) // self.stride + 1, (columns - reach - 1) // self.stride + 1

    @property
    def padded_columns(self) -> int:
        """Columns of the padded input."""
        return self.input_shape[3] + 2 * self.margin

    @property
    def padded_images(self) -> int:
        """N, rounded up to whole words."""
        return -(-self.input_shape[0] // IMAGES_PER_WORD) * IMAGES_PER_WORD

    def taps(self) -> Any:
        """Pixels from an output pixel's first input pixel to the one that each tap reads."""
        steps = torch.arange(self.kernel_size) * self.dilation - self.padding + self.margin
        return (steps[:, None] * self.padded_columns + steps).flatten().numpy()

    def pays(self) -> bool:
        """Whether tables can be used and are faster: whole tables, whole rows, enough work."""
        rows, columns = self.output_size
        per_group = self.width // self.groups
        work = self.input_shape[0] * self.input_shape[1] * rows * columns * per_group * self.kernel_size**2
        return (
            per_group % 16 == 0
            and self.input_shape[0] >= SMALLEST_BATCH
            and work >= SMALLEST_WORK
            and is_available()
        )


class Masks:
    """One bit for each rectified sum of a convolution, and the sums themselves where they are wanted.

    Args:
        geometry: of the convolution.
        keeps_sums: whether to keep the sums, as 16-bit integers.
    """

    def __init__(self, geometry: TableGeometry, keeps_sums: bool) -> None:
        self.geometry = geometry
        rows, columns = geometry.output_size
        words = geometry.padded_images // IMAGES_PER_WORD
        self.bits = torch.zeros(words, rows * columns, geometry.width, dtype=torch.int32)
        images = geometry.input_shape[0] if keeps_sums else 0
        self.sums = torch.empty(images, rows * columns, geometry.width, dtype=torch.int16)

    def pattern(self, scales: Tensor) -> Any:
        """What `take` wants of the scales (O,) that rectified sums are multiplied with in the total."""
        return scales.repeat(-(-PATTERN // self.geometry.width)).numpy()

    def take(self, first_image: int, sums: Tensor, pattern: Any, total: Tensor, is_first: bool) -> None:
        """Takes rectified sums of some images, and adds them to a total.

        Args:
            first_image: the place of the first of them.
            sums: (n, O, H, W), channels last.
            pattern: see there.
            total: as `sums`; overwritten if `is_first`.
        """
        from binas.kernels.sum_tables.loops import take_sums

        flat, flat_total = (y.permute(0, 2, 3, 1).flatten(1).numpy() for y in (sums, total))
        take_sums(flat, pattern, flat_total, *self._places, first_image, is_first)

    @cached_property
    def _places(self) -> tuple[Any, Any]:
        return self.bits.flatten(1).numpy().view("uint32"), self.sums.flatten(1).numpy()


class Rows:
    """Gradients of target nodes, side by side as a wide convolution's output, in the kernels' two orders.

    Args:
        outs: T tensors (N, C, H, W).
        groups: of the convolution.
        team: runs parts side by side.
    """

    def __init__(self, outs: Sequence[Tensor], groups: int, team: Team) -> None:
        self.outs = [channels_first(out).flatten(2) for out in outs]
        self.groups, self.team = groups, team
        self.images, channels, self.pixels = self.outs[0].shape
        self.words = -(-self.images // IMAGES_PER_WORD)
        self.width = len(outs) * channels
        self.run = channels // groups

    @cached_property
    def by_image(self) -> Tensor:
        """Images innermost: (words, P, T·C, 32)."""
        from binas.kernels.layouts.loops import transpose_all

        shape = (self.words, self.pixels, self.width, IMAGES_PER_WORD)
        rows = torch.empty(shape) if self.images % IMAGES_PER_WORD == 0 else torch.zeros(shape)
        plane, row = self.pixels * 4, IMAGES_PER_WORD * 4
        channels, runs = self.outs[0].shape[1], self.groups

        def part(index: int) -> None:
            word, run = divmod(index, runs)
            count = min(IMAGES_PER_WORD, self.images - word * IMAGES_PER_WORD)
            for target, out in enumerate(self.outs):
                source = out.data_ptr() + (word * IMAGES_PER_WORD * channels + run * self.run) * plane
                place = self._place(target, run)
                transpose_all(
                    source,
                    (plane, channels * plane),
                    rows[word].data_ptr() + place * row,
                    (row, self.width * row),
                    self.run,
                    count,
                    self.pixels,
                )

        self.team.run(part, self.words * runs)
        return rows

    @cached_property
    def by_channel(self) -> Tensor:
        """Channels innermost: (P, 32·words, T·C)."""
        from binas.kernels.layouts.loops import transpose_all

        padded = self.words * IMAGES_PER_WORD
        rows = torch.empty(self.pixels, padded, self.width)
        rows[:, self.images :] = 0
        plane, image = self.pixels * 4, self.outs[0].shape[1] * self.pixels * 4
        row = self.width * 4

        def part(begin: int, end: int) -> None:
            for target, out in enumerate(self.outs):
                for run in range(self.groups):
                    source = out.data_ptr() + begin * image + run * self.run * plane
                    place = rows.data_ptr() + begin * row + self._place(target, run) * 4
                    transpose_all(
                        source, (image, plane), place, (row, padded * row), end - begin, self.run, self.pixels
                    )

        self.team.run_shares(part, self.images)
        return rows

    def _place(self, target: int, run: int) -> int:
        return (run * len(self.outs) + target) * self.run


class InputGradient:
    """The gradient by an input that several convolutions of ±1 kernels read, summed over them.

    Args:
        input_shape: (N, I, H, W).
        margin: the largest padding among the convolutions.
        team: runs parts side by side.
    """

    def __init__(self, input_shape: Sequence[int], margin: int, team: Team) -> None:
        images, channels, rows, columns = input_shape
        words = -(-images // IMAGES_PER_WORD)
        self.shape, self.margin, self.team = tuple(input_shape), margin, team
        padded = (rows + 2 * margin) * (columns + 2 * margin)
        self.sums = torch.zeros(words, padded, channels, IMAGES_PER_WORD)

    def add(self, geometry: TableGeometry, kernel: Tensor, scales: Tensor, masks: Masks, rows: Rows) -> None:
        """Adds one convolution.

        Args:
            kernel: (O, I/groups, k, k) of ±1, ordered by group.
            scales: (O,), what the rectified sums are multiplied with.
            rows: gradients of its targets.
        """
        from binas.kernels.sum_tables import loops as kernels
        from binas.kernels.vectors import ROWS

        signs = kernel.flatten(2).contiguous().numpy()
        offsets = kernels.kernel_offsets(signs, geometry.groups, IMAGES_PER_WORD * 4)
        taps, scales, gradient = geometry.taps(), scales.contiguous(), rows.by_image
        numbers = (
            *geometry.output_size,
            geometry.padded_columns,
            geometry.stride,
            geometry.width // geometry.groups // 4,
        )

        def word(index: int) -> None:
            table = torch.empty(kernels.MAX_TERMS * ROWS * kernels.LANES)
            kernels.add_input_gradient(
                gradient[index].data_ptr(),
                masks.bits[index].data_ptr(),
                scales.data_ptr(),
                offsets,
                self.sums[index].data_ptr(),
                table.data_ptr(),
                taps,
                numbers,
            )

        self.team.run(word, len(self.sums))

    def result(self) -> Tensor:
        """The sum. Shape: (N, I, H, W)."""
        from binas.kernels.layouts.loops import transpose_all

        images, channels, rows, columns = self.shape
        result = torch.empty(self.shape)
        wide, pixel = columns + 2 * self.margin, channels * IMAGES_PER_WORD * 4
        plane = rows * columns * 4
        first = self.margin * (wide + 1) * pixel

        def part(begin: int, end: int) -> None:
            for index, word in product(range(begin, end), range(len(self.sums))):
                sums, image = self.sums[word], word * IMAGES_PER_WORD
                transpose_all(
                    sums.data_ptr() + first + index * wide * pixel,
                    (IMAGES_PER_WORD * 4, pixel),
                    result.data_ptr() + image * channels * plane + index * columns * 4,
                    (plane, channels * plane),
                    channels,
                    columns,
                    min(IMAGES_PER_WORD, images - image),
                )

        self.team.run_shares(part, rows)
        return result


class KernelGradient:
    """Gradients by the kernels of convolutions that read one input of ±1.

    Args:
        x: (N, I, H, W) of ±1.
        margin: the largest padding among the convolutions.
        team: runs parts side by side.
    """

    def __init__(self, x: Tensor, margin: int, team: Team) -> None:
        from binas.kernels.sum_tables import loops as kernels

        self.team = team
        self.offsets = _input_offsets(x, margin, kernels.MAX_TERMS, kernels.WEIGHT_ROWS, kernels.WEIGHT_LANES)

    def of(self, geometry: TableGeometry, masks: Masks, rows: Rows) -> Tensor:
        """The gradient by one kernel, where scales are 1. Shape: (O, I/groups, k, k), ordered by group.

        Args:
            rows: gradients of its targets.
        """
        from binas.kernels.sum_tables import loops as kernels

        lanes, taps, k = kernels.WEIGHT_LANES, geometry.taps(), geometry.kernel_size
        gradient = rows.by_channel
        channels = geometry.input_shape[1] // geometry.groups
        per_group = geometry.width // geometry.groups
        parts, rows_of_output = geometry.width // lanes, geometry.output_size[0]
        shares = 1 if parts % self.team.size == 0 else self.team.size
        sums = torch.zeros(shares, parts, k * k, channels, lanes)

        def part(index: int) -> None:
            share, place = divmod(index, parts)
            table = torch.zeros(kernels.MAX_TERMS * kernels.WEIGHT_ROWS * lanes)
            group = place * lanes // per_group
            numbers = (
                rows_of_output * share // shares,
                rows_of_output * (share + 1) // shares,
                *geometry.output_size,
                geometry.padded_columns,
                geometry.stride,
                geometry.width,
                geometry.padded_images,
                group * channels,
                channels,
            )
            first = 4 * place * lanes
            kernels.add_kernel_gradient(
                gradient.data_ptr() + first,
                masks.bits.data_ptr() + first,
                self.offsets,
                sums[share, place].data_ptr(),
                table.data_ptr(),
                taps,
                numbers,
            )

        self.team.run(part, shares * parts)
        return sums.sum(dim=0).permute(0, 3, 2, 1).reshape(geometry.width, channels, k, k)


def product_sums(masks: Masks, rows: Rows, team: Team) -> Tensor:
    """Σ over images and pixels of rectified sum · gradient, by channel. Shape: (O,)."""
    from binas.kernels.sum_tables.loops import add_products

    values, gradient = masks.sums.numpy(), rows.by_channel.numpy()
    totals = torch.zeros(team.size, values.shape[2], dtype=torch.float64)

    def part(index: int) -> None:
        begin, end = (len(values) * (index + more) // team.size for more in (0, 1))
        add_products(values, gradient, totals[index].numpy(), begin, end)

    team.run(part, team.size)
    return totals.sum(dim=0).to(torch.float32)


def _input_offsets(x: Tensor, margin: int, max_terms: int, rows: int, lanes: int) -> Any:
    """Byte offsets of the table rows that an input's signs choose: (padded pixels, I, units of 4 images)."""
    images, channels = x.shape[:2]
    padded = -(-images // IMAGES_PER_WORD) * IMAGES_PER_WORD
    signs = F.pad((x > 0).to(torch.uint8), (0, 0, 0, 0, 0, 0, 0, padded - images))
    signs = signs.view(-1, 4, *signs.shape[1:])
    row = signs[:, 0] | signs[:, 1] << 1 | signs[:, 2] << 2 | signs[:, 3] << 3
    row = F.pad(row, [margin] * 4, value=16).to(torch.int16)
    first = (torch.arange(len(row), dtype=torch.int16) % max_terms * rows).view(-1, 1, 1, 1)
    offsets = ((row + first) * (lanes * 4)).permute(2, 3, 1, 0)
    return offsets.reshape(-1, channels, len(row)).contiguous().numpy().view("uint16")
