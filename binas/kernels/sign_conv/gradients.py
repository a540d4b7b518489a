"""Gradients of ±1 convolutions with images innermost, by tables of the signed sums of four numbers.

For every four numbers all 16 sums ±a ± b ± c ± d are made once, and each place that needs one looks it up
(the "method of four Russians"; Arlazarov et al., 1970), as in `binas.kernels.sum_tables`; in float32 all
along.

Legend: N images, C and O channels of input and output, P pixels, P' of the output.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from binas.binarize import BinaryConv2d
from binas.kernels.layouts.images_last import empty_last, in_parts, run_all

LANES, CHANNELS, ROWS = 32, 16, 16
"""Images in a word of bits, output channels in a row of a table, rows of a table; as the loops have them."""
PARTS = 4
"""Parts of the output whose shares of a kernel's gradient are summed one after another."""


def ranges(length: int) -> list[tuple[int, int]]:
    """PARTS shares of a range: not as many as threads, so that sums do not depend on these."""
    return [(length * part // PARTS, length * (part + 1) // PARTS) for part in range(PARTS)]


def geometry(conv: BinaryConv2d, height: int, width: int) -> tuple[int, ...]:
    """A convolution of an input of that size, as compiled loops want it."""
    return conv.kernel_size, conv.stride, conv.padding, conv.dilation, height, width


def kernel_gradient(
    conv: BinaryConv2d, x: Tensor, image_words: Tensor, by_y: Tensor, masks: Tensor, kernel: Tensor
) -> Tensor:
    """The gradient by the kernel where scales are 1. Shape: (O, C, k, k)."""
    from binas.kernels.sign_conv import loops as kernels

    num_images, channels, height, width = x.shape
    rows, columns = by_y.shape[2:]
    offsets = torch.empty(height * width, channels, num_images // 4, dtype=torch.int16).numpy().view("uint16")
    words = image_words.numpy().view("uint32")
    in_parts(lambda begin, end: kernels.unit_offsets(words, offsets, begin, end), height * width)
    blocks = -(-len(kernel) // CHANNELS)
    taps = conv.kernel_size**2
    sums = torch.zeros(PARTS, blocks, taps, channels, CHANNELS)
    room = CHANNELS * (num_images + kernels.MAX_UNITS * ROWS)
    tables = torch.empty(PARTS, room)

    def part(index: int, begin: int, end: int) -> None:
        kernels.add_kernel_gradient(
            by_y.data_ptr(),
            masks.data_ptr(),
            offsets,
            sums[index].numpy(),
            tables[index].data_ptr(),
            geometry(conv, height, width),
            len(kernel),
            columns,
            begin,
            end,
        )

    run_all(part, [(index, *ends) for index, ends in enumerate(ranges(rows * columns))])
    total = sums.sum(dim=0).permute(0, 3, 2, 1).flatten(0, 1)[: len(kernel)]
    return total.reshape(kernel.shape)


def input_gradient(
    conv: BinaryConv2d, x: Tensor, by_y: Tensor, masks: Tensor, kernel: Tensor, scales: Tensor
) -> Tensor:
    """The gradient by the signs of the input (N, C, H, W), images last."""
    from binas.kernels.sign_conv import loops as kernels

    num_images, channels, height, width = x.shape
    rows, columns = by_y.shape[2:]
    fresh = conv.kernel_size == conv.stride == 1 and conv.padding == 0
    sums = empty_last(num_images, channels, (height, width))
    if not fresh:
        sums.zero_()
    offsets = _kernel_offsets(kernel, kernels.MAX_TERMS)
    groups = num_images // LANES
    splits = min(channels, max(1, -(-torch.get_num_threads() // groups)))

    def part(group: int, split: int) -> None:
        table = torch.empty(kernels.MAX_TERMS * ROWS * LANES)
        kernels.add_input_gradient(
            by_y.data_ptr(),
            masks.data_ptr(),
            scales.data_ptr(),
            offsets,
            sums.data_ptr(),
            table.data_ptr(),
            geometry(conv, height, width),
            len(kernel),
            num_images,
            rows * columns,
            columns,
            group,
            channels * split // splits,
            channels * (split + 1) // splits,
            fresh,
        )

    run_all(part, [(group, split) for group in range(groups) for split in range(splits)])
    return sums


def _kernel_offsets(kernel: Tensor, max_terms: int) -> Any:
    """Byte offsets of the table rows that a kernel's signs choose: (blocks, k·k, C, terms) uint16."""
    width, channels, k, _ = kernel.shape
    all_terms = width // 4
    blocks = -(-all_terms // max_terms)
    terms = -(-all_terms // blocks)
    powers = torch.tensor([1, 2, 4, 8], dtype=torch.int16).view(4, 1, 1)
    signs = (kernel > 0).view(all_terms, 4, channels, k * k)
    rows = (signs * powers).sum(dim=1, dtype=torch.int16)
    rows = F.pad(rows, (0, 0, 0, 0, 0, blocks * terms - all_terms)).view(blocks, terms, channels, k * k)
    first = torch.arange(terms, dtype=torch.int16).view(-1, 1, 1) * 16
    offsets = (rows + first) * (LANES * 4)
    return offsets.permute(0, 3, 2, 1).contiguous().numpy().view("uint16")
