"""The batch-norm without affine parameters against torch's, in float64 and float32."""

import pytest
import torch
from torch import nn

from binas.kernels.batch_norm.plain import PlainBatchNorm2d, is_available

pytestmark = pytest.mark.skipif(not is_available(), reason="numba is not installed")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize("shape", [(64, 16, 16, 16), (33, 7, 19, 21)])
def test_output_gradient_and_statistics_equal_torch(
    dtype: torch.dtype, tolerance: float, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    x = (torch.randn(shape, dtype=torch.float64) * 3 + 5).to(dtype)
    gradient = torch.randn(shape, dtype=torch.float64).to(dtype)
    ours, exact = PlainBatchNorm2d(shape[1]).to(dtype), nn.BatchNorm2d(shape[1], affine=False).double()
    results = []
    for norm, kind in ((ours, dtype), (exact, torch.float64)):
        read = x.to(kind).detach().requires_grad_()
        y = norm(read)
        y.backward(gradient.to(kind))
        assert read.grad is not None
        results.append((y.detach(), read.grad, norm.running_mean, norm.running_var))
    for mine, theirs in zip(*results, strict=True):
        assert float((mine.double() - theirs).abs().max()) <= tolerance * float(theirs.abs().max())
    assert int(ours.num_batches_tracked) == 1


def test_evaluation_uses_running_statistics() -> None:
    norm = PlainBatchNorm2d(4).eval()
    x = torch.randn(64, 4, 32, 32)
    assert torch.equal(norm(x), nn.BatchNorm2d(4, affine=False).eval()(x))


def test_frozen_statistics_stay() -> None:
    norm = PlainBatchNorm2d(4)
    norm.track_running_stats = False
    norm(torch.randn(64, 4, 32, 32) + 3)
    assert torch.equal(norm.running_mean, torch.zeros(4))
