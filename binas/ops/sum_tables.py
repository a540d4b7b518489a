"""Gradients of ±1 convolutions by tables of sums: float32 all along, with a quarter of the additions.

A gradient by the input adds ±g over output channels, one by the kernel adds ±g over images: the signs are
the codes of the kernel, or of the input. For every four g, all 16 signed sums are made once, and each of
the many places that need one of them looks it up (the "method of four Russians"; Arlazarov et al., 1970).
The order of additions differs from an ordinary convolution's, nothing else does.

Legend: N images, O output and I input channels, P output pixels; tables are those of the kernels' file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

IMAGES_PER_WORD = 32
SMALLEST_BATCH = 24
"""Below, most of the 32 places for images would stay empty."""
SMALLEST_WORK = 1 << 22
"""Multiply-accumulates of a convolution below which looking up does not pay."""


@cache
def is_available() -> bool:
    """Whether numba is installed and gives the right numbers here."""
    try:
        import binas.ops.sum_table_kernels  # noqa: F401
    except ImportError:
        return False
    return True


@dataclass(frozen=True)
class Geometry:
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

    def __init__(self, geometry: Geometry, keeps_sums: bool) -> None:
        self.geometry = geometry
        rows, columns = geometry.output_size
        words = geometry.padded_images // IMAGES_PER_WORD
        self.bits = torch.zeros(words, rows * columns, geometry.width, dtype=torch.int32)
        images = geometry.input_shape[0] if keeps_sums else 0
        self.sums = torch.empty(images, rows * columns, geometry.width, dtype=torch.int16)

    def add(self, first_image: int, sums: Tensor) -> None:
        """Takes the rectified sums (n, O, H, W), channels last, of images from `first_image` on."""
        from binas.ops.sum_table_kernels import add_masks

        flat = sums.permute(0, 2, 3, 1).flatten(1, 2).numpy()
        add_masks(flat, self.bits.numpy().view("uint32"), self.sums.numpy(), first_image)


class Rows:
    """Gradients of target nodes, side by side as a wide convolution's output, in the kernels' two orders.

    Args:
        outs: T tensors (N, C, H, W).
        groups: of the convolution.
        executor: runs parts side by side.
    """

    def __init__(self, outs: Sequence[Tensor], groups: int, executor: Executor) -> None:
        self.outs = [out.contiguous().flatten(2) for out in outs]
        self.groups, self.executor = groups, executor
        self.images, channels, self.pixels = self.outs[0].shape
        self.words = -(-self.images // IMAGES_PER_WORD)
        self.width = len(outs) * channels
        self.run = channels // groups

    @cached_property
    def by_image(self) -> Tensor:
        """Images innermost: (words, P, T·C, 32)."""
        from binas.ops.sum_table_kernels import add_image_rows

        shape = (self.words, self.pixels, self.width, IMAGES_PER_WORD)
        rows = torch.empty(shape) if self.images % IMAGES_PER_WORD == 0 else torch.zeros(shape)

        def word(index: int) -> None:
            for target, out in enumerate(self.outs):
                add_image_rows(out.numpy(), rows[index].numpy(), *self._places(target), index)

        _run_all(self.executor, word, range(self.words))
        return rows

    @cached_property
    def by_channel(self) -> Tensor:
        """Channels innermost: (P, 32·words, T·C)."""
        from binas.ops.sum_table_kernels import add_channel_rows

        shape = (self.pixels, self.words * IMAGES_PER_WORD, self.width)
        rows = torch.empty(shape)
        rows[:, self.images :] = 0
        half = self.images // 2

        def part(index: int) -> None:
            begin, end = (0, half) if index == 0 else (half, self.images)
            for target, out in enumerate(self.outs):
                add_channel_rows(out.numpy(), rows.numpy(), *self._places(target), begin, end)

        _run_all(self.executor, part, range(2))
        return rows

    def _places(self, target: int) -> tuple[int, int, int]:
        return target * self.run, len(self.outs) * self.run, self.run


class InputGradient:
    """The gradient by an input that several convolutions of ±1 kernels read, summed over them.

    Args:
        input_shape: (N, I, H, W).
        margin: the largest padding among the convolutions.
        executor: runs parts side by side.
    """

    def __init__(self, input_shape: Sequence[int], margin: int, executor: Executor) -> None:
        images, channels, rows, columns = input_shape
        words = -(-images // IMAGES_PER_WORD)
        self.shape, self.margin, self.executor = tuple(input_shape), margin, executor
        padded = (rows + 2 * margin) * (columns + 2 * margin)
        self.sums = torch.zeros(words, padded, channels, IMAGES_PER_WORD)

    def add(self, geometry: Geometry, kernel: Tensor, scales: Tensor, masks: Masks, rows: Rows) -> None:
        """Adds one convolution.

        Args:
            kernel: (O, I/groups, k, k) of ±1, ordered by group.
            scales: (O,), what the rectified sums are multiplied with.
            rows: gradients of its targets.
        """
        from binas.ops import sum_table_kernels as kernels

        offsets = _kernel_offsets(kernel, geometry.groups, kernels.MAX_TERMS)
        taps, scales, gradient = geometry.taps(), scales.contiguous(), rows.by_image
        numbers = (
            *geometry.output_size, geometry.padded_columns, geometry.stride,
            geometry.width // geometry.groups // 4,
        )  # fmt: skip

        def word(index: int) -> None:
            table = torch.empty(kernels.MAX_TERMS * kernels.ROWS * kernels.LANES)
            kernels.add_input_gradient(
                gradient[index].data_ptr(), masks.bits[index].data_ptr(), scales.data_ptr(), offsets,
                self.sums[index].data_ptr(), table.data_ptr(), taps, numbers,
            )  # fmt: skip

        _run_all(self.executor, word, range(len(self.sums)))

    def result(self) -> Tensor:
        """The sum. Shape: (N, I, H, W)."""
        images, channels, rows, columns = self.shape
        m = self.margin
        sums = self.sums.view(-1, rows + 2 * m, columns + 2 * m, channels, IMAGES_PER_WORD)
        inner = sums[:, m : m + rows, m : m + columns].permute(0, 4, 3, 1, 2)
        return inner.reshape(-1, channels, rows, columns)[:images]


class KernelGradient:
    """Gradients by the kernels of convolutions that read one input of ±1.

    Args:
        x: (N, I, H, W) of ±1.
        margin: the largest padding among the convolutions.
        executor: runs parts side by side.
    """

    def __init__(self, x: Tensor, margin: int, executor: Executor) -> None:
        from binas.ops import sum_table_kernels as kernels

        self.executor = executor
        self.offsets = _input_offsets(x, margin, kernels.MAX_TERMS, kernels.WEIGHT_ROWS, kernels.WEIGHT_LANES)

    def of(self, geometry: Geometry, masks: Masks, rows: Rows) -> Tensor:
        """The gradient by one kernel, where scales are 1. Shape: (O, I/groups, k, k), ordered by group.

        Args:
            rows: gradients of its targets.
        """
        from binas.ops import sum_table_kernels as kernels

        lanes, taps, k = kernels.WEIGHT_LANES, geometry.taps(), geometry.kernel_size
        gradient = rows.by_channel
        channels = geometry.input_shape[1] // geometry.groups
        per_group = geometry.width // geometry.groups
        sums = torch.zeros(geometry.width // lanes, k * k, channels, lanes)

        def part(index: int) -> None:
            table = torch.zeros(kernels.MAX_TERMS * kernels.WEIGHT_ROWS * lanes)
            group = index * lanes // per_group
            numbers = (
                *geometry.output_size, geometry.padded_columns, geometry.stride, geometry.width,
                geometry.padded_images, group * channels, channels,
            )  # fmt: skip
            first = 4 * index * lanes
            kernels.add_kernel_gradient(
                gradient.data_ptr() + first, masks.bits.data_ptr() + first, self.offsets,
                sums[index].data_ptr(), table.data_ptr(), taps, numbers,
            )  # fmt: skip

        _run_all(self.executor, part, range(len(sums)))
        return sums.permute(0, 3, 2, 1).reshape(geometry.width, channels, k, k)


def product_sums(masks: Masks, rows: Rows, executor: Executor) -> Tensor:
    """Σ over images and pixels of rectified sum · gradient, by channel. Shape: (O,)."""
    from binas.ops.sum_table_kernels import add_products

    values, gradient = masks.sums.numpy(), rows.by_channel.numpy()
    totals = torch.zeros(2, values.shape[2], dtype=torch.float64)
    half = len(values) // 2

    def part(index: int) -> None:
        begin, end = (0, half) if index == 0 else (half, len(values))
        add_products(values, gradient, totals[index].numpy(), begin, end)

    _run_all(executor, part, range(2))
    return totals.sum(dim=0).to(torch.float32)


def _run_all(executor: Executor, work: Callable[[int], None], parts: Sequence[int]) -> None:
    for done in [executor.submit(work, part) for part in parts]:
        done.result()


def _kernel_offsets(kernel: Tensor, groups: int, max_terms: int) -> Any:
    """Byte offsets of the table rows that a kernel's signs choose: (groups, blocks, k·k, I/groups, terms)."""
    width, channels, k, _ = kernel.shape
    terms = width // groups // 4
    powers = torch.tensor([1, 2, 4, 8], dtype=torch.int16).view(4, 1, 1)
    signs = (kernel > 0).view(groups, terms, 4, channels, k * k)
    rows = (signs * powers).sum(dim=2, dtype=torch.int16)
    blocks = -(-terms // max_terms)
    rows = F.pad(rows, (0, 0, 0, 0, 0, blocks * max_terms - terms))
    rows = rows.view(groups, blocks, max_terms, channels, k * k)
    first = torch.arange(max_terms, dtype=torch.int16).view(-1, 1, 1) * 16
    offsets = (rows + first) * (IMAGES_PER_WORD * 4)
    return offsets.permute(0, 1, 4, 3, 2).contiguous().numpy().view("uint16")


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
