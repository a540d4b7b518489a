"""XNOR-Net's activations: signs with a scale for each place of the output."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from binas.binarize.contract import ACTIVATION_BINARIZERS, ActivationBinarizer, Bases, LayerGeometry
from binas.binarize.options import positive
from binas.binarize.sign import straight_through_sign


@ACTIVATION_BINARIZERS.register("xnor_k")
class XnorK(ActivationBinarizer):
    """Sign with XNOR-Net's map K: how large the input is under the kernel, place by place.

    forward   codes = sign(x); K = A ∗ k, A = mean of |x| over channels, k = 1/(kH·kW) everywhere, with the
              layer's stride, padding (by zeros) and dilation
    backward  sign: 1 if |x| <= window else 0; and exactly through K: d|x|/dx = sign(x)

    Args:
        channels: channels of the input; not used.
        window: half width of the interval in which the gradient of sign passes, or None.
    Shape: (N, C, H, W) -> codes (N, C, H, W), scale K (N, 1, H', W').
    Reference: Rastegari et al., XNOR-Net, arXiv:1603.05279, sec. 3.2, eq. 11.
    Deviation: the paper's backward pass does not mention K. With groups, A is the mean over the channels
        of all groups, so that there is one K.
    """

    paper = "Rastegari et al., XNOR-Net, arXiv:1603.05279"

    def __init__(self, channels: int, window: float | None = 1.0) -> None:
        super().__init__()
        name = "activation binarizer 'xnor_k'"
        self.window = None if window is None else positive(name, "window (null means none)", window)
        self.geometry = LayerGeometry(1, 1, 0, 1, 1, channels, channels)

    def bind(self, geometry: LayerGeometry) -> None:
        self.geometry = geometry

    def forward(self, x: Tensor) -> Bases:
        codes = straight_through_sign(x, self.window)
        # |x| as x·sign(x): its gradient at 0 is then that of the formula
        magnitude = (x * codes.detach()).mean(dim=1, keepdim=True)
        geometry = self.geometry
        size = geometry.kernel_size
        box = x.new_full((1, 1, size, size), 1 / size**2)
        scale = F.conv2d(magnitude, box, None, geometry.stride, geometry.padding, geometry.dilation)
        return [(codes, scale)]
