"""Layout conversions against torch's own, number for number."""

import pytest
import torch

from binas.kernels.layouts.channels_last import channels_first, channels_last, is_available
from binas.kernels.threads import Team

pytestmark = pytest.mark.skipif(not is_available(), reason="numba is not installed")
SHAPES = [
    (3, 16, 8, 8),
    (2, 12, 5, 7),
    (1, 3, 4, 4),
    (40, 16, 32, 32),
    (5, 9, 1, 1),
    (1, 1, 6, 6),
    (2, 20, 3, 9),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_layouts_keep_every_number(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    last = channels_last(x)
    assert torch.equal(last, x) and last.is_contiguous(memory_format=torch.channels_last)
    first = channels_first(last)
    assert torch.equal(first, x) and first.is_contiguous()
    part = last[:, : max(1, shape[1] // 2)]
    assert torch.equal(channels_first(part), part) and channels_first(part).is_contiguous()


def test_the_gradient_goes_back_through_both() -> None:
    x = torch.randn(4, 16, 6, 6, requires_grad=True)
    weight = torch.randn(4, 16, 6, 6)
    (channels_first(channels_last(x) * 2) * weight).sum().backward()
    assert torch.equal(x.grad, 2 * weight)


@pytest.mark.parametrize("parts", [1, 2, 3, 17])
def test_a_team_does_every_part_once_and_tells_errors(parts: int) -> None:
    done: list[int] = []
    with Team() as team:
        team.run(done.append, parts)
        assert sorted(done) == list(range(parts))
        shares: list[int] = []
        team.run_shares(lambda begin, end: shares.extend(range(begin, end)), parts)
        assert sorted(shares) == list(range(parts))
        with pytest.raises(ZeroDivisionError):
            team.run(lambda part: 1 // part, parts)
