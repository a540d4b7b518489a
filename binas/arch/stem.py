"""What reads the pixels before the first cell: for small images, or down to an eighth for large ones."""

from __future__ import annotations

from torch import Tensor, nn

WHY_STEM = "first layer: binarizing pixels loses most of the image"


def small_stem(in_channels: int, channels: int) -> nn.Sequential:
    """Batch-norm, real-valued 3×3 convolution, ReLU.

    Shape: (N, C, H, W) -> (N, channels, H, W).
    Reference: gistvision/bnas, src/model.py.
    """
    return nn.Sequential(
        nn.BatchNorm2d(in_channels), real_convolution(in_channels, channels, 1, 1), nn.ReLU()
    )


class ImageNetStem(nn.Module):
    """Three real-valued 3×3 convolutions of stride 2; the last two outputs are the first cell's inputs.

    Args:
        in_channels: of the images.
        channels: of both outputs; even.
        groups: of the second and third convolution.
    Shape: (N, C, H, W) -> (N, channels, ⌈H/4⌉, ⌈W/4⌉), (N, channels, ⌈H/8⌉, ⌈W/8⌉).
    Reference: Liu et al., DARTS, arXiv:1806.09055; gistvision/bnas, src/model_imagenet.py.
    """

    def __init__(self, in_channels: int, channels: int, groups: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        half = channels // 2
        self.quarter = nn.Sequential(
            real_convolution(in_channels, half, 2, 1),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            real_convolution(half, channels, 2, groups[0]),
            nn.BatchNorm2d(channels),
        )
        self.eighth = nn.Sequential(
            nn.ReLU(), real_convolution(channels, channels, 2, groups[1]), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        quarter: Tensor = self.quarter(x)
        return quarter, self.eighth(quarter)


def real_convolution(in_channels: int, out_channels: int, stride: int, groups: int = 1) -> nn.Conv2d:
    """A real-valued 3×3 convolution without bias, as first layers are.

    Shape: (N, C_in, H, W) -> (N, C_out, ⌈H/stride⌉, ⌈W/stride⌉).
    """
    conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, groups=groups, bias=False)
    conv.why_real = WHY_STEM  # type: ignore[assignment]
    return conv
