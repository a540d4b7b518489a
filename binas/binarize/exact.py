"""Convolutions of integers that stay integers, whatever precision and algorithm the device would prefer.

Sums of ±1 decide signs, so a rounded one is another network. 16-bit floating point holds integers only up to
a limit, and fast algorithms such as Winograd's compute with fractions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

LARGEST_EXACT = {torch.float16: 2048, torch.bfloat16: 256}
"""All integers up to this magnitude are numbers of the type: 2^11 and 2^8."""

ConvArguments = tuple[int, int, int, int]
"""Stride, padding, dilation, groups."""


def is_autocast_on(device_type: str) -> bool:
    """Whether an autocast region of that device is active; some kinds of device have none."""
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)


def half_type(device_type: str, largest_sum: float) -> torch.dtype | None:
    """The 16-bit type of the active autocast region if it holds all integers up to this, else None."""
    if not is_autocast_on(device_type):
        return None
    dtype = torch.get_autocast_dtype(device_type)
    return dtype if largest_sum <= LARGEST_EXACT.get(dtype, 0) else None


def convolve_integers(codes: Tensor, kernel: Tensor, largest_sum: float, geometry: ConvArguments) -> Tensor:
    """The convolution of integers held in floating point, exactly.

    Under autocast it runs in 16 bits where these hold every sum, otherwise in float32, and gives float32.
    On CUDA it runs without cuDNN where cuDNN's choice for these sizes is found to be inexact.

    Args:
        codes: (N, C_in, H, W) integers.
        kernel: (C_out, C_in/groups, k, k) integers.
        largest_sum: no sum can be larger in magnitude: terms of a sum × largest product; infinite where
            they are no integers yet, which are then summed in float32.
        geometry: stride, padding, dilation, groups.
    """
    kind = codes.device.type
    if not is_autocast_on(kind):
        return _convolve(codes, kernel, geometry)
    if half_type(kind, largest_sum) is not None:
        # widened at once, because a scale would be multiplied in 16 bits, and rounded
        return _convolve(codes, kernel, geometry).float()
    with outside_autocast(kind) as widened:
        codes, kernel = widened([codes, kernel])
        return _convolve(codes, kernel, geometry)


@contextmanager
def outside_autocast(device_type: str) -> Iterator[Callable[[Sequence[Tensor]], list[Tensor]]]:
    """Inside, nothing is turned into 16 bits; gives a function that widens tensors which have been before."""
    if not is_autocast_on(device_type):
        yield list
        return
    with torch.autocast(device_type, enabled=False):
        yield lambda tensors: [tensor.float() for tensor in tensors]


def _convolve(codes: Tensor, kernel: Tensor, geometry: ConvArguments) -> Tensor:
    stride, padding, dilation, groups = geometry
    if not codes.is_cuda:
        return F.conv2d(codes, kernel, None, stride, padding, dilation, groups)
    dtype = torch.get_autocast_dtype("cuda") if is_autocast_on("cuda") else codes.dtype
    fine = _cudnn_is_exact(codes.device, dtype, tuple(codes.shape[1:]), tuple(kernel.shape), geometry)
    with torch.backends.cudnn.flags(enabled=fine and torch.backends.cudnn.enabled):
        return F.conv2d(codes, kernel, None, stride, padding, dilation, groups)


@cache
def _cudnn_is_exact(
    device: torch.device,
    dtype: torch.dtype,
    image: tuple[int, ...],
    kernel: tuple[int, ...],
    geometry: ConvArguments,
) -> bool:
    """Whether this device convolves ±1 of these sizes without a rounding error; tried once."""
    with torch.no_grad(), torch.autocast("cuda", enabled=False):
        draw = torch.Generator(device).manual_seed(0)
        codes, weight = (
            2 * torch.randint(2, shape, generator=draw, device=device).to(dtype) - 1
            for shape in ((2, *image), kernel)
        )
        sums = F.conv2d(codes, weight, None, *geometry)
        with torch.backends.cudnn.flags(enabled=False):
            expected = F.conv2d(codes.float(), weight.float(), None, *geometry)
        return torch.equal(sums.float(), expected)
